"""How often would these alarms be false, and what would they find, on one's own data?

Nights of the user's own history are drawn in a new order within their day type, so that whatever trend they had is
gone; the first of them are the baseline, the others are judged as if they came one by one. Any alarm is then a false
one. The same is done with a change put into one metric, to see how large it must be to be found, and how soon.
Columns are split at random into halves as well: any verdict on their difference is false.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

import numpy as np

from tasks.drift.alarm_checks import measure_night
from tasks.drift.alarms import Calibration
from tasks.drift.columns import NumberColumn, Scan
from tasks.drift.nights import FEWEST_NIGHTS, AlarmPolicy, Night, Watched, is_weekend
from tasks.drift.numeric import NumberRule, compare_numbers
from tasks.errors import InputError
from tasks.evaluation.summary import Histogram
from tasks.monitors.verdict import Outcome

TIMES: Final = (1, 2, 4)
"""Changes are tried that are so many times the smallest that matters."""
FEWEST_HISTORY: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestSpec:
    """How much is tried.

    Attributes:
        policy: How nights are judged.
        rule: How the columns of one night are compared.
        rounds: How often nights are drawn anew for the false alarms; a quarter of it for each change.
        baseline_share: Share of the nights that become the baseline, 0 to 1.
    """

    policy: AlarmPolicy
    rule: NumberRule
    rounds: int = 100
    baseline_share: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What becomes of a change of one metric.

    Attributes:
        metric: The metric.
        change: How much, as the nights tell it: a logarithm of a ratio, or a difference.
        found: Share of the rounds in which it was found, 0 to 1.
        median_nights: After how many nights, in those rounds; None where it never was.
    """

    metric: str
    change: float
    found: float
    median_nights: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What came of it.

    Attributes:
        baseline_nights, judged_nights: How the history was divided.
        false_alarms: Share of rounds with any alarm over all judged nights and metrics.
        alpha: What it may be.
        false_splits: Column to the share of random halves that fail.
        power: A line a metric and size of change.
    """

    baseline_nights: int
    judged_nights: int
    false_alarms: float
    alpha: float
    false_splits: tuple[tuple[str, float], ...]
    power: tuple[Power, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The report, for people."""
        head = (
            f"false alarms: {self.false_alarms:.1%} of runs of {self.judged_nights} nights, alpha {self.alpha:.1%}, "
            f"baseline of {self.baseline_nights} nights"
        )
        splits = (f"random halves of {name}: {share:.1%} fail" for name, share in self.false_splits)
        found = (
            f"{item.metric} changed by {item.change:.4g}: found in {item.found:.0%}"
            + ("" if item.median_nights is None else f", median {item.median_nights:.0f} nights")
            for item in self.power
        )
        return (head, *splits, *found)


def self_test(history: Sequence[Night], scan: Scan, spec: SelfTestSpec, seed: int) -> SelfTest:
    """Show the false-alarm rate and the power of the alarms on one's own data.

    Args:
        history: Nights with nothing wrong, at least ``FEWEST_HISTORY``.
        scan: The columns of one such window, for the random halves.
        spec: How much is tried.
        seed: Gives the same report each time.

    Raises:
        InputError: There are too few nights, overall or of weekdays in the baseline.
    """
    nights = sorted(history, key=lambda night: night.day)
    size = round(len(nights) * spec.baseline_share)
    if len(nights) < FEWEST_HISTORY or sum(not is_weekend(night.day) for night in nights[:size]) < FEWEST_NIGHTS:
        raise InputError.of("history", f"{len(nights)} nights", f"{FEWEST_HISTORY} or more nights with nothing wrong")
    rng = np.random.default_rng(seed)
    quiet = [_first_alarm(_shuffle(nights, rng), size, spec.policy, None, 0.0) for _ in range(spec.rounds)]
    power = []
    for metric in spec.policy.watched:
        for times in TIMES:
            change = times * metric.least * (-1 if metric.side == "low" else 1)
            found = [
                _first_alarm(_shuffle(nights, rng), size, spec.policy, metric, change)
                for _ in range(max(1, spec.rounds // 4))
            ]
            power.append(_power(metric, change, found))
    return SelfTest(
        baseline_nights=size,
        judged_nights=len(nights) - size,
        false_alarms=sum(at is not None for at in quiet) / spec.rounds,
        alpha=spec.policy.alpha,
        false_splits=tuple(
            (item.name, _false_splits(scan.number(item.name), item, spec, rng)) for item in spec.rule.watched
        ),
        power=tuple(power),
    )


def _shuffle(nights: Sequence[Night], rng: np.random.Generator) -> list[Night]:
    """Return the same days with the nights of their day type in another order."""
    drawn = {weekend: [night for night in nights if is_weekend(night.day) is weekend] for weekend in (False, True)}
    for group in drawn.values():
        rng.shuffle(group)
    return [replace(drawn[is_weekend(night.day)].pop(), day=night.day) for night in nights]


def _first_alarm(
    nights: Sequence[Night], size: int, policy: AlarmPolicy, metric: Watched | None, change: float
) -> int | None:
    """Return which judged night, from 1, raises the first alarm; None if none does."""
    baseline = nights[:size]
    calibration = Calibration.of(baseline, policy)
    state = calibration.begin()
    for at, drawn in enumerate(nights[size:], start=1):
        night = drawn if metric is None else _changed(drawn, metric.name, change)
        if calibration.is_too_small(night):
            continue
        state = calibration.advance(state, night)
        if state.alarmed is not None or any(item.is_gross for item in measure_night(baseline, night, policy, at)):
            return at
    return None


def _changed(night: Night, metric: str, change: float) -> Night:
    return replace(
        night, values=tuple((name, value + change if name == metric else value) for name, value in night.values)
    )


def _power(metric: Watched, change: float, found: Sequence[int | None]) -> Power:
    known = [at for at in found if at is not None]
    return Power(
        metric=metric.name,
        change=change,
        found=len(known) / len(found),
        median_nights=median(known) if known else None,
    )


def _false_splits(column: NumberColumn, watched: Watched, spec: SelfTestSpec, rng: np.random.Generator) -> float:
    """Return how often two random halves of a column fail; independent rows are put for units, in the same number."""
    bins = np.array(column.histogram.bins).reshape(-1, 2)
    half = math.floor(column.effective_n / 2)
    if half < 1:
        return 0.0
    share, failed = bins[:, 1] / bins[:, 1].sum(), 0
    for _ in range(spec.rounds):
        one, two = (_column(watched.name, bins[:, 0], rng.multinomial(half, share)) for _ in range(2))
        effects = compare_numbers(one, two, watched, replace(spec.rule, night_sd={}))
        failed += any(effect.outcome is Outcome.FAIL for effect in effects)
    return failed / spec.rounds


def _column(name: str, bins: np.ndarray, counts: np.ndarray) -> NumberColumn:
    kept = tuple((int(at), int(count)) for at, count in zip(bins, counts, strict=True) if count)
    return NumberColumn(name=name, histogram=Histogram(kept), effective_n=float(counts.sum()))
