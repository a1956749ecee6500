"""Days of usage: rolled up in the lake, and judged by the budgets of the releases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

from tasks.costs.budget import check_budget
from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rollup import ROLLUP_SCHEMA, Rollup, UsageKey, find_usage_keys, read_rollups, roll_up
from tasks.monitors.verdict import Check
from tasks.release.model import Price, Release
from tasks.stores.lake import Lake

ROLLUPS = "rollups"
FindRelease = Callable[[str, str], Release | None]
"""Takes an application and a digest; returns None where no such release is registered."""


@dataclass(frozen=True, slots=True)
class ReleaseBudget:
    """One release's budget check of one UTC day."""

    date_utc: date
    application: str
    release: str
    check: Check


@dataclass(frozen=True, slots=True)
class CostReport:
    """What some UTC days cost, and whether each release kept to its budget."""

    rollups: tuple[Rollup, ...]
    budgets: tuple[ReleaseBudget, ...]


def list_days(start: date | None, days: int, now: datetime) -> tuple[date, ...]:
    """Return the UTC days that follow each other from ``start``, or that end yesterday."""
    first = start or now.astimezone(UTC).date() - timedelta(days=days)
    return tuple(first + timedelta(days=index) for index in range(days))


def roll_up_day(
    lake: Lake, book: PriceBook, find_release: FindRelease, day: date, application: str | None = None
) -> tuple[Rollup, ...]:
    """Roll up one UTC day and put the result in the place of that day's earlier one.

    Args:
        lake: Holds the interactions, and takes the rollup.
        book: The project's price book.
        find_release: Knows the prices that releases bring along.
        day: UTC.
        application: What users call; None rolls up every application.

    Returns:
        The lines in the order of their keys.
    """
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    with lake.query(start, start + timedelta(days=1), application) as connection:
        releases = {key: _release(find_release, key) for key in find_usage_keys(connection)}
        rates = {key: find_rates(book, key.provider, key.model, day, _price(found)) for key, found in releases.items()}
        table = roll_up(connection, rates)
    keys = {"date_utc": day.isoformat()} | ({"application": application} if application is not None else {})
    lake.replace(ROLLUPS, keys, table.cast(ROLLUP_SCHEMA))
    return read_rollups(table)


def check_budgets(rollups: Sequence[Rollup], find_release: FindRelease) -> tuple[ReleaseBudget, ...]:
    """Hold each registered release's cost of each day against its budget; usage of no known release has none.

    Args:
        rollups: Lines of any days.
        find_release: Knows the budgets.

    Returns:
        One check a day, application and release, in this order.
    """
    lines = sorted((line for line in rollups if line.key.release_digest), key=_of_release)
    grouped = [(key, list(group)) for key, group in groupby(lines, key=_of_release)]
    found = [(key, group, find_release(key[1], key[2])) for key, group in grouped]
    return tuple(
        ReleaseBudget(day, application, release.label, check_budget(group, release.spec.monitors.cost_usd_per_day))
        for (day, application, _), group, release in found
        if release is not None
    )


def _of_release(line: Rollup) -> tuple[date, str, str]:
    return line.key.date_utc, line.key.application, line.key.release_digest or ""


def _release(find_release: FindRelease, key: UsageKey) -> Release | None:
    return find_release(key.application, key.release_digest) if key.release_digest else None


def _price(release: Release | None) -> Price | None:
    return release.spec.price if release is not None else None
