"""How often chance alone does it: p-values that hold for any distribution, and many of them judged together.

References: Holm (1979), A simple sequentially rejective multiple test procedure; Hoeffding (1963), theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def reject_together(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Return which hypotheses are rejected at ``alpha`` over all of them together."""
    rejected = [False] * len(p_values)
    for step, at in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[at] > alpha / (len(p_values) - step):
            break
        rejected[at] = True
    return rejected


def tail_of_count(count: int, n: int, share: float) -> float:
    """Return the chance of so many or more of n, where each comes with a share from 0 to 1."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, n, share))


def divergence(mean: float, limit: float) -> float:
    """Return the relative entropy of two coins, in nats."""
    if limit >= 1:
        return math.inf
    rest = 0.0 if mean >= 1 else (1 - mean) * math.log((1 - mean) / (1 - limit))
    return rest + (0.0 if mean <= 0 else mean * math.log(mean / limit))
