from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tasks.errors import InputError
from tasks.judging.agreement import estimate_mean, estimate_with_labels, measure_kappa, wilson


class TestKappa:
    def test_a_table_computed_by_hand(self) -> None:
        # 20 both yes, 5 and 10 split, 15 both no: agreement 0.70, by chance 0.50, kappa 0.40.
        one = ["yes"] * 25 + ["no"] * 25
        other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
        found = measure_kappa(one, other)
        assert found is not None
        assert found.value == pytest.approx(0.4)
        # Fleiss, Cohen and Everitt: (A + B - C) / ((1 - pe)² sqrt(n)), on paper: A .02743, B .02547, C .0025.
        assert (found.high - found.value) / 1.959964 == pytest.approx(0.1269961, abs=1e-6)
        assert found.n == 50

    def test_it_is_that_of_scikit_learn(self) -> None:
        source = np.random.default_rng(5)
        one = source.integers(1, 6, 300)
        other = np.clip(one + source.integers(-1, 2, 300), 1, 5)
        plain, weighted = (
            measure_kappa(one.tolist(), other.tolist()),
            measure_kappa(one.tolist(), other.tolist(), weights="quadratic"),
        )
        assert plain is not None
        assert weighted is not None
        assert plain.value == pytest.approx(cohen_kappa_score(one, other))
        assert weighted.value == pytest.approx(cohen_kappa_score(one, other, weights="quadratic"))
        assert weighted.value > plain.value

    def test_full_agreement_and_none(self) -> None:
        both = ["a", "b"] * 20
        found = measure_kappa(both, both)
        assert found is not None
        assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
        assert measure_kappa(["a"] * 30, ["a"] * 30) is None

    def test_missing_labels_are_left_out_and_too_few_are_refused(self) -> None:
        with pytest.raises(
            InputError, match="labelled pairs: 19 is not allowed; allowed: 20 or more; let people label"
        ):
            measure_kappa(["a", "b"] * 10, ["a", "b"] * 9 + ["a", None])

    def test_words_cannot_be_weighted(self) -> None:
        with pytest.raises(InputError, match="none, because the labels are not numbers"):
            measure_kappa(["a", "b"] * 10, ["a", "b"] * 10, weights="quadratic")

    def test_the_interval_holds_the_truth_as_often_as_it_says(self) -> None:
        source, hits, rounds = np.random.default_rng(8), 0, 400
        for _ in range(rounds):
            one = source.random(200) < 0.6
            other = np.where(source.random(200) < 0.2, ~one, one)
            found = measure_kappa(one.tolist(), other.tolist())
            assert found is not None
            # Of infinitely many: agreement 0.8, by chance 0.6 * 0.56 + 0.4 * 0.44.
            hits += found.low <= (0.8 - 0.512) / (1 - 0.512) <= found.high
        assert 0.92 <= hits / rounds <= 0.98


def judge_and_people(source: np.random.Generator, n: int, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a judge that sees quality, with noise and a bias, and what people say."""
    quality = source.beta(4, 2, n)
    people = (source.random(n) < quality).astype(np.float64)
    judge = np.clip(quality + bias + source.normal(0, 0.1, n), 0, 1)
    return judge, people


class TestLabels:
    def test_a_biased_judge_alone_is_wrong_and_with_labels_right(self) -> None:
        source, rounds, truth = np.random.default_rng(11), 500, 4 / 6
        hits = np.zeros(3)
        widths = np.zeros(2)
        for _ in range(rounds):
            judge, people = judge_and_people(source, 1500, 0.1)
            labelled = np.where(np.arange(1500) < 150, people, np.nan)
            found, labels, alone = estimate_with_labels(judge, labelled), estimate_mean(labelled), estimate_mean(judge)
            assert labels is not None
            assert alone is not None
            hits += [one.low <= truth <= one.high for one in (found, labels, alone)]
            widths += [found.high - found.low, labels.high - labels.low]
        assert 0.92 <= hits[0] / rounds <= 0.98
        assert hits[2] / rounds <= 0.06
        assert widths[0] < widths[1]

    def test_a_judge_that_knows_much_is_worth_many_labels(self) -> None:
        source = np.random.default_rng(2)
        truth = source.random(5000)
        judge = truth * 0.5 + 0.3 + source.normal(0, 0.01, 5000)
        labelled = np.where(np.arange(5000) < 100, truth, np.nan)
        found, labels = estimate_with_labels(judge, labelled), estimate_mean(labelled)
        assert labels is not None
        # The judge's own slope is 0.5, so its word is taken at its largest, 1, and half of the spread is left.
        assert (found.high - found.low) < 0.6 * (labels.high - labels.low)
        assert found.n == 100

    def test_a_judge_that_says_nothing_costs_nothing(self) -> None:
        source = np.random.default_rng(3)
        people = source.random(2000)
        labelled = np.where(np.arange(2000) < 200, people, np.nan)
        found, labels = estimate_with_labels(source.random(2000), labelled), estimate_mean(labelled)
        constant = estimate_with_labels(np.full(2000, 0.9), labelled)
        assert labels is not None
        assert (found.high - found.low) < 1.05 * (labels.high - labels.low)
        assert [constant.value, constant.low] == pytest.approx([labels.value, labels.low])

    def test_weights_undo_a_sample_that_is_not_even(self) -> None:
        source, rounds, hits = np.random.default_rng(4), 300, 0
        for _ in range(rounds):
            judge, people = judge_and_people(source, 2000, -0.1)
            # Bad answers are four times as likely to be looked at.
            chance = np.where(people > 0, 0.2, 0.8)
            seen = source.random(2000) < chance
            labelled = np.where(seen & (source.random(2000) < 0.4), people, np.nan)
            found = estimate_with_labels(np.where(seen, judge, np.nan), labelled, weights=1 / chance)
            hits += found.low <= 4 / 6 <= found.high
        assert 0.91 <= hits / rounds <= 0.98

    @pytest.mark.parametrize(("labels", "rows"), [(99, 500), (500, 500)])
    def test_too_few_labels_are_refused(self, labels: int, rows: int) -> None:
        labelled = np.where(np.arange(rows) < labels, 1.0, np.nan)
        with pytest.raises(
            InputError, match=rf"labels: '{labels} labelled, {rows - labels} judged only' is not allowed"
        ):
            estimate_with_labels(np.full(rows, 0.5), labelled)


def test_mean_and_share() -> None:
    assert estimate_mean(np.array([0.5, np.nan])) is None
    assert wilson(0, 0) is None
    found = estimate_mean(np.array([1.0, 2.0, 3.0, np.nan]))
    assert found is not None
    assert (found.value, found.n) == (2.0, 3)
    # t with 2 degrees of freedom: 4.3027 standard errors.
    assert found.high - found.value == pytest.approx(4.302653 / np.sqrt(3))
    none = wilson(0, 10)
    assert none is not None
    assert (none.low, round(none.high, 4)) == (0.0, 0.2775)
    assert none.words == "0.000 [0.000, 0.278] (n=10)"
