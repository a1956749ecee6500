from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks.errors import InputError
from tasks.scoring.calibration import RIDGE, Calibration, _platt, calibrate
from tasks.scoring.people import calibration_row, latest_calibration

MADE = datetime(2026, 1, 2, tzinfo=UTC)


def labelled(n: int, seed: int = 1) -> tuple[np.ndarray, list[bool | None]]:
    """Return scores that order answers well and say too much: the chance of a good answer is their cube."""
    source = np.random.default_rng(seed)
    scores = source.random(n)
    return scores, [bool(value) for value in source.random(n) < scores**3]


@pytest.fixture(scope="module")
def made() -> Calibration:
    return calibrate("quality support-1", *labelled(200), seed=7)


def test_a_score_becomes_the_probability_it_should_have_been(made: Calibration) -> None:
    fresh = np.random.default_rng(9).random(4000)
    assert np.abs(made.apply(fresh) - fresh**3).mean() < 0.06
    assert np.abs(fresh - fresh**3).mean() > 0.2
    assert made.helps
    assert made.brier < made.base_brier


def test_missing_stays_missing_and_order_is_kept(made: Calibration) -> None:
    found = made.apply(np.array([0.9, np.nan, 0.1, 5.0, -5.0]))
    assert np.isnan(found).tolist() == [False, True, False, False, False]
    assert found[0] > found[2]
    assert found[3] >= found[0]
    assert (found[[0, 2, 3, 4]] >= 0).all()
    assert (found[[0, 2, 3, 4]] <= 1).all()


def test_platts_curve_is_that_of_scikit_learn() -> None:
    scores, labels = labelled(300)
    model = LogisticRegression(C=1 / RIDGE).fit(scores[:, None], labels)
    slope, intercept = _platt(scores, np.array(labels, dtype=np.float64))
    assert [slope, intercept] == pytest.approx([model.coef_[0, 0], model.intercept_[0]], rel=1e-3)
    sure = _platt(np.array([0.0, 1.0] * 30), np.array([0.0, 1.0] * 30))
    assert np.isfinite(sure).all()


def test_the_band_says_how_far_the_curve_can_be_trusted() -> None:
    few, many = calibrate("s", *labelled(60), seed=7), calibrate("s", *labelled(2000), seed=7)
    widths = [np.mean(np.array(one.high) - np.array(one.low)) for one in (few, many)]
    assert widths[0] > 2.5 * widths[1] > 0


def test_a_score_that_says_nothing_does_not_help() -> None:
    scores, labels = labelled(200)
    found = calibrate("s", np.random.default_rng(5).permutation(scores), labels, seed=7)
    assert not found.helps


def test_a_curve_with_a_step_is_isotonic() -> None:
    scores = np.random.default_rng(3).random(200)
    assert calibrate("s", scores, [bool(0.3 < value < 2) for value in scores], seed=1).kind in {"isotonic", "platt"}
    source = np.random.default_rng(4)
    odd = np.where(scores < 0.5, 0.45, 0.55) + 0.4 * (scores > 0.9)
    assert calibrate("s", scores, (source.random(200) < odd).tolist(), seed=1).brier <= 0.26


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.ones(49), [True, False] * 24 + [True], "labels: 49 is not allowed; allowed: 50 or more; let people label"),
        (np.ones(60), [True] * 60, "'60 good, 0 bad' is not allowed; allowed: 5 or more of each"),
        (np.ones(60), [True] * 10 + [None] * 50, "labels: 10 is not allowed"),
        (np.full(60, np.nan), [True, False] * 30, "labels: 0 is not allowed"),
    ],
)
def test_too_few_labels_are_refused(scores: np.ndarray, labels: list[bool | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate("s", scores, labels, seed=1)


def test_it_is_kept_as_a_small_row_and_the_same_seed_gives_the_same(made: Calibration) -> None:
    row = calibration_row("faq", "people", made, MADE)
    stored = latest_calibration(row)
    assert stored is not None
    assert stored.calibration == made
    assert len(row["content"][0].as_py()) < 4000
    assert calibrate("quality support-1", *labelled(200), seed=7).digest == made.digest


def test_a_curve_that_is_none_is_refused(made: Calibration) -> None:
    with pytest.raises(ValueError, match="isotonic has as many x as y, in order"):
        Calibration.model_validate({**made.model_dump(), "kind": "isotonic", "x": [0.2, 0.1]})
