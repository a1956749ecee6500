"""What others decide a ramp by, re-implemented: the rules, not the products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from ramp_classical import rank_statistic
from scipy import stats

from tasks.release.analysis.limits import sequence_factor

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

KAYENTA_CONFIDENCE = 0.98
KAYENTA_TOLERANCE = 0.25
ROOT_PRECISION = 1e-4


def peeked_z(candidate: Counts, stable: Counts, n: Counts, alpha: float = 0.05) -> Flags:
    """Return at which looks a one-sided pooled z-test calls harm; failures so far, looks in the last axis."""
    pooled = (candidate + stable) / (2 * n)
    error = np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / n, 1e-300))
    return (candidate - stable) / n / error > stats.norm.isf(alpha)


def asymptotic_sequence(candidate: Counts, stable: Counts, n: Counts, alpha: float = 0.05) -> tuple[Numbers, Numbers]:
    """Return the one-sided bounds below and above the difference of the failure shares at each look."""
    p, q = candidate / n, stable / n
    error = np.sqrt((p * (1 - p) + q * (1 - q)) / n)
    reach = error * np.array([sequence_factor(int(size), alpha) for size in n])
    return p - q - reach, p - q + reach


def fixed_threshold(failures: Counts, size: int, threshold: float, allowed: int) -> Flags:
    """Return which runs end: more than some of their windows have a success rate below the threshold."""
    return ((1 - failures / size) < threshold).sum(axis=-1) > allowed


def kayenta(
    control: Numbers,
    experiment: Numbers,
    *,
    tolerance: float = KAYENTA_TOLERANCE,
    confidence: float = KAYENTA_CONFIDENCE,
    direction: str = "Either",
) -> str:
    """Classify one metric as Kayenta's Mann-Whitney judge does: Pass, High, Low or Nodata."""
    if not len(control) or not len(experiment):
        return "Nodata"
    if np.array_equal(np.sort(control), np.sort(experiment)) or np.ptp(np.concatenate([control, experiment])) == 0:
        return "Pass"
    z = float(stats.norm.isf((1 - confidence) / 2))
    low, high, estimate = (_shift(control, experiment, quantile) for quantile in (z, -z, 0.0))
    bound = tolerance * abs(estimate)
    if direction != "Decrease" and low > bound:
        return "High"
    return "Low" if direction != "Increase" and high < -bound else "Pass"


def _shift(control: Numbers, experiment: Numbers, quantile: float) -> float:
    """Return the shift at which the standardised rank statistic is the quantile: an end of R's interval."""
    low, high = float(experiment.min() - control.max()), float(experiment.max() - control.min())

    def above(mu: float) -> bool:
        u, deviation = rank_statistic(experiment - mu, control)
        centred = u - len(control) * len(experiment) / 2
        return centred - 0.5 * float(np.sign(centred)) > quantile * deviation

    # The statistic jumps where a difference is passed, so its root is one of them: no rounding decides a tie.
    jumps = (experiment[:, np.newaxis] - control).ravel()
    found = _bisect(above, low, high)
    nearest = float(jumps[np.abs(jumps - found).argmin()])
    return nearest if abs(nearest - found) <= ROOT_PRECISION else found


def _bisect(above: Callable[[float], bool], low: float, high: float) -> float:
    if not above(low):
        return low
    while high - low > ROOT_PRECISION / 2:
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return (low + high) / 2
