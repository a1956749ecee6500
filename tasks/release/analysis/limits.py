"""Fixed limits of the candidate, on every call it answered: failed calls, and calls slower than the limit.

A limit is broken when the share of bad calls is beyond it by more than chance explains. Calls of one user are not
independent, so the error is that of a ratio of sums over users; looks are many, so the bound is the asymptotic
confidence sequence, which holds at all of them. The error is never taken to be smaller than that of a release exactly
on its limit: a sequence of equal calls has no variance of its own. A limit on the 95th percentile of latency is a
limit of 5 % on the share of slower calls.

Reference: Waudby-Smith et al., Time-uniform central limit theory and asymptotic confidence sequences (2021, arXiv
2103.06476), the one-sided form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TUNED_FOR_USERS: Final = 200
"""The bound is tightest around this many users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEvidence:
    """One fixed limit and what the calls say about it.

    Attributes:
        name: The monitor: ``errors`` or ``latency``.
        words: What the value is, for people.
        value: Share of bad calls, 0 to 1; NaN without any call.
        low: The share is at least this, at all looks together but for a chance of ``alpha``.
        limit: The highest share allowed.
        n_calls, n_users: What it rests on.
    """

    name: str
    words: str
    value: float
    low: float
    limit: float
    n_calls: int
    n_users: int


def hold_limit(
    name: str, words: str, units: pa.ChunkedArray, badness: NDArray[np.float64], *, limit: float, alpha: float
) -> LimitEvidence:
    """Hold the share of bad calls against a fixed limit.

    Args:
        name: The monitor.
        words: What the value is, for people.
        units: Who made each call; NULL is somebody of their own.
        badness: 0 to 1 a call, NaN where it does not apply.
        limit: The highest share allowed, 0 to 1.
        alpha: The chance to call a limit broken that is not, over all looks.
    """
    known = ~np.isnan(badness)
    sums, calls = _by_user(units.filter(pa.array(known)), badness[known])
    n_users, n_calls = len(calls), int(calls.sum())
    value = float(sums.sum()) / n_calls if n_calls else math.nan
    low = value - _radius(sums, calls, limit, alpha) if n_calls else math.nan
    return LimitEvidence(name=name, words=words, value=value, low=low, limit=limit, n_calls=n_calls, n_users=n_users)


def sequence_factor(n: int, alpha: float) -> float:
    """Return how many standard errors of a mean of n the one-sided asymptotic confidence sequence is wide."""
    # Eq. 10 of the reference: the rho whose boundary is tightest at TUNED_FOR_USERS.
    rho2 = (-2 * math.log(2 * alpha) + math.log(-2 * math.log(2 * alpha) + 1)) / TUNED_FOR_USERS
    scaled = n * rho2
    return math.sqrt(2 * (scaled + 1) / scaled * math.log(1 + math.sqrt(scaled + 1) / (2 * alpha)))


def _radius(sums: NDArray[np.float64], calls: NDArray[np.float64], limit: float, alpha: float) -> float:
    n, total = len(calls), float(calls.sum())
    residuals = sums - sums.sum() / total * calls
    own = float(residuals @ residuals) * n / max(n - 1, 1)
    on_limit = limit * (1 - limit) * float(calls @ calls)
    return math.sqrt(max(own, on_limit)) / total * sequence_factor(n, alpha)


def _by_user(units: pa.ChunkedArray, badness: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    encoded = units.combine_chunks().dictionary_encode()
    named = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    nobody = named < 0
    named[nobody] = len(encoded.dictionary) + np.arange(int(nobody.sum()))
    calls = np.bincount(named)
    return np.bincount(named, weights=badness).astype(np.float64), calls.astype(np.float64)
