"""Budgets of the present: today's calls priced now, earlier days from a small table, alerts each told once.

What a budget counted on an earlier day is kept by quarter hours, with a token of the day's calls and a digest of the
budget; where either changed, it is counted again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from tasks.budgets.budget import Budget, BudgetBook, release_budget
from tasks.budgets.forecast import MAX_DAYS, PastDay
from tasks.budgets.spend import (
    QUARTER,
    Charge,
    Spend,
    charge,
    charge_quarters,
    read_spend,
    spent_by,
)
from tasks.budgets.state import Alert, AlertKind, BudgetState, Moment, check_state, day_state, month_state
from tasks.costs.billing import Billing, open_calls
from tasks.costs.pricing import price_calls
from tasks.costs.usage import find_usage_keys
from tasks.costs.zones import day_window, find_zone, utc_dates
from tasks.monitors.verdict import Outcome
from tasks.stores.lake import Lake

CURVES: Final = "budget_curves"
ALERTS: Final = "budget_alerts"
Window = tuple[datetime, datetime]
LATE_DAYS: Final = 2
"""So many days that are over are looked at again."""
_HOUR: Final = timedelta(hours=1)
_MONEY: Final = pa.decimal128(38, 0)
_COUNTS: Final = ("calls", "at_ceiling", "unknown")
_SUMS: Final = ("known_pusd", "estimated_pusd", "ceiling_pusd")
CURVES_SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("budget", "day", "token")),
        pa.field("quarters_pusd", pa.list_(_MONEY), nullable=False),
        *(pa.field(name, _MONEY, nullable=False) for name in _SUMS),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
    ]
)
"""One row a budget and earlier day: what counted against it in each quarter hour."""
ALERTS_SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("budget", "period", "alert_id", "kind")),
        pa.field("share", pa.string()),
        pa.field("statement", pa.string(), nullable=False),
        pa.field("told_utc", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
"""One row an alert that somebody was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """What counted against a budget on an earlier day."""

    day: date
    quarters: tuple[int, ...]
    charge: Charge

    def by(self, elapsed: timedelta) -> PastDay:
        return PastDay(day=self.day, spent_pusd=spent_by(self.quarters, elapsed), total_pusd=self.charge.total_pusd)


def watch_budgets(billing: Billing, book: BudgetBook, now: datetime) -> tuple[BudgetState, ...]:
    """Return where every budget stands, those of the releases that answered today behind those of the book.

    Args:
        billing: Where calls and prices are; its zone is that of the book's.
        book: The budgets.
        now: The present, with a time zone.

    Returns:
        For each budget the day, then the month, if it limits them, then those of the last ``LATE_DAYS`` days that broke
        it: calls come late, and nobody may have heard. Earlier days are counted once and then kept.
    """
    moment = find_moment(book.timezone, now)
    spends = _read_window(billing, moment.start, min(moment.now, moment.end))
    recent = _read_window(billing, max(moment.start, moment.now - _HOUR), min(moment.now, moment.end))
    budgets = (*book.budgets, *_release_budgets(billing, spends))
    curves = _curves(billing, book.timezone, budgets, _earlier_days(moment.day))
    states: list[BudgetState | None] = []
    for budget in budgets:
        elapsed = min(moment.now, moment.end) - moment.start
        past = [curve.by(elapsed) for curve in curves[budget.name]]
        this_month = [curve.charge for curve in curves[budget.name] if curve.day >= moment.day.replace(day=1)]
        charged, hour = charge(budget, spends), charge(budget, recent).total_pusd
        states.append(day_state(budget, moment, charged, hour, _known(past)))
        states.append(month_state(budget, moment, charged, hour, _known(past), before=sum(this_month, Charge())))
        states += _broken_days(budget, book.timezone, curves[budget.name][-LATE_DAYS:])
    return tuple(state for state in states if state is not None)


def _broken_days(budget: Budget, zone: str, curves: Sequence[_Curve]) -> Iterator[BudgetState]:
    """Yield where a budget stood at the end of the days that broke it."""
    for curve in curves:
        start, end = day_window(curve.day, zone)
        moment = Moment(day=curve.day, start=start, end=end, now=end)
        state = day_state(budget, moment, curve.charge, 0, ())
        if state is not None and check_state(state).outcome is Outcome.FAIL:
            yield state


def find_moment(zone: str, now: datetime) -> Moment:
    """Return the day of a zone that a moment belongs to."""
    day = now.astimezone(find_zone(zone)).date()
    start, end = day_window(day, zone)
    return Moment(day=day, start=start, end=end, now=now)


def tell_alerts(lake: Lake, alerts: Sequence[Alert], now: datetime, tell: Callable[[Alert], None]) -> tuple[Alert, ...]:
    """Tell the alerts that nobody was told yet, and remember them.

    Told first and remembered then: after a kill between the two an alert is told again, with the same id.

    Args:
        lake: Remembers.
        alerts: What there is to tell.
        now: The present.
        tell: Tells one.

    Returns:
        Those that were told now.
    """
    told = []
    for alert in alerts:
        keys = {"budget": alert.budget, "period": alert.period}
        known = lake.read(ALERTS, keys)
        rows: list[dict[str, Any]] = [] if known is None else known.to_pylist()
        if any(row["alert_id"] == alert.alert_id for row in rows):
            continue
        tell(alert)
        rows.append(_alert_row(alert, now))
        lake.replace(ALERTS, keys, pa.Table.from_pylist(rows, schema=ALERTS_SCHEMA))
        told.append(alert)
    return tuple(told)


def _alert_row(alert: Alert, now: datetime) -> dict[str, Any]:
    return {
        "budget": alert.budget,
        "period": alert.period,
        "alert_id": alert.alert_id,
        "kind": str(AlertKind(alert.kind)),
        "share": None if alert.share is None else f"{alert.share:f}",
        "statement": alert.statement,
        "told_utc": now,
    }


def _known(past: Sequence[PastDay]) -> list[PastDay]:
    """Return the earlier days from the first that cost anything: before it the project was not there."""
    first = min((one.day for one in past if one.total_pusd), default=None)
    return [one for one in past if first is not None and one.day >= first]


def _earlier_days(day: date) -> list[date]:
    first = min(day.replace(day=1), day - timedelta(days=MAX_DAYS))
    return [first + timedelta(days=index) for index in range((day - first).days)]


def _read_window(billing: Billing, start: datetime, until: datetime) -> tuple[Spend, ...]:
    if start >= until:
        return ()
    with open_calls(billing, start, until) as (connection, find):
        price_calls(connection, find_usage_keys(connection), find)
        return read_spend(connection, start, until)


def _release_budgets(billing: Billing, spends: Sequence[Spend]) -> tuple[Budget, ...]:
    answered = sorted({(spend.application, spend.release) for spend in spends if spend.release is not None})
    found = [billing.find_release(application, release) for application, release in answered if release is not None]
    return tuple(release_budget(release) for release in found if release is not None)


def _curves(billing: Billing, zone: str, budgets: Sequence[Budget], days: Sequence[date]) -> dict[str, list[_Curve]]:
    """Return what counted against each budget on each of the days; what changed since it was kept is counted again."""
    windows = {day: day_window(day, zone) for day in days}
    tokens = _tokens(billing, zone, budgets, windows)
    kept = _kept(billing)
    stale = {
        (name, day) for (name, day), token in tokens.items() if kept.get(name, {}).get(day, {}).get("token") != token
    }
    spends = _read_days(billing, {day: windows[day] for day in sorted({day for _, day in stale})})
    found: dict[str, list[_Curve]] = {}
    for budget in budgets:
        name = budget.name
        found[name] = [
            _count(budget, day, windows[day], spends[day]) if (name, day) in stale else _curve(kept[name][day])
            for day in days
        ]
        if any((name, day) in stale for day in days):
            rows = [_curve_row(name, tokens[name, curve.day], curve) for curve in found[name]]
            billing.lake.replace(CURVES, {"budget": name}, pa.Table.from_pylist(rows, schema=CURVES_SCHEMA))
    return found


def _tokens(
    billing: Billing, zone: str, budgets: Sequence[Budget], windows: Mapping[date, Window]
) -> dict[tuple[str, date], str]:
    """Return what changes if the calls of a day, the price book, or what a budget counts do."""
    prices = hashlib.sha256(repr(billing.book).encode()).hexdigest()
    calls = {
        day: [billing.lake.day_token(one) or "none" for one in utc_dates(*window)] for day, window in windows.items()
    }
    counted = {budget.name: without_limits(budget).model_dump_json() for budget in budgets}
    return {
        (name, day): hashlib.sha256("\n".join((zone, prices, plain, *calls[day])).encode()).hexdigest()
        for name, plain in counted.items()
        for day in windows
    }


def _kept(billing: Billing) -> dict[str, dict[date, dict[str, Any]]]:
    table = billing.lake.read(CURVES)
    found: dict[str, dict[date, dict[str, Any]]] = {}
    for row in [] if table is None else table.to_pylist():
        found.setdefault(row["budget"], {})[date.fromisoformat(row["day"])] = row
    return found


def _read_days(billing: Billing, windows: Mapping[date, Window]) -> dict[date, list[Spend]]:
    """Return the calls of some days, read in one pass, each day's quarter hours counted from its start."""
    if not windows:
        return {}
    start, until = min(one for one, _ in windows.values()), max(one for _, one in windows.values())
    found: dict[date, list[Spend]] = {day: [] for day in windows}
    bounds = [(day, (one - start) // QUARTER, (two - start) // QUARTER) for day, (one, two) in windows.items()]
    for spend in _read_window(billing, start, until):
        for day, first, after in bounds:
            if first <= spend.quarter < after:
                found[day].append(replace(spend, quarter=spend.quarter - first))
    return found


def without_limits(budget: Budget) -> Budget:
    """Return a budget without what does not change what counts against it."""
    one = Decimal(1)
    return budget.model_copy(update={"budget_per_day_usd": one, "budget_per_month_usd": None, "alert_at": (one,)})


def _count(budget: Budget, day: date, window: Window, spends: Sequence[Spend]) -> _Curve:
    quarters = (window[1] - window[0]) // QUARTER
    return _Curve(day=day, quarters=charge_quarters(budget, spends, quarters), charge=charge(budget, spends))


def _curve_row(name: str, token: str, curve: _Curve) -> dict[str, Any]:
    row: dict[str, Any] = {"budget": name, "day": curve.day.isoformat(), "token": token}
    row["quarters_pusd"] = [Decimal(value) for value in curve.quarters]
    row |= {field: Decimal(getattr(curve.charge, field)) for field in _SUMS}
    return row | {field: getattr(curve.charge, field) for field in _COUNTS}


def _curve(row: dict[str, Any]) -> _Curve:
    numbers = {field: int(row[field]) for field in (*_SUMS, *_COUNTS)}
    quarters = tuple(int(value) for value in row["quarters_pusd"])
    return _Curve(day=date.fromisoformat(row["day"]), quarters=quarters, charge=replace(Charge(), **numbers))
