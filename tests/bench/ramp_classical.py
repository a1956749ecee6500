"""Classical tests that real outputs of known truth, and peers, are judged by; nothing of the product decides by them.

References: Student (1908); Mann & Whitney (1947) with the corrections for ties and continuity that R's ``wilcox.test``
makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.release.analysis.eprocess import EProcess, Numbers, harm_payoffs


def find_paired_bounds(differences: Numbers, confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds of the mean of paired differences by Student's t-test."""
    n, mean = len(differences), float(differences.mean())
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return mean - reach, mean + reach


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
    """
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
    n, m = len(first), len(second)
    ranks: NDArray[np.float64] = stats.rankdata(np.concatenate([first, second]))
    ties = np.unique(ranks, return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * ((n + m + 1) - float((ties**3 - ties).sum()) / ((n + m) * (n + m - 1)))
    return float(ranks[:n].sum()) - n * (n + 1) / 2, math.sqrt(max(variance, 0.0))
