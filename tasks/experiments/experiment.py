"""An A/B test: who sees which release, and what each release's users had compared with those of the control arm.

It is for a sample whose size was fixed before, read once; what is watched on the way is a ramp's business
(``analysis/``). The unit is the user: each is one mean over their calls, and who was given more than one arm is left
out. Effects are absolute, by Welch's test, for what is a share or a score; cost is relative to the control arm, by the
delta method. p-values are Holm's over all metrics and arms together; intervals are each their own.

Shares and scores are bounded, and a sample without a single failure has no variance: it would be called equal to
anything. So each arm gets one user with the best and one with the worst value before its interval is computed.

References: Welch (1947); Deng et al. (2018, arXiv 1803.06336); Agresti & Caffo (2000) for the two users; Holm (1979).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final, Self

import numpy as np
import pyarrow as pa

from tasks.costs.rates import PUSD_PER_USD
from tasks.errors import InputError
from tasks.evaluation.summary import numbers, release_calls
from tasks.experiments.users import Numbers, apart, user_means
from tasks.release.analysis.metrics import Badness, Margins, Metric, default_metrics
from tasks.release.analysis.reference import Effect, Sample, measure_effect
from tasks.release.model import NAME_PATTERN
from tasks.traffic.plan import BUCKETS

MIN_USERS: Final = 50
"""Users of each arm that a comparison needs."""
MIN_COST_CHANGE: Final = 0.1
"""A cost that differs by less than this share of the control arm's does not matter."""
SHARED_ALPHA: Final = 0.001
"""Chance to call users mis-shared that were shared as planned."""
_MARGINS: Final = Margins()


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Which releases are compared, and how users are shared between them.

    Attributes:
        name: What people call it.
        control: Digest of the release that the others are compared with.
        arms: Digest and weight of every release, the control's too; weights are relative to their sum.
    """

    name: str
    control: str
    arms: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse an experiment that compares nothing, or gives an arm nobody."""
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise InputError.of("name", self.name, NAME_PATTERN)
        if self.control not in self.arms or len(self.arms) < 2:  # noqa: PLR2004 - a comparison needs two
            raise InputError.of("arms", sorted(self.arms), f"the control {self.control} and one more at least")
        wanted_buckets(self.arms)


def wanted_buckets(weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many of the 1,000 buckets each release gets: largest remainder, ties by digest.

    Args:
        weights: Digest and weight, above 0.

    Returns:
        Counts above 0 that add up to ``BUCKETS``; the order of the weights does not matter.

    Raises:
        InputError: A weight is not above 0, or too small for a bucket.
    """
    bad = {digest: weight for digest, weight in weights.items() if not (math.isfinite(weight) and weight > 0)}
    if bad or not weights:
        raise InputError.of("weights", bad or dict(weights), "one or more, each a finite number above 0")
    total = sum(map(Fraction, weights.values()))
    exact = {digest: Fraction(weights[digest]) * BUCKETS / total for digest in sorted(weights)}
    counts = {digest: math.floor(share) for digest, share in exact.items()}
    by_rest = sorted(exact, key=lambda digest: counts[digest] - exact[digest])
    for digest in by_rest[: BUCKETS - sum(counts.values())]:
        counts[digest] += 1
    nobody = [digest for digest, count in counts.items() if count == 0]
    if nobody:
        raise InputError.of("weights", {nobody[0]: weights[nobody[0]]}, f"at least one of {BUCKETS} buckets")
    return counts


class Finding(StrEnum):
    """What a comparison came to."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference that matters"
    OPEN = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One thing that arms are compared by.

    Attributes:
        name: Its name.
        words: What the shown value is, for people.
        observe: Makes calls values, NaN where one is unknown or does not apply.
        matters_from: The smallest effect that matters, in the unit of the effect.
        is_relative: Whether the effect is a share of the control's mean, and the values have no upper bound.
        is_good: Whether more is better.
    """

    name: str
    words: str
    observe: Callable[[pa.Table], Badness]
    matters_from: float
    is_relative: bool = False
    is_good: bool = False

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """Return a metric of a ramp as people read it."""
        return cls(
            name=metric.name,
            words=metric.words,
            observe=lambda calls: 1 - metric.observe(calls) if metric.is_good else metric.observe(calls),
            matters_from=metric.margin,
            is_good=metric.is_good,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEffect:
    """One arm against the control arm in one metric.

    Attributes:
        arm: Digest of the release.
        outcome: What is compared.
        n_control, n_arm: Users with a known value.
        control, value: Their means; NaN without any.
        effect, low, high: The difference and its own interval, relative where the metric is; NaN where none is.
        p_value, p_holm: Two-sided, alone and over all comparisons of the report; NaN where there is none.
        finding: What it came to.
        because: Why nothing could be compared; empty where it could.
    """

    arm: str
    outcome: Outcome
    n_control: int
    n_arm: int
    control: float
    value: float
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    p_holm: float = math.nan
    finding: Finding = Finding.OPEN
    because: str = ""


def experiment_outcomes(latency_limit_ms: float, margins: Margins = _MARGINS) -> tuple[Outcome, ...]:
    """Return what arms are compared by: success, latency, quality, toxicity, missing scores, cost.

    Args:
        latency_limit_ms: What counts as slow, the same for all arms, milliseconds.
        margins: What would matter; that of cost is ``MIN_COST_CHANGE``.
    """
    cost = Outcome(
        name="cost",
        words="USD per call",
        observe=lambda calls: numbers(calls["cost_pusd"]) / PUSD_PER_USD,
        matters_from=MIN_COST_CHANGE,
        is_relative=True,
    )
    return (*map(Outcome.of, default_metrics(latency_limit_ms=latency_limit_ms, margins=margins)), cost)


def report(
    experiment: Experiment,
    calls_by_arm: Mapping[str, pa.Table],
    outcomes: Sequence[Outcome],
    *,
    alpha: float = 0.05,
    min_users: int = MIN_USERS,
) -> tuple[ArmEffect, ...]:
    """Compare every arm with the control arm in every metric, once, at the size that was planned.

    Args:
        experiment: Who is compared.
        calls_by_arm: What each arm answered: ``unit``, ``status``, ``error_type``, ``latency_ms``, ``quality``,
            ``toxicity``, ``cost_pusd``; NULL is unknown. A call without a unit is somebody of its own.
        outcomes: What they are compared by.
        alpha: Chance that any comparison at all is called different where nothing differs.
        min_users: Users with a known value that each side needs.

    Returns:
        Arms in their order, metrics in theirs. Where users were not shared out as planned, everything is open.

    Raises:
        InputError: The calls are not those of the experiment's arms.
    """
    if set(calls_by_arm) != set(experiment.arms):
        raise InputError.of("calls_by_arm", sorted(calls_by_arm), sorted(experiment.arms))
    calls = apart({arm: release_calls(table) for arm, table in calls_by_arm.items()})
    doubt = _doubt(experiment, calls)
    users = {
        (arm, outcome.name): user_means(table["unit"], outcome.observe(table))
        for arm, table in calls.items()
        for outcome in outcomes
    }
    effects = [
        _compare(arm, outcome, users[experiment.control, outcome.name], users[arm, outcome.name], min_users)
        for arm in experiment.arms
        if arm != experiment.control
        for outcome in outcomes
    ]
    corrected = holm([effect.p_value for effect in effects])
    return tuple(
        replace(effect, p_holm=p, because=doubt) if doubt else _conclude(replace(effect, p_holm=p), alpha)
        for effect, p in zip(effects, corrected, strict=True)
    )


def shared_p_value(experiment: Experiment, users_by_arm: Mapping[str, int]) -> float:
    """Return the chance of users shared out at least this unevenly if they were shared as planned (chi-square)."""
    from scipy import stats

    buckets = wanted_buckets(experiment.arms)
    seen = np.array([users_by_arm[arm] for arm in buckets], dtype=np.float64)
    planned = np.array([*buckets.values()]) / BUCKETS * seen.sum()
    return float(stats.chisquare(seen, planned).pvalue) if seen.sum() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down; NaN is no comparison and counts for none.

    >>> holm([0.01, 0.04, math.nan, 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    tested = sorted((p, at) for at, p in enumerate(p_values) if not math.isnan(p))
    corrected, so_far = [math.nan] * len(p_values), 0.0
    for rank, (p, at) in enumerate(tested):
        so_far = max(so_far, min(1.0, p * (len(tested) - rank)))
        corrected[at] = so_far
    return corrected


def _doubt(experiment: Experiment, calls: Mapping[str, pa.Table]) -> str:
    users = {arm: len(user_means(table["unit"], np.zeros(len(table)))) for arm, table in calls.items()}
    p = shared_p_value(experiment, users)
    if p >= SHARED_ALPHA:
        return ""
    return f"users were not shared out as planned (p={p:.1g} < {SHARED_ALPHA:g}): what differs may be who they are"


def _compare(arm: str, outcome: Outcome, control: Numbers, treated: Numbers, min_users: int) -> ArmEffect:
    means = [float(values.mean()) if len(values) else math.nan for values in (control, treated)]
    n_control, n_arm = len(control), len(treated)
    found = ArmEffect(arm=arm, outcome=outcome, n_control=n_control, n_arm=n_arm, control=means[0], value=means[1])
    least = min(n_control, n_arm)
    if least < max(min_users, 2):
        return replace(found, because=f"{least} users < minimum {max(min_users, 2)}")
    if outcome.is_relative and found.control <= 0:
        return replace(found, because="the control arm's mean is 0: nothing to relate to")
    effect = _effect(control, treated, is_relative=outcome.is_relative)
    value = found.value - found.control
    return replace(
        found,
        effect=value / found.control if outcome.is_relative else value,
        low=effect.low,
        high=effect.high,
        p_value=effect.p_value,
    )


def _effect(control: Numbers, treated: Numbers, *, is_relative: bool) -> Effect:
    more = np.array([]) if is_relative else np.array([0.0, 1.0])
    first, second = (Sample.of(np.concatenate([values, more])) for values in (control, treated))
    return measure_effect(first, second, is_relative=is_relative)


def _conclude(found: ArmEffect, alpha: float) -> ArmEffect:
    if found.because:
        return found
    matters, finding = found.outcome.matters_from, Finding.OPEN
    if found.p_holm <= alpha and abs(found.effect) >= matters:
        finding = Finding.BETTER if (found.effect > 0) is found.outcome.is_good else Finding.WORSE
    elif -matters < found.low and found.high < matters:
        finding = Finding.SAME
    return replace(found, finding=finding)
