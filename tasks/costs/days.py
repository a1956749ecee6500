"""Days of usage: rolled up in the lake, and judged by the budgets of the releases.

A day is written in an order that may be cut at any point: its lines, its tags, its machines, and at last its editions,
which say what the lines were made of. Whoever finds editions that do not fit rolls the day up again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Final

import pyarrow as pa

from tasks.budgets.budget import release_budget
from tasks.budgets.state import bill_state, check_state
from tasks.costs.billing import Billing, Computed, FindRelease, compute_day
from tasks.costs.closing import DayRecord, days_table, edit_day, lines_digest, make_record, needs_roll_up, read_days
from tasks.costs.hosted import hosted_table
from tasks.costs.line import UTC as UTC_ZONE
from tasks.costs.line import Rollup, as_table, read_rollups
from tasks.costs.tags import TagLine, read_tags, tags_table
from tasks.costs.zones import day_window, find_zone, utc_dates
from tasks.errors import InputError
from tasks.monitors.verdict import Check

ROLLUPS: Final = "cost_rollups"
TAGS: Final = "cost_tags"
HOSTED: Final = "cost_hosted"
DAYS: Final = "cost_days"
Editions = Mapping[str, tuple[DayRecord, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayBill:
    """What one day cost.

    Attributes:
        lines: In the order of their keys.
        records: The newest edition of each application.
        is_new: Whether anything was written.
    """

    zone: str
    day: date
    lines: tuple[Rollup, ...]
    records: tuple[DayRecord, ...]
    is_new: bool


@dataclass(frozen=True, slots=True)
class ReleaseBudget:
    """One release's budget check of one day."""

    day: date
    application: str
    release: str
    check: Check


@dataclass(frozen=True, slots=True)
class CostReport:
    """What some days cost, and whether each release kept to its budget."""

    bills: tuple[DayBill, ...]
    budgets: tuple[ReleaseBudget, ...]

    @property
    def rollups(self) -> tuple[Rollup, ...]:
        """The lines of all days."""
        return tuple(line for bill in self.bills for line in bill.lines)


def list_days(start: date | None, days: int, now: datetime, zone: str = UTC_ZONE) -> tuple[date, ...]:
    """Return the days that follow each other from ``start``, or that end yesterday in a time zone.

    Raises:
        InputError: One of them has not begun: a rollup of it would say that nothing was spent.
    """
    today = now.astimezone(find_zone(zone)).date()
    first = start or today - timedelta(days=days)
    last = first + timedelta(days=days - 1)
    if last > today:
        raise InputError.of("days", f"{first} to {last}", f"days until today, {today} in {zone}")
    return tuple(first + timedelta(days=index) for index in range(days))


def roll_up_day(
    billing: Billing, day: date, application: str | None = None, *, now: datetime, force: bool = False
) -> DayBill:
    """Roll up one day and put the result in the place of that day's earlier one.

    Args:
        billing: Where calls, prices and bills are.
        day: Of the billing's zone.
        application: What users call; None is every application. Where machines are paid by the hour, every
            application is rolled up in any case, because they share them.
        now: The present.
        force: Also days that are closed and whose calls are as they were; a new price then restates them.

    Returns:
        The lines in the order of their keys. A closed day whose calls did not change is not written again.
    """
    if billing.machines(utc_dates(*day_window(day, billing.zone))):
        application = None
    place = _Place(billing, day, application)
    editions, old = read_days(place.read(DAYS)), read_bill(billing, day, application)
    tokens = _tokens(place, editions)
    stale = {
        name
        for name, token in tokens.items()
        if force or needs_roll_up(editions.get(name, ()), token, lines_digest(_of(old, name)))
    }
    if not stale:
        return _bill(place, old, editions, is_new=False)
    computed = compute_day(billing, day, application)
    lines = [line for line in old if line.key.application not in stale]
    lines = sorted(lines + [line for line in computed.lines if line.key.application in stale], key=_order)
    made = [make_record(billing.zone, day, name, _of(lines, name), tokens[name]) for name in sorted(stale)]
    edited = {**editions, **{record.application: _edit(place, editions, record, now) for record in made}}
    _write(place, lines, computed, stale)
    place.write(DAYS, days_table([edition for name in sorted(edited) for edition in edited[name]]))
    return _bill(place, lines, edited, is_new=True)


def read_bill(billing: Billing, day: date, application: str | None = None) -> tuple[Rollup, ...]:
    """Return the stored lines of a day in the order of their keys; none where it was never rolled up."""
    table = _Place(billing, day, application).read(ROLLUPS)
    return () if table is None else tuple(sorted(read_rollups(table), key=_order))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the lake the bill of a day is."""

    billing: Billing
    day: date
    application: str | None

    def keys(self) -> dict[str, str]:
        mine = {} if self.application is None else {"application": self.application}
        return {"zone": self.billing.zone, "day": self.day.isoformat(), **mine}

    def read(self, table: str) -> pa.Table | None:
        return self.billing.lake.read(table, self.keys())

    def write(self, table: str, rows: pa.Table) -> None:
        self.billing.lake.replace(table, self.keys(), rows)


def _tokens(place: _Place, editions: Editions) -> dict[str, str]:
    """Return what tells whether the calls of each application changed; read before the calls are."""
    lake, (start, end) = place.billing.lake, day_window(place.day, place.billing.zone)
    dates = utc_dates(start, end)
    names = set(editions) | ({place.application} if place.application is not None else set())
    if place.application is None:
        with lake.query(start, end) as connection:
            found = connection.sql("SELECT DISTINCT application FROM interactions").fetchall()
        names |= {name for (name,) in found}
    shared = bool(place.billing.machines(dates))
    tokens = {name: [lake.day_token(day, None if shared else name) for day in dates] for name in names}
    return {name: " ".join(token or "none" for token in found) for name, found in tokens.items()}


def _edit(place: _Place, editions: Editions, found: DayRecord, now: datetime) -> tuple[DayRecord, ...]:
    end = day_window(place.day, place.billing.zone)[1]
    before = editions.get(found.application, ())
    return edit_day(before, found, end=end, now=now, settle=place.billing.settle)


def _write(place: _Place, lines: Sequence[Rollup], computed: Computed, stale: set[str]) -> None:
    zone = place.billing.zone
    place.write(ROLLUPS, as_table(lines, zone))
    stored = place.read(TAGS)
    tags: list[TagLine] = [] if stored is None else list(read_tags(stored))
    tags = [line for line in tags if line.application not in stale]
    tags += [line for line in computed.tags if line.application in stale]
    place.write(TAGS, tags_table(sorted(tags, key=lambda line: (line.application, line.tag or "")), zone))
    if computed.hosted and zone == UTC_ZONE:
        place.billing.lake.replace(HOSTED, {"day": place.day.isoformat()}, hosted_table(computed.hosted, lines))


def _bill(place: _Place, lines: Sequence[Rollup], editions: Editions, *, is_new: bool) -> DayBill:
    newest = tuple(editions[name][-1] for name in sorted(editions) if editions[name])
    return DayBill(zone=place.billing.zone, day=place.day, lines=tuple(lines), records=newest, is_new=is_new)


def _of(lines: Sequence[Rollup], application: str) -> list[Rollup]:
    return [line for line in lines if line.key.application == application]


def _order(line: Rollup) -> tuple[tuple[bool, object], ...]:
    return line.key.order()


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
    stood = (
        (day, application, release.label, bill_state(release_budget(release), day, group))
        for (day, application, _), group, release in found
        if release is not None
    )
    return tuple(
        ReleaseBudget(day, application, label, check_state(state))
        for day, application, label, state in stood
        if state is not None
    )


def _of_release(line: Rollup) -> tuple[date, str, str]:
    return line.key.day, line.key.application, line.key.release_digest or ""
