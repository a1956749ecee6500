"""Sample ratio: a fair game under any plan, and mismatches that are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.release.analysis.ratio import SampleRatio, is_mismatch, log_mean, log_ratios

shares = st.floats(0.001, 0.999)


@given(shares, shares)
def test_users_shared_out_as_planned_are_a_fair_game_whatever_the_plan(first: float, second: float) -> None:
    def e_value(*candidates: int) -> float:
        ratio = SampleRatio()
        for share, one in zip((first, second), candidates, strict=True):
            ratio = ratio.observe(share, one, 1 - one)
        return math.exp(ratio.log_e)

    chance = [(a, b, (first if a else 1 - first) * (second if b else 1 - second)) for a in (0, 1) for b in (0, 1)]
    assert sum(p * e_value(a, b) for a, b, p in chance) == pytest.approx(1.0)


def test_it_counts_what_was_planned() -> None:
    ratio = SampleRatio().observe(0.1, 10, 90).observe(0.5, 50, 50)
    assert (ratio.n_candidate, ratio.n_stable, ratio.expected_candidate) == (60, 140, 60.0)
    assert ratio.log_e < 0
    assert not is_mismatch(ratio, 0.01)


@pytest.mark.parametrize(("candidate", "stable"), [(100, 300), (300, 100), (0, 12), (12, 0), (4_700, 5_300)])
def test_a_mismatch_is_found_on_either_side_and_not_forgotten(candidate: int, stable: int) -> None:
    ratio = SampleRatio().observe(0.5, candidate, stable)
    assert is_mismatch(ratio, 0.01)
    assert is_mismatch(ratio.observe(0.5, 10_000, 10_000), 0.01)


@pytest.mark.parametrize(("share", "candidate", "stable"), [(0, 1, 1), (1, 1, 1), (float("nan"), 1, 1), (0.5, -1, 1)])
def test_what_cannot_be_is_refused(share: float, candidate: int, stable: int) -> None:
    with pytest.raises(InputError):
        SampleRatio().observe(share, candidate, stable)


def test_false_alarms_and_detection_under_many_looks() -> None:
    rng = np.random.default_rng(7)
    hits = {}
    for actual in (0.5, 0.47):
        ours = rng.binomial(40, actual, size=(800, 250))
        path = log_mean(np.cumsum(log_ratios(0.5, ours, 40 - ours), axis=1))
        hits[actual] = (path >= math.log(100)).any(axis=1).mean()
    assert hits[0.5] <= 0.01
    assert hits[0.47] >= 0.97
