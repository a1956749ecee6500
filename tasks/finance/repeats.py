"""The same usage given twice: pages that overlap, files of overlapping days, one file under two names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError

if TYPE_CHECKING:
    from tasks.finance.provider_reports import Entry, ProviderReport


def refuse_repeated_days(reports: Sequence[ProviderReport], days: frozenset[date]) -> None:
    """Refuse reports that say the same of a day: added up, its usage would count twice.

    Raises:
        InputError: Two do.
    """
    seen: set[tuple[date, tuple[Entry, ...]]] = set()
    for report in reports:
        for day in sorted(days):
            entries = tuple(entry for entry in report.entries if entry.day == day)
            if entries and (day, entries) in seen:
                raise InputError(
                    f"{day}: two reports say the same of it, and its usage would count twice; give each report once, "
                    f"and files whose days do not overlap"
                )
            seen.add((day, entries))


def each_once(buckets: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """Yield the buckets of a file; one that says something may stand there once.

    Raises:
        InputError: One stands there twice, as where pages overlap.
    """
    seen: dict[str, int] = {}
    for index, bucket in enumerate(buckets):
        text = json.dumps(bucket, sort_keys=True, default=str)
        first = seen.setdefault(text, index)
        if first != index and bucket.get("results"):
            raise InputError(f"{path}: bucket {index} is bucket {first} again; give each page once")
        yield bucket
