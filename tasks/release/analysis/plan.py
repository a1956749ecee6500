"""How long a ramp will take: sample sizes from the growth of the e-values themselves.

Wealth of each bet grows by its expected logarithm a pair; the n at which the mean over the bets is expected to reach
its threshold is where about half of the ramps decide. Noise makes the other half later: twice that n is enough for
most.

Reference: Grünwald, de Heide & Koolen, Safe testing (2024, arXiv 1906.07801), on growth rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.errors import InputError
from tasks.release.analysis.eprocess import (
    Numbers,
    log_factors,
    log_mixture,
    noninferiority_payoffs,
)
from tasks.release.analysis.policy import RampRules

MOST_PAIRS: Final = 10**9

Differences = tuple[Numbers, Numbers]
"""Values of the difference between candidate and stable, and their probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How many users a conclusion takes.

    Attributes:
        units_per_arm: Users of each arm at which half of the ramps conclude; None where the bets never get there.
        duration_s: Seconds until then at the given traffic; None likewise.
    """

    units_per_arm: int | None
    duration_s: float | None


def of_shares(candidate: float, stable: float) -> Differences:
    """Return the differences between two users, each of them bad with a probability.

    Args:
        candidate: Share of its users who meet something bad, 0 to 1.
        stable: The same of stable.
    """
    worse, better = candidate * (1 - stable), stable * (1 - candidate)
    return np.array([1.0, 0.0, -1.0]), np.array([worse, 1 - worse - better, better])


def of_spread(difference: float, deviation: float) -> Differences:
    """Return differences of a given mean and spread: two values, as far apart as the spread says.

    Args:
        difference: Mean badness of the candidate less that of stable.
        deviation: Standard deviation of one user's badness, 0 to 0.5.
    """
    spread = deviation * math.sqrt(2)
    return np.clip([difference - spread, difference + spread], -1.0, 1.0), np.array([0.5, 0.5])


def forecast_noninferiority(
    differences: Differences, margin: float, rules: RampRules, entering_per_s: float
) -> Forecast:
    """Return when a candidate is shown to be not worse by the margin.

    Args:
        differences: What is expected of a pair: no difference, for one as good as stable.
        margin: Of the metric.
        rules: The rules of the ramp.
        entering_per_s: New users a second in the smaller arm, above 0.
    """

    def payoffs(values: Numbers) -> Numbers:
        return noninferiority_payoffs(values, margin)

    return forecast(differences, payoffs, rules.noninferiority_alpha, entering_per_s)


def forecast(
    differences: Differences, payoffs: Callable[[Numbers], Numbers], alpha: float, entering_per_s: float
) -> Forecast:
    """Return when the bets of an e-process reach their threshold.

    Args:
        differences: What is expected of a pair.
        payoffs: Of each bet, by differences.
        alpha: The chance of a false finding, above 0 and below 1.
        entering_per_s: New users a second in the smaller arm.

    Raises:
        InputError: Nobody enters.
    """
    if not entering_per_s > 0:
        raise InputError.of("entering_per_s", entering_per_s, "above 0")
    values, probabilities = differences
    growth = probabilities @ log_factors(payoffs(values))
    wanted = -math.log(alpha)
    if growth.max() * MOST_PAIRS < wanted:
        return Forecast(units_per_arm=None, duration_s=None)
    low, high = 0, MOST_PAIRS
    while high - low > 1:
        middle = (low + high) // 2
        reached = float(log_mixture(middle * growth)) >= wanted
        low, high = (low, middle) if reached else (middle, high)
    return Forecast(units_per_arm=high, duration_s=high / entering_per_s)
