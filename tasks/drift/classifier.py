"""A linear classifier for two sets of texts that is quick enough to be fitted a few hundred times.

It weighs a feature by the difference of its means over its variance, and leaves out what may be chance. It is fitted
on one half of the users or sessions and scores the other, both ways round, for many columns of labels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FEWEST_ITEMS: Final = 3
"""A feature of fewer items says nothing."""
WEAK: Final = 1.5
"""A difference of fewer standard errors is taken for chance by the classifier."""
FALSE_ALARMS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Shares of the baseline that score above a cut; at each it is asked how much more of the window does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its bounds, each end at the level that was asked for."""

    value: float
    low: float
    high: float


def collapse_units(
    rows: Any, current: Sequence[str], baseline: Sequence[str]
) -> tuple[Any, NDArray[np.int64], list[str], NDArray[np.int64]]:
    """Return an item a unit and side: the mean of its rows, with the features that enough items have."""
    from scipy import sparse

    keys = [(unit, 1) for unit in current] + [(unit, 0) for unit in baseline]
    index = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    item = np.array([index[key] for key in keys])
    weight = (1 / np.bincount(item))[item]
    average = sparse.csr_matrix(
        (weight.astype(np.float32), (item, np.arange(len(item)))), shape=(len(index), len(item))
    )
    means = (average @ rows).tocsc()
    means = means[:, np.diff(means.indptr) >= FEWEST_ITEMS].tocsr()
    return means, item, [unit for unit, _ in index], np.array([side for _, side in index])


def permute_labels(labels: NDArray[np.int64], folds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the labels drawn anew within each fold."""
    drawn = labels.copy()
    for fold in (0, 1):
        drawn[folds == fold] = rng.permutation(labels[folds == fold])
    return drawn


def cross_fit(
    items: Any, labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of all items by the fit on the other fold, and the AUC, for each column of labels."""
    scores = np.zeros(labels.shape)
    total = np.zeros(labels.shape[1])
    for fold in (0, 1):
        test, train = folds == fold, folds != fold
        weights = _fit(items[train], labels[train])
        scores[test] = items[test] @ weights
        total += _auc(scores[test], labels[test])
    return scores, total / 2


def _fit(items: Any, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a weight a feature: the difference of the means over its variance, nothing where it may be chance."""
    n, n_new = len(labels), labels.sum(axis=0)
    sums = items.T @ labels.astype(np.float32)
    total = np.asarray(items.sum(axis=0)).ravel()
    squares = np.asarray(items.multiply(items).sum(axis=0)).ravel()
    variance = np.maximum(squares / n - (total / n) ** 2, 0) + 1 / n
    difference = sums / n_new - (total[:, None] - sums) / (n - n_new)
    error = np.sqrt(variance[:, None] * (1 / n_new + 1 / (n - n_new)))
    certain = np.sign(difference) * np.maximum(np.abs(difference) - WEAK * error, 0)
    return np.asarray(certain / variance[:, None], dtype=np.float32)


def _auc(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    n_new = labels.sum(axis=0)
    ranks = (rankdata(scores, axis=0) * labels).sum(axis=0)
    return np.asarray((ranks - n_new * (n_new + 1) / 2) / (n_new * (len(labels) - n_new)))


def measure_auc(scores: NDArray[np.float64], labels: NDArray[np.int64], folds: NDArray[np.int64], z: float) -> Interval:
    """Return the mean AUC of the folds with its interval by DeLong, ``z`` standard errors to each side."""
    variance, value = 0.0, 0.0
    for fold in (0, 1):
        new, old = (np.sort(scores[(folds == fold) & (labels == side)]) for side in (1, 0))
        above = (np.searchsorted(old, new, "left") + np.searchsorted(old, new, "right")) / 2 / len(old)
        below = (np.searchsorted(new, old, "left") + np.searchsorted(new, old, "right")) / 2 / len(new)
        # As if one more item were misplaced: a perfect separation is not free of error.
        floor = 1 / (4 * min(len(new), len(old)) ** 2)
        variance += (above.var(ddof=1) / len(new) + below.var(ddof=1) / len(old) + floor) / 4
        value += float(above.mean()) / 2
    margin = z * float(np.sqrt(variance))
    return Interval(value=value, low=max(0.0, value - margin), high=min(1.0, value + margin))


def measure_share(
    scores: NDArray[np.float64], labels: NDArray[np.int64], folds: NDArray[np.int64], level: float
) -> Interval:
    """Return how much larger a share of the window than of the baseline scores above the best of a few cuts.

    It is a lower bound of the share of texts that changed. Each end of the interval is wrong with a chance of
    ``level`` at most, whichever cut is the best.
    """
    shares = np.zeros((2, len(FALSE_ALARMS)))
    for fold in (0, 1):
        new, old = (scores[(folds == fold) & (labels == side)] for side in (1, 0))
        cuts = np.quantile(old, 1 - np.array(FALSE_ALARMS))
        shares += [[float((side > cut).mean()) / 2 for cut in cuts] for side in (new, old)]
    n = np.array([labels.sum(), len(labels) - labels.sum()])[:, None]
    # One item more on each side: no share is free of error.
    smooth = (shares * n + 0.5) / (n + 1)
    error = np.sqrt((smooth * (1 - smooth) / n).sum(axis=0))
    margin = NormalDist().inv_cdf(1 - level / len(FALSE_ALARMS)) * error
    difference = shares[0] - shares[1]
    at = int(np.argmax(difference - margin))
    value = float(max(0.0, difference[at]))
    return Interval(value=value, low=max(0.0, value - float(margin[at])), high=min(1.0, value + float(margin[at])))
