"""Drift of numbers and words between two scans: sizes in the user's units, each with an interval.

Numbers: the ratio (or difference) of the means and of the 50th and 95th percentiles, and Kolmogorov-Smirnov's
distance of the whole distributions. Everything is read from logarithmic bins, so a column of pico-USD is treated as
one of milliseconds. Percentile intervals are Woodruff's, put together by MOVER; the distance has the
Dvoretzky-Kiefer-Wolfowitz band. Words: total variation, the share of calls whose word changed, less what chance
adds to it. All intervals rest on effective numbers of rows (``columns.effective_n``), and on how much the
baseline's own nights differ where it knows several.

References: Woodruff (1952); Zou & Donner (2008), MOVER; Massart (1990), the constant of DKW; Kamath et al. (2015),
the expected total variation of an empirical distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.drift.columns import CategoryColumn, NumberColumn, Scan
from tasks.drift.effects import Change, Effect, make_effect, make_floor_effect
from tasks.drift.nights import Watched
from tasks.evaluation.summary import BIN_RATIO, SMALLEST

GROSS: Final = 4
"""Where nothing is known of ordinary nights, a change must be this many times the smallest that matters."""
QUANTILES: Final = (("p50", 0.5), ("p95", 0.95))
_MEASURES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRule:
    """How a window is held against a baseline.

    Attributes:
        watched: The columns of numbers, each with the smallest change that matters.
        categories: The columns of words.
        alpha: The chance that anything fails while nothing is wrong, over all columns and measures, 0 to 1.
        least_distance: The smallest Kolmogorov-Smirnov distance or total variation that matters, 0 to 1.
        night_sd: Column and measure to its standard deviation over ordinary nights, in the unit of the change.
        knows_nights: Whether ``night_sd`` is known; if not, only gross changes fail.
    """

    watched: tuple[Watched, ...]
    categories: tuple[str, ...] = ()
    alpha: float = 0.01
    least_distance: float = 0.1
    night_sd: Mapping[tuple[str, str], float] = field(default_factory=dict)
    knows_nights: bool = True

    @property
    def level(self) -> float:
        """The share of alpha of one measure of one column."""
        return self.alpha / max(1, _MEASURES * len(self.watched) + len(self.categories))

    @property
    def factor(self) -> int:
        """How many smallest changes a change must be."""
        return 1 if self.knows_nights else GROSS


def compare_scans(current: Scan, baseline: Scan, rule: NumberRule) -> tuple[Effect, ...]:
    """Compare every column of a rule.

    Args:
        current: The window.
        baseline: What it is held against; it has the columns of the rule.
        rule: What is compared, and how strictly.

    Returns:
        The effects, in the order of the rule; a column with too little on a side has one that says so.
    """
    found: list[Effect] = []
    for watched in rule.watched:
        found += compare_numbers(current.number(watched.name), baseline.number(watched.name), watched, rule)
    for name in rule.categories:
        found.append(compare_words(current.category(name), baseline.category(name), rule))
    return tuple(found)


def compare_numbers(
    current: NumberColumn, baseline: NumberColumn, watched: Watched, rule: NumberRule
) -> tuple[Effect, ...]:
    """Compare one column of numbers by its mean, two percentiles and its distribution."""
    n, n_baseline = current.histogram.n, baseline.histogram.n
    sizes = (current.effective_n, baseline.effective_n)
    floor = make_floor_effect(watched.name, n, n_baseline, min(sizes))
    if floor:
        return (floor,)
    new, old = _Bins.of(current, watched), _Bins.of(baseline, watched)
    z = NormalDist().inv_cdf(1 - rule.level / 2)
    nights = {measure: z * rule.night_sd.get((watched.name, measure), 0.0) for measure in ("mean", "p50", "p95")}
    changes = [("mean", _mean_change(new, old, z, nights["mean"]))]
    changes += [(name, _quantile_change(new, old, share, z, nights[name])) for name, share in QUANTILES]
    effects = [
        make_effect(
            watched.name,
            measure,
            change,
            least=watched.least * rule.factor,
            side=watched.side,
            scale=watched.scale,
            n=n,
            n_baseline=n_baseline,
        )
        for measure, change in changes
    ]
    distance, band = measure_distance(current, baseline, watched), _band(rule, *sizes)
    whole = _distance_effect(
        watched.name, (n, n_baseline), measure="distribution", distance=distance, band=band, rule=rule
    )
    return (*effects, whole)


def measure_distance(current: NumberColumn, baseline: NumberColumn, watched: Watched) -> float:
    """Return Kolmogorov-Smirnov's distance on the bins, 0 to 1; of the worse side only where there is one."""
    new, old = _aligned(current.histogram.bins, baseline.histogram.bins)
    if not new.sum() or not old.sum():
        return 0.0
    lower = (new / new.sum() - old / old.sum()).cumsum()
    worse = {"both": np.abs(lower), "high": -lower, "low": lower}[watched.side]
    return float(max(0.0, worse.max()))


def compare_words(current: CategoryColumn, baseline: CategoryColumn, rule: NumberRule) -> Effect:
    """Compare one column of words by total variation."""
    n, n_baseline = current.categories.n, baseline.categories.n
    sizes = (current.effective_n, baseline.effective_n)
    floor = make_floor_effect(current.name, n, n_baseline, min(sizes))
    if floor:
        return floor
    new, old = _aligned(current.categories.counts, baseline.categories.counts)
    shares = (new / new.sum(), old / old.sum())
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    by_chance = sum(
        float(np.sqrt(share * (1 - share) / (2 * math.pi * size)).sum())
        for share, size in zip(shares, sizes, strict=True)
    )
    band = by_chance + math.sqrt(math.log(1 / rule.level) / 2 * sum(1 / size for size in sizes))
    return _distance_effect(current.name, (n, n_baseline), measure="words", distance=distance, band=band, rule=rule)


def level_of(column: NumberColumn, watched: Watched) -> float | None:
    """Return the mean of a column in the unit of its change: of the logarithms of what is above 0, or of the values."""
    bins = _Bins.of(column, watched)
    return bins.mean if bins.weights.sum() else None


def quantile_of(column: NumberColumn, watched: Watched, share: float) -> float | None:
    """Return a quantile of a column in the unit of its change; None if it is empty."""
    bins = _Bins.of(column, watched)
    return bins.quantile(share) if bins.weights.sum() else None


@dataclass(frozen=True, slots=True)
class _Bins:
    """A histogram on the scale that changes are told in: logarithms, or plain values."""

    edges: NDArray[np.float64]
    weights: NDArray[np.float64]
    is_ratio: bool
    effective_n: float

    @classmethod
    def of(cls, column: NumberColumn, watched: Watched) -> _Bins:
        bins = np.array(column.histogram.bins, dtype=np.float64).reshape(-1, 2)
        return cls(bins[:, 0], bins[:, 1], watched.scale == "ratio", column.effective_n)

    def place(self, edge: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return the value at a place among the bins; bin b covers b - 1 to b."""
        logs = math.log(SMALLEST) + np.asarray(edge) * math.log(BIN_RATIO)
        return logs if self.is_ratio else np.where(np.asarray(edge) <= 0, 0.0, np.exp(logs))

    @property
    def _centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        kept = self.edges > 0 if self.is_ratio else np.ones(len(self.edges), bool)
        return self.place(np.where(self.edges > 0, self.edges - 0.5, -1.0))[kept], self.weights[kept]

    @property
    def mean(self) -> float:
        values, weights = self._centres
        return float(np.average(values, weights=weights)) if weights.sum() else math.log(SMALLEST)

    @property
    def error(self) -> float:
        values, weights = self._centres
        if not weights.sum():
            return 0.0
        share = weights.sum() / self.weights.sum()
        return math.sqrt(float(np.average((values - self.mean) ** 2, weights=weights)) / (self.effective_n * share))

    def quantile(self, share: float) -> float:
        cumulated = np.concatenate(([0.0], self.weights.cumsum())) / self.weights.sum()
        at = min(int(np.searchsorted(cumulated, min(max(share, 0.0), 1.0), side="left")), len(self.edges))
        if at == 0:
            return float(self.place(self.edges[0] - 1))
        part = (share - cumulated[at - 1]) / (cumulated[at] - cumulated[at - 1])
        return float(self.place(self.edges[at - 1] - 1 + min(max(part, 0.0), 1.0)))

    def interval(self, share: float, z: float) -> tuple[float, float, float]:
        error = z * math.sqrt(share * (1 - share) / self.effective_n)
        return self.quantile(share), self.quantile(share - error), self.quantile(share + error)


def _mean_change(new: _Bins, old: _Bins, z: float, nights: float) -> Change:
    change = new.mean - old.mean
    margin = math.hypot(z * new.error, z * old.error, nights)
    return Change(value=change, low=change - margin, high=change + margin)


def _quantile_change(new: _Bins, old: _Bins, share: float, z: float, nights: float) -> Change:
    (value, low, high), (was, was_low, was_high) = new.interval(share, z), old.interval(share, z)
    return Change(
        value=value - was,
        low=value - was - math.hypot(value - low, was_high - was, nights),
        high=value - was + math.hypot(high - value, was - was_low, nights),
    )


def _band(rule: NumberRule, *sizes: float) -> float:
    return math.sqrt(math.log(2 / rule.level) / 2 * sum(1 / size for size in sizes))


def _distance_effect(
    name: str, counts: tuple[int, int], *, measure: str, distance: float, band: float, rule: NumberRule
) -> Effect:
    change = Change(value=distance, low=max(0.0, distance - band), high=min(1.0, distance + band))
    least = min(0.5, rule.least_distance * rule.factor)
    n, n_baseline = counts
    return make_effect(name, measure, change, least=least, side="high", scale="difference", n=n, n_baseline=n_baseline)


def _aligned(
    new: Iterable[tuple[Any, int]], old: Iterable[tuple[Any, int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the counts of both sides at the same bins or words, in their order."""
    first, second = dict(new), dict(old)
    keys = sorted({*first, *second})
    return np.array([first.get(key, 0) for key in keys], float), np.array([second.get(key, 0) for key in keys], float)
