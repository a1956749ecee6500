"""Classical answers for reports on a fixed number of observations: effect, interval, p-value.

They are valid for one look at a sample whose size was fixed before, and for nothing that is looked at on the way; a
ramp is judged by e-processes. An offline evaluation, where two releases answer the same questions, is such a sample.

References: Welch (1947); Deng et al., Applying the delta method in metric analytics (2018, arXiv 1803.06336) for the
relative effect; Mann & Whitney (1947) with the corrections for ties and continuity that R's ``wilcox.test`` makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.release.analysis.eprocess import EProcess, Numbers, harm_payoffs

ALTERNATIVES: Final = ("two-sided", "less", "greater")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What an effect is computed from: mean and variance (with n - 1) of n observations."""

    mean: float
    variance: float
    n: int

    @classmethod
    def of(cls, values: Numbers) -> Sample:
        """Summarise observations; two at least."""
        return cls(mean=float(values.mean()), variance=float(values.var(ddof=1)), n=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The difference of the second sample to the first.

    Attributes:
        value: Absolute, or as a share of the first mean.
        low, high: The interval.
        deviation: Standard error of the value.
        p_value: Two-sided.
    """

    value: float
    low: float
    high: float
    deviation: float
    p_value: float


def measure_effect(first: Sample, second: Sample, *, is_relative: bool = False, confidence: float = 0.95) -> Effect:
    """Compare two independent samples by Welch's t-test.

    Args:
        first: The reference.
        second: What is compared with it.
        is_relative: As a share of the first mean, which must not be 0, by the delta method.
        confidence: Of the interval, 0 to 1.

    Raises:
        InputError: A sample is too small, or a relative effect has nothing to relate to.
    """
    if min(first.n, second.n) < 2 or (is_relative and first.mean == 0):  # noqa: PLR2004 - a variance needs two
        raise InputError.of("samples", (first, second), "2 observations or more; a first mean other than 0")
    parts = first.variance / first.n, second.variance / second.n
    freedom = _freedom(parts, (first.n, second.n))
    value, variance = second.mean - first.mean, sum(parts)
    if is_relative:
        value /= first.mean
        variance = parts[1] / first.mean**2 + parts[0] * second.mean**2 / first.mean**4
    return _effect(value, math.sqrt(variance), freedom, confidence)


def measure_paired_effect(differences: Numbers, confidence: float = 0.95) -> Effect:
    """Return the mean of paired differences by Student's t-test.

    Args:
        differences: Second less first, one a unit that both answered.
        confidence: Of the interval, 0 to 1.
    """
    sample = Sample.of(differences)
    return _effect(sample.mean, math.sqrt(sample.variance / sample.n), sample.n - 1, confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """Both directions of a paired comparison that may be looked at as it grows.

    Attributes:
        worse: Evidence against *the second is not worse*.
        better: Evidence against *the second is not better*.
    """

    worse: EProcess
    better: EProcess

    def called(self, alpha: float = 0.05) -> str:
        """Return ``worse``, ``better`` or ``no change``: each direction has half of alpha."""
        threshold = math.log(2 / alpha)
        if max(self.worse.log_peak, self.better.log_peak) < threshold:
            return "no change"
        return "worse" if self.worse.log_peak > self.better.log_peak else "better"


def follow_paired_change(badness: Numbers) -> PairedChange:
    """Follow paired differences one by one.

    Args:
        badness: Badness of the second less that of the first, -1 to 1, one a unit, in an order that does not depend
            on them.
    """
    ends = np.arange(1, len(badness) + 1)
    worse, better = (EProcess().bet(harm_payoffs(side * badness), ends) for side in (1, -1))
    return PairedChange(worse=worse, better=better)


def mann_whitney(
    first: Numbers, second: Numbers, *, alternative: str = "two-sided", method: str = "asymptotic", correct: bool = True
) -> tuple[float, float]:
    """Return the U statistic of the first sample and its p-value.

    Args:
        first: Observations, one at least.
        second: What they are compared with, one at least.
        alternative: Whether the first is stochastically ``less``, ``greater``, or either.
        method: ``asymptotic``, with the correction for ties, or ``exact``, where there are none.
        correct: Whether the asymptotic p-value is corrected for continuity.

    Raises:
        InputError: The alternative is unknown.
    """
    from scipy import stats

    if alternative not in ALTERNATIVES:
        raise InputError.of("alternative", alternative, ALTERNATIVES)
    if method == "exact":
        result = stats.mannwhitneyu(first, second, alternative=alternative, method="exact")
        return float(result.statistic), float(result.pvalue)
    u, deviation = rank_statistic(first, second)
    centred = u - len(first) * len(second) / 2
    if deviation == 0:
        return u, 1.0
    by = 0.5 if correct else 0.0
    greater = float(stats.norm.sf((centred - by) / deviation))
    less = float(stats.norm.cdf((centred + by) / deviation))
    p = {"less": less, "greater": greater, "two-sided": min(1.0, 2 * min(less, greater))}
    return u, p[alternative]


def rank_statistic(first: Numbers, second: Numbers) -> tuple[float, float]:
    """Return U of the first sample and its standard deviation under the null, with the correction for ties."""
    from scipy import stats

    n, m = len(first), len(second)
    ranks: NDArray[np.float64] = stats.rankdata(np.concatenate([first, second]))
    ties = np.unique(ranks, return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * ((n + m + 1) - float((ties**3 - ties).sum()) / ((n + m) * (n + m - 1)))
    return float(ranks[:n].sum()) - n * (n + 1) / 2, math.sqrt(max(variance, 0.0))


def _effect(value: float, deviation: float, freedom: float, confidence: float) -> Effect:
    from scipy import stats

    if deviation == 0:
        return Effect(value=value, low=value, high=value, deviation=0.0, p_value=float(value == 0))
    reach = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * deviation
    p_value = 2 * float(stats.t.sf(abs(value) / deviation, freedom))
    return Effect(value=value, low=value - reach, high=value + reach, deviation=deviation, p_value=p_value)


def _freedom(parts: tuple[float, float], sizes: tuple[int, int]) -> float:
    weight = sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    return sum(parts) ** 2 / weight if weight > 0 else float(sum(sizes) - 2)
