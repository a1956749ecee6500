"""What an ingestion came to: counts that add up, by file and in total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Content:
    """How many interactions of one day, application and model there were."""

    date_utc: date
    application: str
    model: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class SourceCount:
    """What was read from one file; ``read`` is the sum of ``stored``, ``duplicates`` and ``rejected``.

    Attributes:
        path: The file.
        read: Interactions, feedback and lines that could not be read.
        stored: Interactions and feedback that were stored.
        duplicates: Those whose id was stored before.
        rejected: Lines that could not be read, and interactions in batches that were set aside.
        set_aside: The latter of these.
        batches: What was set aside: the batch's id and what does not hold of it.
        contents: Of a dry run, what would have been stored.
    """

    path: Path
    read: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    set_aside: int = 0
    batches: tuple[tuple[str, tuple[str, ...]], ...] = ()
    contents: tuple[Content, ...] = field(default=())

    def plus(self, other: SourceCount) -> SourceCount:
        """Return the counts of both, of this one's file."""
        return SourceCount(
            self.path,
            self.read + other.read,
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.rejected + other.rejected,
            self.set_aside + other.set_aside,
            self.batches + other.batches,
            add_contents(self.contents + other.contents),
        )


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingestion read, by file in the order of their paths."""

    sources: tuple[SourceCount, ...]

    @property
    def read(self) -> int:
        """Interactions, feedback and lines that could not be read; blank lines do not count."""
        return sum(source.read for source in self.sources)

    @property
    def stored(self) -> int:
        """Interactions and feedback that were stored."""
        return sum(source.stored for source in self.sources)

    @property
    def duplicates(self) -> int:
        """Interactions and feedback whose id was stored before."""
        return sum(source.duplicates for source in self.sources)

    @property
    def rejected(self) -> int:
        """Lines and interactions that were set aside with their reason."""
        return sum(source.rejected for source in self.sources)

    @property
    def set_aside(self) -> int:
        """The interactions in batches that were set aside."""
        return sum(source.set_aside for source in self.sources)

    @property
    def contents(self) -> tuple[Content, ...]:
        """Of a dry run, what would have been stored."""
        return add_contents([content for source in self.sources for content in source.contents])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cared:
    """What was done to one table, or would be.

    Attributes:
        table: Its name.
        files_before: Files that were looked at and had to change.
        files_after: Files in their place.
        rows: Rows that were deleted or emptied.
    """

    table: str
    files_before: int = 0
    files_after: int = 0
    rows: int = 0


def contents_of(rows: pa.Table) -> tuple[Content, ...]:
    """Return how many rows there are of each day, application and model, in this order."""
    keys = ["date_utc", "application", "model"]
    grouped = rows.select(keys).group_by(keys).aggregate([([], "count_all")])
    return add_contents(
        [Content(row["date_utc"], row["application"], row["model"], row["count_all"]) for row in grouped.to_pylist()]
    )


def add_contents(contents: Sequence[Content]) -> tuple[Content, ...]:
    """Return the sums, in the order of day, application and model."""
    sums: dict[tuple[date, str, str | None], int] = {}
    for one in contents:
        key = (one.date_utc, one.application, one.model)
        sums[key] = sums.get(key, 0) + one.rows
    ordered = sorted(sums.items(), key=lambda item: (item[0][:2], item[0][2] or ""))
    return tuple(Content(*key, rows) for key, rows in ordered)
