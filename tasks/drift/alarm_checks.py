"""Tonight and all nights since the baseline, as checks: gross breakage at once, slow change when it is certain.

A night is grossly off when it lies outside the normal prediction interval of the baseline's nights of its day type.
Night t of a stretch may spend 1 / (t (t + 1)) of what ``AlarmPolicy`` leaves for single nights, a third of it here,
shared by the metrics, so all nights together spend no more than that. A change must also be as large as what
matters; one that is certain and smaller is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Final

from tasks.drift.alarms import AlarmState, Calibration
from tasks.drift.nights import (
    FEWEST_NIGHTS,
    AlarmPolicy,
    Night,
    Side,
    Watched,
    baseline_level,
    is_weekend,
    value_of,
)
from tasks.monitors.verdict import Check, Outcome

RECENT: Final = 7
"""How many of the last nights tell how large a slow change is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far one metric of a night is from the baseline's nights.

    Attributes:
        metric: What deviates.
        change: Tonight's value less the mean of the nights: the logarithm of a ratio, or a difference.
        margin: How far a night with nothing wrong may be, at the share of alpha that this night may spend.
        nights: How many nights of the baseline it rests on.
    """

    metric: Watched
    change: float
    margin: float
    nights: int

    @property
    def is_gross(self) -> bool:
        """Whether chance and ordinary nights cannot explain it, and it is for the worse."""
        return _worse(self.change, self.metric.side) > self.margin


def measure_night(baseline: Sequence[Night], night: Night, policy: AlarmPolicy, ordinal: int) -> tuple[Deviation, ...]:
    """Measure how far tonight is from the nights of a baseline, the grossest first.

    Args:
        baseline: The nights it is held against.
        night: Tonight.
        policy: How nights are judged.
        ordinal: Which night of the stretch it is, from 1.

    Raises:
        InputError: A value is not finite.
    """
    alpha = policy.night_alpha(ordinal) / len(policy.watched)
    found = []
    for metric in policy.watched:
        value = value_of(night, metric.name)
        level = baseline_level(baseline, metric.name, weekend=is_weekend(night.day))
        if value is None or level is None:
            continue
        mean, deviation, nights = level
        tail = alpha / 2 if metric.side == "both" else alpha
        margin = _t_quantile(tail, nights - 1) * deviation * math.sqrt(1 + 1 / nights)
        found.append(Deviation(metric=metric, change=value - mean, margin=margin, nights=nights))
    return tuple(sorted(found, key=lambda item: _worse(item.change, item.metric.side) - item.margin, reverse=True))


def check_first_night(baseline: Sequence[Night], night: Night, policy: AlarmPolicy, ordinal: int) -> Check:
    """Hold tonight against the nights of a baseline.

    Args:
        baseline: The nights it is held against.
        night: Tonight.
        policy: How nights are judged.
        ordinal: Which night of the stretch it is, from 1.

    Returns:
        A failure where a metric is grossly off and the change matters; inconclusive where it is certain but small, or
        nothing could be compared.

    Raises:
        InputError: A value is not finite.
    """
    if refused := _refusal(baseline, night, policy):
        return _check(Outcome.INCONCLUSIVE, refused, n=night.n)
    deviations = measure_night(baseline, night, policy, ordinal)
    gross = [item for item in deviations if item.is_gross]
    severe = [item for item in gross if abs(item.change) >= item.metric.least]
    shown = (severe or gross or deviations)[0]
    outcome = Outcome.FAIL if severe else Outcome.INCONCLUSIVE if gross else Outcome.PASS
    sign = ">" if gross else "<="
    small = "" if severe or not gross else f", less than the {_size(shown.metric.least, shown.metric)} that matters"
    statement = (
        f"{shown.metric.name} {_change(shown.change, shown.metric)} tonight, {sign} ordinary "
        f"{_size(shown.margin, shown.metric)}{small} (n={night.n}, {shown.nights} nights)"
    )
    return _check(outcome, statement, value=shown.change, limit=shown.margin, n=night.n)


def check_slow_change(
    baseline: Sequence[Night], nights: Sequence[Night], policy: AlarmPolicy, state: AlarmState
) -> Check:
    """Say what the nights since the baseline add up to.

    Args:
        baseline: The nights that others are ranked among.
        nights: The nights of the stretch.
        policy: How nights are judged.
        state: What ``replay`` makes of them.

    Returns:
        A failure where the evidence once sufficed and the change of the last nights matters; inconclusive where it
        sufficed and the change is small, or no night could be ranked.
    """
    limit, n = 1 / (policy.alpha * policy.slow_share), sum(night.n for night in nights)
    if state.nights == 0 or all(sum(item.weekday) + sum(item.weekend) == 0 for item in state.stakes):
        words = f"no night could be ranked among {len(baseline)} nights of the baseline (n={n})"
        return _check(Outcome.INCONCLUSIVE, words, limit=limit, n=n)
    if state.alarmed is None:
        words = f"evidence of a slow change {state.evidence:.3g} < {limit:.3g} after {state.nights} nights (n={n})"
        return _check(Outcome.PASS, words, value=state.evidence, limit=limit, n=n)
    leading = max(zip(state.stakes, policy.watched, strict=True), key=lambda pair: pair[0].evidence)[1]
    change = recent_change(baseline, nights, leading)
    matters = change is not None and _worse(change, leading.side) >= leading.least
    size = "unknown" if change is None else _change(change, leading)
    words = (
        f"{leading.name} {size} over the last {RECENT} nights{'' if matters else ', too little to matter'}; evidence "
        f">= {limit:.3g} since {state.alarmed.isoformat()} (n={n}, {state.nights} nights)"
    )
    return _check(Outcome.FAIL if matters else Outcome.INCONCLUSIVE, words, value=state.evidence, limit=limit, n=n)


def recent_change(baseline: Sequence[Night], nights: Sequence[Night], metric: Watched) -> float | None:
    """Return how far the last nights are from the baseline's of the same day type on average; None if unknown."""
    changes = []
    for night in sorted(nights, key=lambda item: item.day)[-RECENT:]:
        level = baseline_level(baseline, metric.name, weekend=is_weekend(night.day))
        value = value_of(night, metric.name)
        if level is not None and value is not None:
            changes.append(value - level[0])
    return fmean(changes) if changes else None


@lru_cache(maxsize=4096)
def _t_quantile(tail: float, freedom: int) -> float:
    # scipy takes a second to import, which commands that only list things should not pay.
    from scipy import stats

    return float(stats.t.isf(tail, freedom))


def _refusal(baseline: Sequence[Night], night: Night, policy: AlarmPolicy) -> str | None:
    if night.n == 0:
        return "no interactions tonight (n=0)"
    calibration = Calibration.of(baseline, policy)
    if calibration.is_too_small(night):
        floor = math.ceil(policy.least_share * calibration.usual_n)
        return f"{night.n} interactions tonight < {floor}, {policy.least_share:.0%} of a usual night (n={night.n})"
    if not measure_night(baseline, night, policy, 1):
        kind = "weekend" if is_weekend(night.day) else "weekday"
        same = sum(is_weekend(item.day) is is_weekend(night.day) for item in baseline)
        return f"{same} {kind} nights in the baseline < minimum {FEWEST_NIGHTS}, or no metric in common (n={night.n})"
    return None


def _worse(change: float, side: Side) -> float:
    return abs(change) if side == "both" else change if side == "high" else -change


def _change(change: float, metric: Watched) -> str:
    return f"x {math.exp(change):.3f}" if metric.scale == "ratio" else f"{change:+.4g}"


def _size(size: float, metric: Watched) -> str:
    return f"x/÷ {math.exp(size):.3f}" if metric.scale == "ratio" else f"±{size:.4g}"


def _check(
    outcome: Outcome, statement: str, *, n: int, value: float | None = None, limit: float | None = None
) -> Check:
    return Check(monitor="drift", outcome=outcome, statement=f"drift: {statement}", value=value, limit=limit, n=n)
