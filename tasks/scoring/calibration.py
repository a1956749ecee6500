"""A score made a probability by 50 to 200 labels from people.

A score orders answers; it does not say how many of those with 0.8 are good. Two curves are fitted, Platt's and the
isotonic one, and the one that predicts held-out labels better is kept. A calibration is small, has a digest, and
holds numbers only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.errors import InputError

MIN_LABELS: Final = 50
MIN_EACH: Final = 5
"""Labels of the rarer kind; with fewer no fold of the cross-validation holds one."""
_FOLDS: Final = 5
_ROUNDS: Final = 200
_GRID: Final = 11
_MARGIN: Final = 1e-3
RIDGE: Final = 1e-2
_INTERCEPT: Final = 1e-3
_STEPS: Final = 100
_LONGEST: Final = 10.0
Values = NDArray[np.float64]
Curve = Callable[[Values], Values]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Calibration(BaseModel):
    """A curve from a score to the probability that people call the answer good.

    Attributes:
        score: What is calibrated: the name of a score and its version, such as ``quality support-1``.
        kind: ``platt`` or ``isotonic``.
        x, y: Platt: the slope and intercept in ``y``, no ``x``. Isotonic: the corners of the curve.
        labels, positives: How many labels it rests on, and how many of them say good.
        brier: Mean squared error on held-out labels; ``brier_se`` is its standard error.
        base_brier: The same for saying the same to every answer.
        grid, low, high: Scores, and between which probabilities the curve lies at each, by 90 % of resampled fits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: str = Field(min_length=1, max_length=200)
    kind: Literal["platt", "isotonic"]
    x: tuple[Finite, ...]
    y: tuple[Finite, ...]
    labels: int = Field(ge=MIN_LABELS)
    positives: int = Field(ge=MIN_EACH)
    brier: Share
    brier_se: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    base_brier: Share
    grid: tuple[Finite, ...]
    low: tuple[Share, ...]
    high: tuple[Share, ...]

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if self.kind == "platt" and (self.x or len(self.y) != 2):  # noqa: PLR2004
            raise ValueError("platt has no x, and slope and intercept in y")
        if self.kind == "isotonic" and (len(self.x) != len(self.y) or not self.x or list(self.x) != sorted(self.x)):
            raise ValueError("isotonic has as many x as y, in order")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the calibration, 64 hexadecimal digits."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def helps(self) -> bool:
        """Whether it predicts labels better than the same word for every answer, beyond one standard error."""
        return self.brier + self.brier_se < self.base_brier

    def apply(self, scores: Values) -> Values:
        """Return the probability of each score; NaN stays NaN."""
        curve = _platt_curve(*self.y) if self.kind == "platt" else _steps(np.array(self.x), np.array(self.y))
        known = ~np.isnan(scores)
        found = np.full(len(scores), np.nan)
        found[known] = curve(scores[known])
        return found


def calibrate(score: str, scores: Values, labels: Sequence[bool | None], seed: int) -> Calibration:
    """Fit a calibration.

    Args:
        score: What is calibrated, for people.
        scores: A score an answer; NaN is left out.
        labels: Whether people call it good; None is left out.
        seed: For the folds and the resampling; the same seed gives the same file.

    Raises:
        InputError: Fewer than ``MIN_LABELS`` labelled answers, or fewer than ``MIN_EACH`` of one kind.
    """
    known = np.array([label is not None for label in labels]) & ~np.isnan(scores)
    x, y = scores[known], np.array([bool(label) for label in labels], dtype=np.float64)[known]
    positives = int(y.sum())
    if len(y) < MIN_LABELS:
        raise InputError.of("labels", len(y), f"{MIN_LABELS} or more; let people label more answers")
    if min(positives, len(y) - positives) < MIN_EACH:
        kinds = f"{positives} good, {len(y) - positives} bad"
        raise InputError.of("labels", kinds, f"{MIN_EACH} or more of each; label answers of the rarer kind")
    errors = {kind: _held_out(fit, x, y, seed) for kind, fit in _FITS.items()}
    kind = min(errors, key=lambda name: float(errors[name].mean()))
    grid = np.linspace(x.min(), x.max(), _GRID)
    low, high = _band(_FITS[kind], x, y, grid, seed)
    xs, ys = _numbers(kind, x, y)
    return Calibration(
        score=score, kind=kind, x=xs, y=ys, labels=len(y), positives=positives,
        brier=float(errors[kind].mean()), brier_se=float(errors[kind].std(ddof=1) / np.sqrt(len(y))),
        base_brier=float(y.mean() * (1 - y.mean())), grid=_short(grid), low=_short(low), high=_short(high),
    )  # fmt: skip


def _fit_platt(x: Values, y: Values) -> Curve:
    return _platt_curve(*_platt(x, y))


def _platt(x: Values, y: Values) -> tuple[float, float]:
    """Return slope and intercept of the logistic curve by Newton's method, with a ridge that keeps both finite.

    It is the curve of scikit-learn's ``LogisticRegression(C=1 / RIDGE)``, many times as fast on so few labels.
    """
    rows = np.column_stack([x, np.ones(len(x))])
    ridge = np.diag([RIDGE, RIDGE * _INTERCEPT])
    found = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(rows @ found, -50, 50)))
        slope = rows.T @ (chance - y) + ridge @ found
        step = np.linalg.solve(rows.T @ (rows * (chance * (1 - chance))[:, None]) + ridge, slope)
        found = found - np.clip(step, -_LONGEST, _LONGEST)
        if np.abs(step).max() < 1e-8:  # noqa: PLR2004
            break
    return float(found[0]), float(found[1])


def _platt_curve(slope: float, intercept: float) -> Curve:
    return lambda x: np.asarray(1 / (1 + np.exp(-np.clip(slope * x + intercept, -50, 50))), dtype=np.float64)


def _fit_isotonic(x: Values, y: Values) -> Curve:
    return _steps(*_isotonic(x, y))


def _isotonic(x: Values, y: Values) -> tuple[Values, Values]:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=_MARGIN, y_max=1 - _MARGIN, out_of_bounds="clip").fit(x, y)
    return np.asarray(model.X_thresholds_), np.asarray(model.y_thresholds_)


def _steps(x: Values, y: Values) -> Curve:
    return lambda new: np.interp(new, x, y)


_FITS: Final[dict[Literal["platt", "isotonic"], Callable[[Values, Values], Curve]]] = {
    "platt": _fit_platt,
    "isotonic": _fit_isotonic,
}


def _numbers(kind: str, x: Values, y: Values) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if kind == "platt":
        return (), _platt(x, y)
    corners = _isotonic(x, y)
    return _short(corners[0]), _short(corners[1])


def _held_out(fit: Callable[[Values, Values], Curve], x: Values, y: Values, seed: int) -> Values:
    """Return the squared error of each label, predicted from the other folds."""
    from sklearn.model_selection import StratifiedKFold

    errors = np.empty(len(y))
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(x[:, None], y):
        errors[test] = (fit(x[train], y[train])(x[test]) - y[test]) ** 2
    return errors


def _band(
    fit: Callable[[Values, Values], Curve], x: Values, y: Values, grid: Values, seed: int
) -> tuple[Values, Values]:
    source = np.random.default_rng(seed)
    draws = [source.integers(0, len(y), len(y)) for _ in range(_ROUNDS)]
    curves = np.array([fit(x[drawn], y[drawn])(grid) for drawn in draws])
    return np.quantile(curves, 0.05, axis=0), np.quantile(curves, 0.95, axis=0)


def _short(values: Values) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
