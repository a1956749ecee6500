"""Half a night: hours that have hardly a call although they usually have many, or half the calls of all hours.

Usual is the (upper) median of the same hour on the days before, of those of the same kind (weekday or weekend) where
there are ``FEWEST_DAYS`` of them. An application's first night has nothing to be compared with; its report says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median_high
from typing import Final

from tasks.evaluation.window import HOUR, Window
from tasks.monitors.verdict import Check, Outcome

LOOK_BACK_DAYS: Final = 28
FEWEST_DAYS: Final = 3
BUSY: Final = 20
"""An hour with fewer calls than this on a usual day may be empty by chance."""
EMPTY: Final = 0.1
"""An hour with less than this share of its usual calls is missing."""
MAX_MISSING: Final = 0.2
"""So much of the usual calls may be in missing hours, 0 to 1."""
FEWEST: Final = 0.5
"""A window with less than this share of its usual calls has lost some, wherever they are missing."""
_SATURDAY: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """The calls of each hour of a window, the usual ones, and what follows; None where nothing is usual yet."""

    calls: Mapping[datetime, int]
    usual: Mapping[datetime, float]
    coverage: Check | None


def usual_calls(before: Mapping[datetime, int], window: Window) -> dict[datetime, float]:
    """Return how many calls each hour of a window usually has, of a part of one as much; nothing without a day before.

    Args:
        before: Calls of each hour that was stored, by its first moment, UTC; hours within the window are passed over.
        window: What is looked at.
    """
    days: dict[datetime, dict[int, int]] = defaultdict(dict)
    for hour, calls in before.items():
        if window.start - timedelta(days=LOOK_BACK_DAYS) <= hour < window.start:
            days[_day(hour)][hour.hour] = calls
    usual = {}
    for hour in window.hours():
        same = [found for day, found in days.items() if _is_weekend(day) == _is_weekend(hour)]
        same = same if len(same) >= FEWEST_DAYS else list(days.values())
        if same:
            part = (min(hour + HOUR, window.end) - max(hour, window.start)) / HOUR
            usual[hour] = part * median_high(found.get(hour.hour, 0) for found in same)
    return usual


def check_coverage(tonight: Mapping[datetime, int], usual: Mapping[datetime, float]) -> Check | None:
    """Hold the calls of each hour against the usual ones.

    Args:
        tonight: Calls of each hour that has any, by its first moment, UTC.
        usual: The usual calls of each hour of the window.

    Returns:
        The check, ``inconclusive`` where too much is missing, in whole hours or evenly; None: nothing is usual yet.
    """
    expected, n = sum(usual.values()), sum(tonight.values())
    if expected < BUSY:
        return None
    missing = [hour for hour, calls in usual.items() if calls >= BUSY and tonight.get(hour, 0) < EMPTY * calls]
    share = sum(usual[hour] for hour in missing) / expected
    beyond, few = share > MAX_MISSING, n < FEWEST * expected
    all_told = f", and all hours have {n / expected:.0%} of the calls < minimum {FEWEST:.0%}" if few else ""
    statement = (
        f"coverage: {len(missing)} of {len(usual)} hours are missing, which usually have {share:.0%} of the calls "
        f"{'>' if beyond else '<='} limit {MAX_MISSING:.0%}{all_told} (n={n}, usually {expected:.0f})"
    )
    outcome = Outcome.INCONCLUSIVE if beyond or few else Outcome.PASS
    return Check(monitor="coverage", outcome=outcome, statement=statement, value=share, limit=MAX_MISSING, n=n)


def _day(hour: datetime) -> datetime:
    return hour.replace(hour=0)


def _is_weekend(time: datetime) -> bool:
    return time.weekday() >= _SATURDAY
