"""Calls of one user are alike: what is measured of them says less than their number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from tasks.evaluation.assess import assess
from tasks.evaluation.clusters import Users, design_effect, users_as_numbers
from tasks.evaluation.evidence import (
    SCORE_COLUMNS,
    Evidence,
    estimate_mean,
    estimate_p95,
    estimate_share,
    gather,
    measure_shard,
)
from tasks.evaluation.expectations import Gate
from tasks.interactions.columns import SCHEMA
from tasks.monitors.verdict import Check, Outcome, worst
from tasks.release.model import Monitors

LIMIT = 0.05


def calls(failed: Sequence[bool], users: Sequence[str | None]) -> pa.Table:
    rows = [
        {
            "interaction_id": f"i{at}",
            "status": 500 if wrong else 200,
            "latency_ms": 0.0 if wrong else 100.0,
            "input_text": "In what city is it?",
            "context_text": "It is in Delhi.",
            "output_text": None if wrong else "Delhi",
            "user_hash": user,
        }
        for at, (wrong, user) in enumerate(zip(failed, users, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in SCORE_COLUMNS]))


def evidence_of(failed: Sequence[bool], users: Sequence[str | None]) -> Evidence:
    return gather([measure_shard(calls(failed, users))]).evidence


def judge(evidence: Evidence) -> tuple[Check, ...]:
    return assess(evidence, Monitors(quality=0.1), Gate(success=True, n=evidence.summary.n, expectations=1))


def test_a_release_does_not_fail_by_one_user_who_makes_most_of_the_calls() -> None:
    failed = [at < 100 for at in range(600)]
    users = ["one" if at < 396 else f"u{at % 100}" for at in range(600)]
    evidence = evidence_of(failed, users)
    checks = judge(evidence)
    assert worst(check.outcome for check in checks) is Outcome.INCONCLUSIVE
    said = {check.monitor: check.statement for check in checks}
    assert said["concentration"] == "one user made 66 % of the calls >= limit 50 % (n=600, 101 users)"
    everywhere = judge(evidence_of([True] * 600, users))
    (errors,) = [check for check in everywhere if check.monitor == "errors"]
    assert (errors.outcome, errors.statement) == (Outcome.FAIL, "failed calls 100 % > limit 5 % (n=600)")
    half = judge(evidence_of([at % 2 == 0 for at in range(600)], ["one"] * 600))  # nobody else calls
    assert next(check.outcome for check in half if check.monitor == "errors") is Outcome.FAIL


def test_a_release_that_breaks_for_many_users_fails_at_once() -> None:
    for users in ([f"u{at % 30}" for at in range(60)], [None] * 60):
        (errors,) = [
            one for one in judge(evidence_of([at % 3 == 0 for at in range(60)], users)) if one.monitor == "errors"
        ]
        assert (errors.outcome, errors.statement) == (Outcome.FAIL, "failed calls 33.33 % > limit 5 % (n=60)")


@pytest.mark.parametrize(
    "sizes",
    [[200] * 20, [400] * 5, [10] * 300, [2000] + [100] * 25],
    ids=["twenty users", "five users", "many users", "one makes 44 %"],
)
def test_a_release_on_its_limit_fails_one_night_in_twenty_though_the_calls_of_a_user_are_alike(
    sizes: list[int],
) -> None:
    source, rounds, correlation = np.random.default_rng(1), 1500, 0.1
    users = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    alpha, beta = LIMIT * (1 - correlation) / correlation, (1 - LIMIT) * (1 - correlation) / correlation
    wrong = naive = 0
    for _ in range(rounds):
        rates = np.repeat(source.beta(alpha, beta, len(sizes)), sizes)
        found = (source.random(len(users)) < rates).astype(np.float64)
        wrong += low_of_share(found, users) > LIMIT
        naive += low_of_share(found, None) > LIMIT
    assert wrong / rounds <= 0.06
    assert naive / rounds > 0.08


def low_of_share(found: NDArray[np.float64], users: Users | None) -> float:
    share = estimate_share(int(found.sum()), len(found), design_effect(found, users))
    assert share is not None
    return share.low


def test_means_and_percentiles_on_their_limit_are_as_seldom_beyond_it() -> None:
    source, rounds = np.random.default_rng(2), 600
    users = np.repeat(np.arange(25), 60).astype(np.int32)
    high = slow = 0
    for _ in range(rounds):
        own = np.repeat(source.normal(0, 1, 25), 60)
        values = (own + source.normal(0, 2, len(users))) / math.sqrt(5)
        mean, p95 = estimate_mean(values, users), estimate_p95(values, users)
        assert mean is not None
        assert p95 is not None
        high += mean.high < 0
        slow += p95.low > 1.645
    assert high / rounds <= 0.075
    assert slow / rounds <= 0.075


def test_calls_that_depend_on_no_other_count_as_before() -> None:
    values = np.random.default_rng(3).random(900)
    nobody, each = np.full(900, -1, np.int32), np.arange(900, dtype=np.int32)
    assert design_effect(values, None) == design_effect(values, nobody) == design_effect(values, each) == 1.0
    assert estimate_mean(values, nobody) == estimate_mean(values)
    assert estimate_p95(values, each) == estimate_p95(values)
    assert design_effect(values, (each % 300).astype(np.int32)) < 1.25


def test_where_there_is_one_user_alone_his_calls_are_all_there_is_and_nothing_says_nothing() -> None:
    assert design_effect(np.arange(50.0), np.zeros(50, np.int32)) == 1
    assert design_effect(np.array([]), np.array([], np.int32)) == 1
    assert design_effect(np.full(9, np.nan), np.zeros(9, np.int32)) == 1
    assert design_effect(np.ones(9), np.arange(9, dtype=np.int32) % 3) == 1


def test_users_have_the_same_number_in_all_slices() -> None:
    users = pa.chunked_array([["a", None, "b"], ["b", "c"], pa.array([], pa.string()), ["a", None]])
    assert users_as_numbers(users).tolist() == [0, -1, 1, 1, 2, 0, -1]
    assert users_as_numbers(pa.chunked_array([], pa.string())).tolist() == []


def test_what_slices_say_of_users_together_is_what_the_window_says() -> None:
    failed, users = [at % 7 == 0 for at in range(200)], [f"u{at % 9}" for at in range(200)]
    whole = calls(failed, users)
    cut = gather([measure_shard(whole.slice(0, 90)), measure_shard(whole.slice(90))]).evidence
    assert cut == gather([measure_shard(whole)]).evidence
