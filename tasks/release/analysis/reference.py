"""Welch's answer for reports on a fixed number of observations: effect, interval, p-value.

It is valid for one look at a sample whose size was fixed before, and for nothing that is looked at on the way; a
ramp is judged by e-processes.

References: Welch (1947); Deng et al., Applying the delta method in metric analytics (2018, arXiv 1803.06336) for the
relative effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.errors import InputError
from tasks.release.analysis.eprocess import Numbers


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
