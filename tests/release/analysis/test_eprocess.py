"""Bets: exact values, validity under the null, and a state that survives a kill."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.release.analysis.eprocess import BETS, EProcess, harm_payoffs, log_mixture, noninferiority_payoffs

payoffs = st.lists(st.floats(-1, 1), max_size=40).map(np.array)


def wealth(values: np.ndarray) -> float:
    return float(np.mean([np.prod(1 + bet * values) for bet in BETS]))


def test_nothing_seen_is_no_evidence() -> None:
    assert EProcess().log_e == pytest.approx(0.0, abs=1e-15)
    assert EProcess().bet(np.empty(0)) == EProcess()


@given(payoffs)
def test_the_e_value_is_the_mean_wealth_of_the_bets(values: np.ndarray) -> None:
    assert math.exp(EProcess().bet(values).log_e) == pytest.approx(wealth(values), rel=1e-9)


@given(payoffs, st.integers(0, 40))
def test_cutting_the_blocks_into_calls_changes_nothing(values: np.ndarray, cut: int) -> None:
    ends = np.arange(1, len(values) + 1)
    at = min(cut, len(values))
    whole = EProcess().bet(values, ends)
    parts = EProcess().bet(values[:at], ends[:at]).bet(values[at:], ends[at:] - at)
    assert (parts.n, parts.log_wealth) == (whole.n, pytest.approx(whole.log_wealth, abs=1e-9))
    assert parts.log_peak == pytest.approx(whole.log_peak, abs=1e-9)


@given(payoffs)
def test_a_killed_run_resumes_with_the_same_bits(values: np.ndarray) -> None:
    state = EProcess().bet(values)
    resumed = EProcess.from_json(state.to_json())
    assert resumed == state
    assert resumed.bet(np.array([0.5, -1.0])) == state.bet(np.array([0.5, -1.0]))


def test_the_peak_remembers_what_the_value_has_lost() -> None:
    state = EProcess().bet(np.array([1.0] * 20 + [-1.0] * 20), np.array([20, 40]))
    assert state.log_peak == pytest.approx(math.log(wealth(np.ones(20))))
    assert state.log_e < 0 < state.log_peak


def test_the_null_gives_a_fair_game_exactly() -> None:
    # Two users alike at 30 %: every sequence of three differences, weighted by its chance.
    chance = {-1.0: 0.21, 0.0: 0.58, 1.0: 0.21}
    triples = [(a, b, c) for a in chance for b in chance for c in chance]
    mean = sum(chance[a] * chance[b] * chance[c] * wealth(np.array([a, b, c])) for a, b, c in triples)
    assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("margin", [0.005, 0.03, 0.5])
def test_noninferiority_is_a_fair_game_at_the_margin_and_never_loses_more_than_its_stake(margin: float) -> None:
    assert noninferiority_payoffs(np.array([1.0, -1.0, margin]), margin).tolist() == pytest.approx(
        [-1.0, (1 + margin) / (1 - margin), 0.0]
    )
    assert harm_payoffs(np.array([0.25])).tolist() == [0.25]


@pytest.mark.parametrize("margin", [0, 1, -0.1, float("nan")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match=r"margin: .* is not allowed"):
        noninferiority_payoffs(np.array([0.0]), margin)


@pytest.mark.parametrize("bad", [-1.01, float("nan"), float("inf"), float("-inf")])
def test_a_payoff_that_would_break_the_bound_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="observations are between 0 and 1"):
        EProcess().bet(np.array([0.1, bad]))


def changed(**values: object) -> str:
    return json.dumps(json.loads(EProcess().to_json()) | values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        changed(bets=[0.5]),
        changed(log_wealth=[0.0]),
        changed(log_wealth=[float("nan")] * len(BETS)),
        changed(n="many"),
    ],
)
def test_a_state_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="e-process"):
        EProcess.from_json(text)


def test_large_evidence_does_not_overflow() -> None:
    state = EProcess().bet(np.ones(100_000))
    assert math.isfinite(state.log_e)
    assert log_mixture(np.full((2, len(BETS)), 5.0)).tolist() == pytest.approx([5.0, 5.0])
