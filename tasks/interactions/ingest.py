"""Log files into the lake: every complete line once, whatever was killed, repeated or run twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.errors import NotFoundError
from tasks.interactions.reading import file_identity, read_batches
from tasks.interactions.schema import as_table, rejected_table
from tasks.stores.lake import Lake

Progress = Callable[[Path, int], None]
"""Told of a file and how many of its bytes have been stored, after each batch."""


@dataclass(frozen=True, slots=True)
class SourceCount:
    """What was read from one file; ``read`` is the sum of the other three."""

    path: Path
    read: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingestion read, by file in the order of their paths."""

    sources: tuple[SourceCount, ...]

    @property
    def read(self) -> int:
        """Lines that were read; blank ones do not count."""
        return sum(source.read for source in self.sources)

    @property
    def stored(self) -> int:
        """Interactions that were stored."""
        return sum(source.stored for source in self.sources)

    @property
    def duplicates(self) -> int:
        """Interactions whose id was stored before."""
        return sum(source.duplicates for source in self.sources)

    @property
    def rejected(self) -> int:
        """Lines that were set aside with their reason."""
        return sum(source.rejected for source in self.sources)


def find_logs(place: Path) -> tuple[Path, ...]:
    """Return a log file, or every ``*.jsonl`` under a folder, in the order of their paths.

    Raises:
        NotFoundError: The path names nothing.
    """
    if place.is_file():
        return (place,)
    if not place.is_dir():
        raise NotFoundError(f"{place} is neither a file nor a folder; give one that holds *.jsonl")
    return tuple(sorted(path for path in place.rglob("*.jsonl") if path.is_file()))


def ingest_folder(lake: Lake, folder: Path, now: datetime, progress: Progress | None = None) -> Ingested:
    """Store what every ``*.jsonl`` under a folder holds beyond what is stored; a missing folder holds nothing.

    Args:
        lake: Where to.
        folder: Where from.
        now: When the lines were seen.
        progress: Told after each batch.
    """
    sources = {path: file_identity(path) for path in (find_logs(folder) if folder.exists() else ())}
    offsets = lake.offsets(sources.values())
    # A file of which every byte is stored costs nothing more: most of them are closed for good.
    return Ingested(
        tuple(
            ingest_file(lake, path, now, progress) if path.stat().st_size != offsets[source] else SourceCount(path)
            for path, source in sources.items()
        )
    )


def ingest_file(lake: Lake, path: Path, now: datetime, progress: Progress | None = None) -> SourceCount:
    """Store what a log file holds beyond what is stored.

    Lines that another writer stores meanwhile are in that writer's count.

    Raises:
        ConflictError: Other writers were faster every time.
    """
    source, counted = file_identity(path), SourceCount(path)
    while True:
        expected = lake.offset(source)
        # A file shorter than what was read of it was written anew: its ids tell what is stored already.
        begin = expected if expected <= path.stat().st_size else 0
        for batch in read_batches(path, begin):
            appended = lake.append(
                source,
                expected=expected,
                offset=batch.end,
                interactions=as_table(batch.interactions),
                rejected=rejected_table(source, batch.rejects, now),
            )
            if appended is None:
                break
            expected = batch.end
            counted = SourceCount(
                path,
                counted.read + batch.read,
                counted.stored + appended.stored,
                counted.duplicates + appended.duplicates,
                counted.rejected + appended.rejected,
            )
            if progress:
                progress(path, batch.end)
        else:
            return counted
