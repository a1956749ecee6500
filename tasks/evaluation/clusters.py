"""How much less calls say than their number, because the calls of one user are alike."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Z: Final = 1.645
"""One-sided bounds at 95 %; few users need a wider quantile."""
_ONE_SIDED: Final = 0.95
Users = NDArray[np.int32]
"""A number a user, beside each call; -1 where nobody knows who made it."""


def users_as_numbers(users: pa.ChunkedArray) -> Users:
    """Return who made each call as numbers."""
    coded = pc.dictionary_encode(users, null_encoding="mask")  # all chunks share one dictionary
    parts = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in coded.chunks]
    return np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32, copy=False)


def design_effect(values: NDArray[np.float64], users: Users | None) -> float:
    """Return how many calls say as much as one that depends on no other, 1 or more.

    It is the variance of the mean with the calls of a user taken together, over that of independent calls (Kish). Of
    few users that variance is itself a guess, so it is widened as Student's quantile is.

    Args:
        values: What was measured of each call; NaN is left out.
        users: Who made it, as numbers; a call of nobody known stands alone. None: all of them do.
    """
    known = ~np.isnan(values)
    n = int(known.sum())
    if users is None or n == 0:
        return 1.0
    apart = values[known] - values[known].mean()
    named = users[known] >= 0
    mine, lone = users[known][named], apart[~named]
    sizes = np.bincount(mine).astype(np.float64)
    # As many users of one size would leave the variance as uncertain: one who makes a third of the calls counts.
    groups = n * n / (float(np.square(sizes).sum()) + len(lone))
    alone = float(np.square(apart).sum())
    if groups >= n or alone <= 0:
        return 1.0
    if sizes.max() == n:
        return 1.0  # there is nobody else: what this one meets is what the release does
    # The mean leans towards a user of many calls, which hides how far apart that user is (the jackknife's correction).
    sums = np.bincount(mine, weights=apart[named]) / (1 - sizes / n)
    together = (float(np.square(sums).sum()) + float(np.square(lone).sum())) * (groups - 1) / groups
    corrected = together * (n - 1) / (alone * n)
    return min(float(n), max(1.0, corrected * _widen(groups)))


def _widen(groups: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, _ONE_SIDED) / Z) ** 2
