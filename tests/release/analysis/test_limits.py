"""Fixed limits: every call counts, but a user's calls are not so many witnesses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tasks.release.analysis.limits import LimitEvidence, hold_limit, sequence_factor


def held(units: list[str | None], bad: list[float], limit: float = 0.05, alpha: float = 0.00625) -> LimitEvidence:
    chunked = pa.chunked_array([pa.array(units, pa.string())])
    return hold_limit("errors", "failed calls", chunked, np.array(bad), limit=limit, alpha=alpha)


def test_a_release_that_answers_nothing_breaks_the_limit_at_once() -> None:
    evidence = held([f"u{at}" for at in range(30)], [1.0] * 30)
    assert (evidence.value, evidence.n_calls, evidence.n_users) == (1.0, 30, 30)
    assert evidence.low > 0.05


def test_one_broken_user_is_one_witness() -> None:
    users = [f"u{at}" for at in range(200)] + ["bot"] * 100
    bad = [0.0] * 200 + [1.0] * 100
    assert held(users, bad).value == pytest.approx(1 / 3)
    assert held(users, bad).low < 0.05
    assert held([f"c{at}" for at in range(300)], bad).low > 0.05


def test_calls_of_nobody_are_somebody_each_and_unknown_calls_are_left_out() -> None:
    evidence = held([None, None, "u", "v"], [1.0, 0.0, 0.0, np.nan])
    assert (evidence.n_users, evidence.n_calls, evidence.value) == (3, 3, pytest.approx(1 / 3))


def test_nothing_is_unknown() -> None:
    evidence = held([], [])
    assert np.isnan([evidence.value, evidence.low]).all()
    assert (evidence.n_calls, evidence.n_users) == (0, 0)


def test_the_bound_is_wider_than_a_single_look_and_tightest_where_it_is_tuned() -> None:
    assert sequence_factor(200, 0.05) == pytest.approx(2.76, abs=0.02)
    assert sequence_factor(200, 0.05) < min(sequence_factor(10, 0.05), sequence_factor(100_000, 0.05))


def test_a_release_on_its_limit_is_not_rolled_back_by_looking_often() -> None:
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(60):
        users = [f"u{at}" for at in rng.integers(0, 300, 2_000)]
        tendency = dict(zip({*users}, rng.beta(0.5, 9.5, len({*users})), strict=True))
        bad = [float(rng.random() < tendency[user]) for user in users]
        looks = range(100, 2_001, 380)
        broken += any(held(users[:n], bad[:n], alpha=0.05).low > 0.05 for n in looks)
    assert broken <= 6
