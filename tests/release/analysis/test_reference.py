"""Classical tests against published values, and known truths on real outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ramp_real as real
from ramp_classical import find_paired_bounds, follow_paired_change, mann_whitney

from tasks.errors import InputError
from tasks.release.analysis.reference import Sample, measure_effect

needs_data = pytest.mark.skipif(not real.DATA.is_dir(), reason=f"no shared data beside the repository: {real.DATA}")


@needs_data
def test_mann_whitney_agrees_with_r() -> None:
    cases = real.load_json("r_wilcox_mannwhitney.json")
    assert len(cases) == 19
    assert [case for case in cases if not real.agrees_with_r(case)] == []


@needs_data
def test_welch_and_delta_method_agree_with_growthbook() -> None:
    cases = real.load_json("growthbook_ttests.json")
    assert len(cases) == 3
    for case in cases:
        effect = measure_effect(sample(case["a"]), sample(case["b"]), is_relative=case["difference"] == "relative")
        got = [effect.value, effect.low, effect.high, effect.deviation, effect.p_value]
        assert got == pytest.approx([case["expected"], *case["ci"], case["stddev"], case["p"]], abs=1e-5)


def sample(given: dict[str, Any]) -> Sample:
    n, mean = given["n"], given["sum"] / given["n"]
    squares = given.get("sum_squares")
    variance = mean * (1 - mean) if squares is None else (squares - n * mean**2) / (n - 1)
    return Sample(mean=mean, variance=variance, n=n)


@needs_data
def test_the_peer_is_kayenta() -> None:
    cases = real.kayenta_cases()
    assert len(cases) == 9
    assert [case["test"] for case in cases if not real.agrees_with_kayenta(case)] == []


@needs_data
def test_wildbench_pairs_are_called_right_on_a_fixed_sample_and_never_wrong_in_sequence() -> None:
    pairs = list(real.wildbench_pairs())
    assert len(pairs) == 28
    assert [truth for truth, _ in pairs] == [real.fixed_call(differences) for _, differences in pairs]
    sequence = [(truth, follow_paired_change(differences).called()) for truth, differences in pairs]
    wrong = [(truth, said) for truth, said in sequence if said not in {truth, "no change"}]
    missed = [truth for truth, said in sequence if said == "no change" != truth]
    assert wrong == []
    # One interval just misses zero: what a peeker must not call at 5 %.
    assert len(missed) <= 1


@needs_data
def test_verified_solutions_are_better_and_swapped_they_are_worse() -> None:
    differences = real.gsm8k_differences()
    assert len(differences) == 1319
    assert -differences.sum() == 515 - 286
    assert follow_paired_change(differences).called() == "better"
    assert follow_paired_change(-differences).called() == "worse"
    assert follow_paired_change(differences[:300]).called() == "better"
    assert find_paired_bounds(differences)[1] < 0


def test_equal_samples_have_no_effect() -> None:
    zero = Sample.of(np.zeros(5))
    same = measure_effect(zero, zero)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert mann_whitney(np.ones(4), np.ones(5)) == (10.0, 1.0)
    assert follow_paired_change(np.zeros(50)).called() == "no change"


def test_what_cannot_be_compared_is_refused() -> None:
    one = Sample(mean=0.0, variance=1.0, n=5)
    with pytest.raises(InputError, match="a first mean other than 0"):
        measure_effect(one, one, is_relative=True)
    with pytest.raises(InputError, match="2 observations"):
        measure_effect(one, Sample(mean=0.0, variance=1.0, n=1))
