"""The folder through which a parent and the shards it sent out hand each other things: orders, results, signs of life.

Everything is written whole or not at all, under a name that follows from the order, so that a shard that is done twice
leaves one result. Nothing in it is run when it is read. Clocks are not compared: a sign of life is a number that grows.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from tasks.errors import NotFoundError
from tasks.shards.orders import IngestionOrder, ScoringOrder, order_key, read_order, write_order

OrderName = Annotated[str, Field(pattern=r"^[0-9a-f-]{36}/[0-9a-f]{32}$")]
"""The parent's flow run and the order's digest."""
BEAT_S: Final = 1.0
"""How often a shard gives a sign of life."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The hand-over of all parents.

    Args:
        folder: Seen by the parent and by every worker; made where it is not there, readable by its owner only.
    """

    folder: Path

    def put_order(self, parent: str, order: ScoringOrder | IngestionOrder) -> str:
        """Write an order and return its name."""
        name = f"{parent}/{order_key(order)}"
        for folder in (self.folder, self.folder / parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._path(name, "order"), write_order(order).encode())
        return name

    def order(self, name: str) -> ScoringOrder | IngestionOrder:
        """Return an order.

        Raises:
            NotFoundError: There is none of this name, or not in the folder that this process sees.
        """
        path = self._path(name, "order")
        try:
            return read_order(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            text = f"{path} is not there: its parent has ended, or this worker has another state folder"
            raise NotFoundError(f"{text}; mount the parent's") from None

    def put_result(self, name: str, result: bytes) -> None:
        """Write what an order came to; a second time changes nothing that a reader could see."""
        with suppress(FileNotFoundError):  # the parent has ended, and nobody reads it
            _write(self._path(name, "result"), result)

    def result(self, name: str) -> bytes | None:
        """Return what an order came to; None while it is not done."""
        with suppress(FileNotFoundError):
            return self._path(name, "result").read_bytes()
        return None

    def is_done(self, name: str) -> bool:
        """Return whether there is a result."""
        return self._path(name, "result").exists()

    def beat(self, name: str, attempt: int) -> int:
        """Return the last sign of life of an attempt: a number that grows; 0 before the first."""
        with suppress(FileNotFoundError, ValueError):
            return int(self._path(name, f"{attempt}.beat").read_text(encoding="ascii"))
        return 0

    @contextmanager
    def beating(self, name: str, attempt: int, every_s: float = BEAT_S) -> Iterator[None]:
        """Give signs of life while the block runs."""
        ended, path = threading.Event(), self._path(name, f"{attempt}.beat")

        def beat() -> None:
            number = self.beat(name, attempt)
            while True:
                number += 1
                with suppress(OSError):  # a full disk or a gone parent: silence says it
                    _write(path, b"%d" % number)
                if ended.wait(every_s):
                    return

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def clear(self, names: list[str]) -> None:
        """Delete everything about some orders."""
        for name in names:
            place = self._path(name, "")
            for path in place.parent.glob(f"{place.name}*"):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # others are still in it
                place.parent.rmdir()

    def sweep(self, before: float) -> int:
        """Delete what parents left that never came to their end, and return how many there were.

        Args:
            before: Folders that have not changed since then, seconds since 1970.
        """
        swept = 0
        for parent in self.folder.iterdir() if self.folder.exists() else ():
            with suppress(OSError):
                if parent.stat().st_mtime < before:
                    shutil.rmtree(parent)
                    swept += 1
        return swept

    def _path(self, name: str, kind: str) -> Path:
        parent, _, key = name.partition("/")
        return self.folder / parent / f"{key}.{kind}"


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
