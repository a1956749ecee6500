"""Drift: how far a window is from its baseline, and whether chance alone could have done it.

The distance of numbers is Kolmogorov-Smirnov's (the largest difference of the two cumulative shares), the distance
of categories is total variation (the share that would have to change its category). Both run from 0 to 1 and have
no unit, so one limit serves all columns. Chance is what a permutation of the pooled rows does: both summaries are
counts, so a permutation is one draw from the multivariate hypergeometric distribution and the rows are not needed.

This compares one night with one baseline. It knows nothing of ordinary differences between nights; the practical
limit has to be above those.

Reference: Phipson & Smyth (2010), permutation p-values should never be zero: (b + 1) / (m + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.summary import Column, Histogram, Summary

ALPHA: Final = 0.01
"""The chance that a night with nothing wrong fails for drift, over all columns together."""
MIN_ROWS: Final = 100
"""Below this, on either side, a distance says nothing."""
PERMUTATIONS: Final = 999

Worse = Literal["higher", "lower", "either"]

JUDGED: Final[tuple[tuple[str, Worse], ...]] = (
    ("question_chars", "either"),
    ("answer_chars", "either"),
    ("output_tokens", "either"),
    ("finish_reason", "either"),
    ("quality", "lower"),
)
"""The columns that can fail, and the direction that is worse.

Latency and status have monitors in their own units; the model and the length of the prompt are what a release is.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far one column of a window is from the baseline.

    Attributes:
        column: Its name.
        distance: 0 (same) to 1 (nothing in common).
        p_value: How often chance alone gives this distance or more, above 0, at most 1.
        n: Values in the window.
        n_baseline: Values in the baseline.
    """

    column: str
    distance: float
    p_value: float
    n: int
    n_baseline: int


def compare(current: Summary, baseline: Summary, *, seed: int = 0) -> tuple[Distance, ...]:
    """Compare the judged columns of two summaries.

    Args:
        current: The window.
        baseline: What it is held against.
        seed: Makes the permutations the same each time.

    Returns:
        A distance for each column that has at least ``MIN_ROWS`` values on both sides, the largest first.
    """
    found = []
    for column, worse in JUDGED:
        new, old = getattr(current, column), getattr(baseline, column)
        if min(new.n, old.n) >= MIN_ROWS:
            found.append(measure(column, new, old, worse=worse, rng=np.random.default_rng(seed)))
    return tuple(sorted(found, key=lambda distance: -distance.distance))


def measure(
    column: str, current: Column, baseline: Column, *, worse: Worse = "either", rng: np.random.Generator
) -> Distance:
    """Measure one column.

    Args:
        column: Its name, for the result.
        current: Its counts in the window, at least one.
        baseline: Its counts in the baseline, at least one.
        worse: Which direction counts; only numbers have one.
        rng: Draws the permutations.
    """
    new, old = _aligned(current, baseline)
    ordered = isinstance(current, Histogram)
    seen = float(_distance(new[None, :], old[None, :], ordered=ordered, worse=worse)[0])
    drawn = rng.multivariate_hypergeometric(new + old, int(new.sum()), size=PERMUTATIONS, method="marginals")
    chance = _distance(drawn, new + old - drawn, ordered=ordered, worse=worse)
    as_far = int(np.count_nonzero(chance >= seen - 1e-12))
    return Distance(
        column=column,
        distance=seen,
        p_value=(as_far + 1) / (PERMUTATIONS + 1),
        n=int(new.sum()),
        n_baseline=int(old.sum()),
    )


def _aligned(current: Column, baseline: Column) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    new, old = _counts(current), _counts(baseline)
    keys = [*new, *(key for key in old if key not in new)]
    if isinstance(current, Histogram):
        keys.sort()
    return np.array([new.get(key, 0) for key in keys]), np.array([old.get(key, 0) for key in keys])


def _counts(column: Column) -> dict[Any, int]:
    return dict(column.bins if isinstance(column, Histogram) else column.counts)


def _distance(new: NDArray[np.int64], old: NDArray[np.int64], *, ordered: bool, worse: Worse) -> NDArray[np.float64]:
    difference = new / new.sum(axis=1, keepdims=True) - old / old.sum(axis=1, keepdims=True)
    if not ordered:
        return np.asarray(np.abs(difference).sum(axis=1) / 2)
    cumulated = difference.cumsum(axis=1)
    if worse == "lower":
        return np.asarray(cumulated.max(axis=1).clip(min=0.0))
    if worse == "higher":
        return np.asarray((-cumulated).max(axis=1).clip(min=0.0))
    return np.asarray(np.abs(cumulated).max(axis=1))
