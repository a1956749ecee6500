"""Where calls, prices and bills are, and a day added up by the prices of now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Final

import duckdb

from tasks.costs.gpu_hours import GpuHours
from tasks.costs.hosted import HostedDay, read_usage
from tasks.costs.line import UTC as UTC_ZONE
from tasks.costs.line import Rollup
from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rates import Rate
from tasks.costs.rollup import add_up
from tasks.costs.tags import TagLine, add_up_tags
from tasks.costs.usage import FindRates, UsageKey
from tasks.costs.zones import day_window, utc_dates
from tasks.release.model import Release
from tasks.stores.lake import Lake

SETTLE: Final = timedelta(hours=24)
FindRelease = Callable[[str, str], Release | None]
"""Takes an application and a digest; returns None where no such release is registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """Where calls, prices and bills are.

    Attributes:
        lake: Holds the interactions, and takes the bills.
        book: The project's price book.
        find_release: Knows the prices that releases bring along.
        zone: Whose days are billed.
        settle: How long after its end a day stays provisional.
    """

    lake: Lake
    book: PriceBook
    find_release: FindRelease
    zone: str = UTC_ZONE
    settle: timedelta = SETTLE

    def machines(self, dates: Sequence[date]) -> tuple[tuple[date, GpuHours], ...]:
        """Return the self-hosted models of some UTC days."""
        found = [(day, entry) for day in dates for entry in self.book.gpu_hours]
        return tuple((day, entry) for day, entry in found if entry.covers(entry.provider, entry.model, day))


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A day added up by the prices of now, with nothing written."""

    lines: tuple[Rollup, ...]
    tags: tuple[TagLine, ...]
    hosted: tuple[HostedDay, ...]


def compute_day(billing: Billing, day: date, application: str | None = None) -> Computed:
    """Add up one day by the prices of now and write nothing."""
    start, end = day_window(day, billing.zone)
    hosted = _read_hosted(billing, utc_dates(start, end))
    find = rate_finder(billing, hosted)
    with billing.lake.query(start, end, application) as connection:
        lines = add_up(connection, find, f"DATE '{day.isoformat()}'")
        tags = add_up_tags(connection, find, day, lines)
    return Computed(lines=lines, tags=tags, hosted=hosted)


@contextmanager
def open_calls(
    billing: Billing, start: datetime, end: datetime, application: str | None = None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, FindRates]]:
    """Open the calls of a half-open UTC window, with what finds their prices; for ``price_calls`` and exports."""
    hosted = _read_hosted(billing, utc_dates(start, end))
    with billing.lake.query(start, end, application) as connection:
        yield connection, rate_finder(billing, hosted)


def rate_finder(billing: Billing, hosted: Sequence[HostedDay]) -> FindRates:
    """Return what finds the price of a call: the release's, by the hour, a contract's, the book's, the catalogue's."""
    by_the_hour = {(one.day, one.entry.provider, one.entry.model): one for one in hosted}

    @cache
    def find(key: UsageKey) -> tuple[Rate, ...]:
        release = billing.find_release(key.application, key.release_digest) if key.release_digest else None
        own = release.spec.price if release is not None else None
        machines = by_the_hour.get((key.date_utc, key.provider or "", key.model or ""))
        if own is None and machines is not None:
            return machines.rates()
        place = (billing.book, key.provider, key.model, key.date_utc, own)
        return find_rates(*place, team=key.team, tier=key.service_tier, by_hour=True)

    return find


def _read_hosted(billing: Billing, dates: Sequence[date]) -> tuple[HostedDay, ...]:
    """Return what self-hosted models did on whole UTC days, whoever called them."""
    found = []
    for day, entry in billing.machines(dates):
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        with billing.lake.query(start, start + timedelta(days=1)) as connection:
            found.append(HostedDay(day=day, entry=entry, usage=read_usage(connection, entry)))
    return tuple(found)
