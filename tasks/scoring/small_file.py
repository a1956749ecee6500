"""A small SQLite file that threads and processes share, with one table of its owner's."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Self

from tasks.errors import InputError


class SmallFile:
    """An open file; who extends it says its table.

    Args:
        path: The file, in a folder that is there. None keeps it in memory.
        statements: What makes it ready; run each time it is opened.
        lacks: What it is not, where it cannot be used, as the error says it.
        cure: What to do then.

    Raises:
        InputError: It is another file.
    """

    def __init__(self, path: Path | None, *statements: str, lacks: str, cure: str) -> None:
        self._lock = threading.Lock()
        place = ":memory:" if path is None else path
        self._connection = sqlite3.connect(place, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            for statement in ("PRAGMA journal_mode=WAL", *statements):
                self._connection.execute(statement)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InputError(f"{path}: {lacks} ({type(error).__name__}); {cure}") from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
