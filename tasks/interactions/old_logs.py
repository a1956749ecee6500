"""Log files that are of no more use: closed, and every byte of them in the lake."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Final

from tasks.interactions.counts import Cared
from tasks.interactions.ingest import find_logs, source_of
from tasks.interactions.reading import total_bytes
from tasks.stores.lake import Lake

LOG_FILES: Final = "log files"
"""What they are called beside the tables that were cared for."""


def drop_logs(lake: Lake, folder: Path, before: date, *, dry_run: bool) -> Cared:
    """Delete log files of days before a day of which everything is stored; no writer returns to such a day.

    Only files in a folder named after a UTC day are looked at, as release servers, trackers and receivers write them.

    Args:
        lake: Where they were stored.
        folder: Where all applications log.
        before: The first day whose files stay.
        dry_run: Only count them.

    Returns:
        How many files of those days there were and how many are left; its rows are bytes.
    """
    old = [path for path in (find_logs(folder) if folder.is_dir() else ()) if (day := _day_of(path)) and day < before]
    sources = {path: source_of(path) for path in old}
    offsets, gone, size = lake.offsets(sources.values()), 0, 0
    for path, source in sources.items():
        if offsets[source] != total_bytes(path):
            continue
        gone, size = gone + 1, size + path.stat().st_size
        if not dry_run:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # others are left in it
                path.parent.rmdir()
    return Cared(table=LOG_FILES, files_before=len(old), files_after=len(old) - gone, rows=size)


def _day_of(path: Path) -> date | None:
    try:
        return date.fromisoformat(path.parent.name)
    except ValueError:
        return None
