"""Whether a day's bill is unusual, and why: from the bills that are stored, of days whose bills are whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from fractions import Fraction

from tasks.budgets.forecast import MAX_DAYS
from tasks.costs.anomaly import Change, check_day_cost, choose_baseline, explain_change
from tasks.costs.billing import Billing
from tasks.costs.closing import read_days
from tasks.costs.days import DAYS, read_bill
from tasks.costs.line import Rollup, known_sum
from tasks.costs.zones import day_window
from tasks.monitors.verdict import Check


def explain_day(billing: Billing, day: date, application: str | None = None) -> tuple[Check, Change | None]:
    """Say whether a day's bill is unusual, and why it differs from that of the median day before it.

    Args:
        billing: Its lake holds the bills, which must be rolled up.
        day: Of the billing's zone.
        application: Whose bill; None is that of every application, of days that were rolled up for all of them.

    Returns:
        The check, and the change from the median one of the earlier days; None where there is none.
    """
    days = [day - timedelta(days=index) for index in range(MAX_DAYS + 1)]
    whole = set(days) if application is not None else _whole_days(billing, days)
    bills = {one: read_bill(billing, one, application) for one in days if one in whole}
    costs = {one: known_sum(line.cost_pusd for line in lines) for one, lines in bills.items()}
    known = {one: cost for one, cost in costs.items() if cost is not None}
    baseline = choose_baseline(known, day)
    change = None if baseline is None or day not in bills else explain_change(bills[baseline], bills[day])
    return check_day_cost(known, day, unknown={one: _unknown(bills[one]) for one in known}), change


def _unknown(lines: Sequence[Rollup]) -> Fraction:
    """Return the share of the calls whose cost is not wholly known."""
    calls = sum(line.requests for line in lines)
    return Fraction(calls - sum(line.priced_requests for line in lines), calls) if calls else Fraction(0)


def _whole_days(billing: Billing, days: Sequence[date]) -> set[date]:
    """Return the days on which every application that has calls in the log has a bill."""
    windows = {day: day_window(day, billing.zone) for day in days}
    start, end = min(one for one, _ in windows.values()), max(one for _, one in windows.values())
    with billing.lake.query(start, end) as connection:
        # A day of any zone begins with a quarter hour.
        quarters = "SELECT DISTINCT application, CAST(floor(epoch(time_utc) / 900) AS BIGINT) FROM interactions"
        called = connection.sql(quarters).fetchall()
    found = set()
    for day, window in windows.items():
        first, last = (int(time.timestamp()) // 900 for time in window)
        billed = read_days(billing.lake.read(DAYS, {"zone": billing.zone, "day": day.isoformat()}))
        if {name for name, quarter in called if first <= quarter < last} <= set(billed):
            found.add(day)
    return found
