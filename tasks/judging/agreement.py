"""How far a judge can be believed: its agreement with people, and an honest mean from a judge and some labels.

A judge alone is biased by an unknown amount. Prediction-powered inference takes its word on all answers and corrects
it by the difference that people's labels show on some of them; a judge that says nothing then costs nothing.

References:
    Cohen 1960; Fleiss, Cohen and Everitt 1969 (the variance of kappa); Angelopoulos, Duchi and Zrnic 2023, "PPI++:
    Efficient Prediction-Powered Inference" (arXiv 2311.01453).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError

MIN_LABELS: Final = 100
"""Fewer labels than this give an interval that covers the truth too rarely."""
MIN_PAIRS: Final = 20
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A measured value with two-sided bounds.

    Attributes:
        value, low, high: In the unit of what was measured.
        n: How many labels, pairs or answers it rests on.
        level: How often such bounds hold the truth, such as 0.95.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    @property
    def words(self) -> str:
        """The value and its bounds, for people."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def wilson(count: float, n: int, level: float = 0.95) -> Interval | None:
    """Return a share with Wilson's two-sided bounds; None where ``n`` is 0.

    A tie may count as half: whatever lies between 0 and 1 varies less than what is either, so the bounds hold.
    """
    if n == 0:
        return None
    z, share = _z(level), count / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - margin), min(1.0, centre + margin)
    return Interval(value=share, low=min(low, share), high=max(high, share), n=n, level=level)


def measure_kappa(
    one: Sequence[Hashable],
    other: Sequence[Hashable],
    *,
    weights: Literal["none", "quadratic"] = "none",
    level: float = 0.95,
) -> Interval | None:
    """Return Cohen's kappa of two judges with its large-sample interval.

    Args:
        one: A label an answer; None is missing, and the pair is left out.
        other: The labels of the other judge, in the same order.
        weights: With ``quadratic``, labels that lie closer in sorted order disagree less; they must be numbers.
        level: How often the bounds hold the truth.

    Returns:
        1 is full agreement, 0 what chance gives. None where both gave one and the same label to everything.

    Raises:
        InputError: There are fewer than ``MIN_PAIRS`` pairs.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(pairs) < MIN_PAIRS:
        raise InputError.of("labelled pairs", len(pairs), f"{MIN_PAIRS} or more; let people label more answers")
    labels = sorted({label for pair in pairs for label in pair}, key=_order)
    places = {label: at for at, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for a, b in pairs:
        table[places[a], places[b]] += 1
    return _kappa(table, _agreement(labels, weights), level)


def estimate_with_labels(
    judged: Values,
    labelled: Values,
    *,
    weights: Values | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the mean that people would have given, from a judge on all answers and people's labels on some.

    The labelled answers must be drawn at random from all of them, or with the weights given. Whatever the judge's
    bias, the interval holds the truth about as often as ``level`` says; it is never much wider than that of the
    labels alone.

    Args:
        judged: The judge's score of every answer; NaN where it has none, and the answer is left out.
        labelled: People's score of the same answers, in the same order and unit; NaN where nobody labelled.
        weights: How many answers each stands for; 1 without it.
        level: How often the bounds hold the truth.

    Raises:
        InputError: There are fewer than ``MIN_LABELS`` labels, or no judged answers without one.
    """
    known = ~np.isnan(judged)
    mine = known & ~np.isnan(labelled)
    rest = known & np.isnan(labelled)
    n, n_rest = int(mine.sum()), int(rest.sum())
    if n < MIN_LABELS or n_rest == 0:
        raise InputError.of("labels", f"{n} labelled, {n_rest} judged only", f"{MIN_LABELS} labels, 1 judged only")
    weight = np.ones(len(judged)) if weights is None else weights
    return _power(labelled[mine], judged[mine], judged[rest], (weight[mine], weight[rest]), level)


def estimate_mean(values: Values, *, weights: Values | None = None, level: float = 0.95) -> Interval | None:
    """Return a weighted mean with its interval; NaN is left out, None where fewer than 2 values are left."""
    known = ~np.isnan(values)
    if known.sum() < 2:  # noqa: PLR2004
        return None
    weight = np.ones(len(values)) if weights is None else weights
    share = weight[known] / weight[known].sum()
    value = float(share @ values[known])
    margin = _t(level, 1.0 / float(share @ share) - 1) * math.sqrt(_variance(values[known], share))
    return Interval(value=value, low=value - margin, high=value + margin, n=int(known.sum()), level=level)


def estimate_with_predictor(
    judged: Values, predicted: Values, weights: Values, *, level: float = 0.95
) -> Interval | None:
    """Return the mean that a judge would have given to all answers, from its scores of a sample and a cheap predictor.

    The predictor may be as wrong as it likes: what it says of all answers is corrected by how it differs from the
    judge on the sample. It only makes the interval narrower, and with fewer than ``MIN_LABELS`` scores it is left out.

    Args:
        judged: The judge's score of every answer; NaN where it has none.
        predicted: What the predictor says of every answer; NaN is taken as its mean.
        weights: For how many answers each judged one stands; 0 where it has no score.
        level: How often the bounds hold the truth.

    Returns:
        None where fewer than 2 answers have a score.
    """
    mine = ~np.isnan(judged) & (weights > 0)
    known = ~np.isnan(predicted)
    if mine.sum() < MIN_LABELS or not known.any():
        return estimate_mean(np.where(mine, judged, np.nan), weights=weights, level=level)
    guess = np.where(known, predicted, predicted[known].mean())
    return _power(judged[mine], guess[mine], guess, (weights[mine], np.ones(len(guess))), level)


def _power(truth: Values, said: Values, said_rest: Values, weights: tuple[Values, Values], level: float) -> Interval:
    share, share_rest = (weight / weight.sum() for weight in weights)
    trust = _trust(truth, said, said_rest, share, share_rest)
    value = float(share @ (truth - trust * said)) + trust * float(share_rest @ said_rest)
    variance = _variance(truth - trust * said, share) + trust**2 * _variance(said_rest, share_rest)
    margin = _t(level, 1.0 / float(share @ share) - 1) * math.sqrt(variance)
    return Interval(value=value, low=value - margin, high=value + margin, n=len(truth), level=level)


def _trust(truth: Values, said: Values, said_rest: Values, share: Values, share_rest: Values) -> float:
    """Return how much the judge's word is worth, 0 to 1: what makes the interval shortest (lambda of PPI++)."""
    spread = _variance(said, share) + _variance(said_rest, share_rest)
    if spread <= 0:
        return 0.0
    centred = (truth - share @ truth) * (said - share @ said)
    effective = 1.0 / float(share @ share)
    covariance = float(np.sum(share**2 * centred)) * effective / max(effective - 1, 1.0)
    return min(1.0, max(0.0, covariance / spread))


def _variance(values: Values, share: Values) -> float:
    """Return the variance of the weighted mean of values; ``share`` adds up to 1."""
    effective = 1.0 / float(share @ share)
    return float(np.sum(share**2 * (values - share @ values) ** 2)) * effective / max(effective - 1, 1.0)


def _kappa(table: Values, agreement: Values, level: float) -> Interval | None:
    n = table.sum()
    shares = table / n
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    seen, by_chance = float((agreement * shares).sum()), float(rows @ agreement @ columns)
    if by_chance >= 1:
        return None
    value = (seen - by_chance) / (1 - by_chance)
    margins = (agreement @ columns)[:, None] + (rows @ agreement)[None, :]
    inner = (shares * (agreement * (1 - by_chance) - margins * (1 - seen)) ** 2).sum()
    variance = (inner - (seen * by_chance - 2 * by_chance + seen) ** 2) / (n * (1 - by_chance) ** 4)
    margin = _z(level) * math.sqrt(max(0.0, float(variance)))
    return Interval(value=value, low=max(-1.0, value - margin), high=min(1.0, value + margin), n=int(n), level=level)


def _agreement(labels: Sequence[Hashable], weights: str) -> Values:
    if weights == "none":
        return np.eye(len(labels))
    if not all(isinstance(label, int | float) for label in labels):
        raise InputError.of("weights", weights, "none, because the labels are not numbers")
    places = np.array([float(str(label)) if not isinstance(label, bool) else float(label) for label in labels])
    spread = float(places.max() - places.min()) or 1.0
    return np.asarray(1 - ((places[:, None] - places[None, :]) / spread) ** 2, dtype=np.float64)


def _order(label: Hashable) -> tuple[int, float, str]:
    return (0, float(label), "") if isinstance(label, int | float) else (1, 0.0, str(label))


def _z(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2))


def _t(level: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, max(freedom, 1.0)))
