"""How large a change is, how sure that is, and what follows from it: one rule for numbers, words and texts.

An effect has an interval and a smallest size that matters. A change beyond that size fails when its whole interval is
beyond it; when the interval only excludes "no change", it is inconclusive. An interval so wide that a gross change
would have hidden in it is inconclusive as well. Anything else is a pass: no change was shown, or none that matters.
More rows make the interval narrower and nothing else, so the verdict does not depend on how many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from tasks.drift.nights import Scale, Side
from tasks.monitors.verdict import Check, Outcome

MIN_ROWS: Final = 100
MIN_UNITS: Final = 30
"""Fewer rows, or fewer independent rows, on either side are inconclusive."""
BLIND: Final = 8
"""An interval wider than this many smallest sizes that matter could hide a gross change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One way in which one column of a window differs from its baseline.

    Attributes:
        column: The column.
        measure: ``mean``, ``p50``, ``p95``, ``distribution``, ``words``, ``texts``, ``terms``, ``score``, or
            ``floor`` where too little was there to measure; then the numbers are NaN.
        value, low, high: The change and its interval; a ratio (1 is no change), a difference, or a distance from 0.
        limit: The smallest change that matters, like ``value``.
        outcome: What follows.
        statement: The inequality that decided, for people.
        n, n_baseline: Values on both sides.
    """

    column: str
    measure: str
    value: float
    low: float
    high: float
    limit: float
    outcome: Outcome
    statement: str
    n: int
    n_baseline: int

    def as_check(self) -> Check:
        """Return the effect as a check of the monitor ``drift``."""
        return Check(
            monitor="drift",
            outcome=self.outcome,
            statement=f"drift: {self.statement}",
            value=None if math.isnan(self.value) else self.value,
            limit=None if math.isnan(self.limit) else self.limit,
            n=self.n,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A measured change, in the unit it is reckoned in: logarithm of a ratio, difference or distance."""

    value: float
    low: float
    high: float

    def judge(self, least: float, side: Side) -> Outcome:
        """Return what follows from the interval and the smallest size that matters."""
        up = side != "low" and self.low > 0
        down = side != "high" and self.high < 0
        if (up and self.low > least) or (down and -self.high > least):
            return Outcome.FAIL
        in_doubt = (up and self.value > least) or (down and -self.value > least)
        if in_doubt or self.high - self.low > 2 * BLIND * least:
            return Outcome.INCONCLUSIVE
        return Outcome.PASS


def make_effect(
    column: str, measure: str, change: Change, *, least: float, side: Side, scale: Scale, n: int, n_baseline: int
) -> Effect:
    """Judge a change and put it into words.

    Args:
        column: What changed.
        measure: What of it.
        change: How much.
        least: The smallest size that matters, in the unit of the change, above 0.
        side: Which direction is for the worse.
        scale: Whether the change is the logarithm of a ratio.
        n: Values in the window.
        n_baseline: Values in the baseline.
    """
    outcome = change.judge(least, side)
    value, low, high = (_shown(part, scale) for part in (change.value, change.low, change.high))
    write = _ratio if scale == "ratio" else _difference
    limit = write(_shown(least, scale))
    ending = {
        Outcome.FAIL: f"wholly beyond {limit}",
        Outcome.INCONCLUSIVE: f"cannot be told from {limit}",
        Outcome.PASS: f"not shown to differ by more than {limit}",
    }[outcome]
    statement = (
        f"{column} {measure} {write(value)} [{write(low)}, {write(high)}] {ending} (n={n}, baseline n={n_baseline})"
    )
    return Effect(
        column=column,
        measure=measure,
        value=value,
        low=low,
        high=high,
        limit=_shown(least, scale),
        outcome=outcome,
        statement=statement,
        n=n,
        n_baseline=n_baseline,
    )


def make_floor_effect(column: str, n: int, n_baseline: int, independent: float) -> Effect | None:
    """Return the inconclusive effect of a column with too little on a side, None where there is enough.

    Args:
        column: The column.
        n: Values in the window.
        n_baseline: Values in the baseline.
        independent: How many independent values the smaller side is worth.
    """
    rows = min(n, n_baseline)
    if rows >= MIN_ROWS and independent >= MIN_UNITS:
        return None
    what, floor = (
        (f"{rows} values", MIN_ROWS) if rows < MIN_ROWS else (f"worth {independent:.0f} independent values", MIN_UNITS)
    )
    return make_unknown_effect(column, f"{what} < minimum {floor}", n, n_baseline)


def make_unknown_effect(column: str, reason: str, n: int, n_baseline: int = 0) -> Effect:
    """Return the inconclusive effect of what could not be measured.

    Args:
        column: What was to be measured.
        reason: Why it could not be.
        n: Values in the window.
        n_baseline: Values in the baseline.
    """
    return Effect(
        column=column,
        measure="floor",
        value=math.nan,
        low=math.nan,
        high=math.nan,
        limit=math.nan,
        outcome=Outcome.INCONCLUSIVE,
        statement=f"{column} {reason} (n={n}, baseline n={n_baseline})",
        n=n,
        n_baseline=n_baseline,
    )


def _shown(part: float, scale: Scale) -> float:
    return math.exp(min(part, 700.0)) if scale == "ratio" else part


def _ratio(value: float) -> str:
    return f"x {value:.3g}"


def _difference(value: float) -> str:
    return f"{value:+.3g}"
