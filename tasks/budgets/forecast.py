"""What a day will have cost when it ends, from what it has cost so far and from how earlier days went.

Each earlier day says one thing: what was spent by this time of day, and what came after. What came after is scaled by
how much is spent now compared with then, and both are held towards the usual day by a tenth of it: in the first hours,
when hardly anything is spent, the scale is near 1, and later it is the ratio of the two. The days so scaled are the
forecast; the interval is made of their order, so it needs no assumption about the shape of spending, only that this day
is one like those. What is spent already is never taken back, so no forecast is below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from fractions import Fraction
from math import ceil, floor
from typing import Final

from tasks.errors import InputError

LEVEL: Final = Fraction(4, 5)
"""How often the interval should hold what comes."""
MIN_DAYS: Final = 4
"""Fewer earlier days say less than the clock does."""
MIN_SAME_TYPE: Final = 9
"""As many working days, or days of a weekend, are looked at alone; with fewer every day counts."""
MAX_DAYS: Final = 28
_PRIOR: Final = Fraction(1, 10)
_WIDER: Final = 3
"""Where there are too few days for an end of the interval, it lies this many times as far as the furthest day."""
_WEEKEND: Final = 5


class Basis(StrEnum):
    """What a forecast rests on."""

    SHAPE = "earlier days"
    LINEAR = "the clock"
    DONE = "the whole day"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastDay:
    """One earlier day: what was spent by this time of day, and in all; pico-USD."""

    day: date
    spent_pusd: int
    total_pusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a day will have cost.

    Attributes:
        low_pusd, median_pusd, high_pusd: Pico-USD; the day should end between low and high as often as ``LEVEL`` says.
            Without earlier days nobody can say where it ends, and high is None.
        days: How many earlier days it rests on.
    """

    low_pusd: int
    median_pusd: int
    high_pusd: int | None
    basis: Basis
    days: int


def forecast_day(
    spent_pusd: int, elapsed: Fraction, past: Sequence[PastDay], day: date, *, level: Fraction = LEVEL
) -> Forecast:
    """Return what a day will have cost when it ends.

    Args:
        spent_pusd: What it has cost so far, at least 0.
        elapsed: The share of the day that is over, 0 to 1.
        past: Earlier days; those from ``day`` on are not looked at.
        day: The day.
        level: How often the interval should hold, between 0 and 1.

    Raises:
        InputError: A number is outside its range.
    """
    if spent_pusd < 0 or not 0 <= elapsed <= 1 or not 0 < level < 1:
        raise InputError.of("forecast", (spent_pusd, elapsed, level), "spent >= 0, elapsed 0 to 1, level 0 to 1")
    if elapsed == 1:
        return Forecast(low_pusd=spent_pusd, median_pusd=spent_pusd, high_pusd=spent_pusd, basis=Basis.DONE, days=0)
    chosen = choose_days(past, day)
    if len(chosen) < MIN_DAYS:
        return _linear(spent_pusd, elapsed)
    low, median, high = _interval([_rest(spent_pusd, one, _usual(chosen)) for one in chosen], level)
    return Forecast(
        low_pusd=spent_pusd + floor(low),
        median_pusd=spent_pusd + round(median),
        high_pusd=spent_pusd + ceil(high),
        basis=Basis.SHAPE,
        days=len(chosen),
    )


def forecast_month(
    before_pusd: int, today: Forecast, past: Sequence[PastDay], day: date, days_left: int, *, level: Fraction = LEVEL
) -> Forecast:
    """Return what a month will have cost when it ends.

    The days to come are taken to be like the earlier ones, and all dear or all cheap together: the interval is wider
    than it would be for days that have nothing to do with each other.

    Args:
        before_pusd: What the month's days before this one cost.
        today: The forecast of this day.
        past: Earlier days.
        day: This day.
        days_left: How many days of the month come after it.
        level: How often the interval should hold, between 0 and 1.
    """
    totals = [Fraction(one.total_pusd) for one in past if one.day < day][-MAX_DAYS:]
    if len(totals) < MIN_DAYS:
        rest = today.median_pusd * days_left
        return Forecast(
            low_pusd=before_pusd + today.low_pusd,
            median_pusd=before_pusd + today.median_pusd + rest,
            high_pusd=before_pusd + today.low_pusd if days_left == 0 and today.basis is Basis.DONE else None,
            basis=Basis.LINEAR,
            days=len(totals),
        )
    low, median, high = _interval(totals, level)
    known = today.high_pusd is not None
    return Forecast(
        low_pusd=before_pusd + today.low_pusd + floor(low * days_left),
        median_pusd=before_pusd + today.median_pusd + round(median * days_left),
        high_pusd=before_pusd + (today.high_pusd or 0) + ceil(high * days_left) if known else None,
        basis=Basis.SHAPE,
        days=len(totals),
    )


def choose_days(past: Sequence[PastDay], day: date) -> tuple[PastDay, ...]:
    """Return the last days before a day that it is compared with, the newest first.

    They are those of its type, working day or weekend, where there are ``MIN_SAME_TYPE`` of them, and else all.
    """
    before = sorted((one for one in past if one.day < day), key=lambda one: one.day, reverse=True)[:MAX_DAYS]
    same = [one for one in before if is_weekend(one.day) == is_weekend(day)]
    return tuple(same if len(same) >= MIN_SAME_TYPE else before)


def is_weekend(day: date) -> bool:
    """Return whether a day is a Saturday or a Sunday."""
    return day.weekday() >= _WEEKEND


def _interval(values: Sequence[Fraction], level: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """Return low, median and high of what comes next, from the order of what was; its reach is a matter of counting.

    Of n + 1 days that are alike, the new one is as likely to be in any place of their order.
    """
    ordered, n, tail = sorted(values), len(values), (1 - level) / 2
    below, above = floor((n + 1) * tail), ceil((n + 1) * (1 - tail))
    low = ordered[below - 1] if below >= 1 else ordered[0] / _WIDER
    high = ordered[above - 1] if above <= n else ordered[-1] * _WIDER
    return low, (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, high


def _usual(days: Sequence[PastDay]) -> Fraction:
    totals = sorted(one.total_pusd for one in days)
    return Fraction(totals[(len(totals) - 1) // 2] + totals[len(totals) // 2], 2)


def _rest(spent_pusd: int, one: PastDay, usual: Fraction) -> Fraction:
    """Return what came after on an earlier day, scaled to what is spent now."""
    prior = usual * _PRIOR
    if one.spent_pusd + prior == 0:
        return Fraction(one.total_pusd)
    return Fraction(one.total_pusd - one.spent_pusd) * (spent_pusd + prior) / (one.spent_pusd + prior)


def _linear(spent_pusd: int, elapsed: Fraction) -> Forecast:
    """Return the forecast of a day that nothing is known about: as it goes on, and at least what is spent."""
    rest = spent_pusd * (1 - elapsed) / elapsed if elapsed else Fraction(0)
    return Forecast(
        low_pusd=spent_pusd,
        median_pusd=spent_pusd + round(rest),
        high_pusd=None,
        basis=Basis.LINEAR,
        days=0,
    )
