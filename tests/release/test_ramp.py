"""The ramp: which shares a release goes through, and what decides at each of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.interactions.schema import SCHEMA
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import Monitors, Prompt, PromptRef, Release, ReleaseSpec, text_sha256
from tasks.release.ramp import RAMP_COLUMNS, RampPolicy, RampStep, is_settled, judge_step
from tasks.traffic.plan import BUCKETS

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(minutes=1)
POLICY = RampPolicy(min_requests=30, min_step_s=10, max_step_s=60)
RELEASE = Release(
    spec=ReleaseSpec(
        application="faq",
        model_id="bot",
        version="1",
        endpoint="models:/bot/1",
        prompt=PromptRef(name="p", text="hello"),
        monitors=Monitors(latency_ms=1000, errors=0.05),
    ),
    prompt=Prompt(name="p", version=1, text="hello", sha256=text_sha256("hello")),
    registry_version=1,
)
MINE, OTHER = RELEASE.digest, "f" * 64

percents = st.lists(st.floats(0.001, 99.9), max_size=20, unique=True).map(lambda below: (*sorted(below), 100.0))


# --- policy ---


@pytest.mark.parametrize(
    "changed",
    [
        {"percents": ()},
        {"percents": (50,)},
        {"percents": (0, 100)},
        {"percents": (-1, 100)},
        {"percents": (10, 10, 100)},
        {"percents": (50, 10, 100)},
        {"percents": (50, 101)},
        {"percents": (50, 100, 100)},
        {"percents": (float("nan"), 100)},
        {"percents": (50, float("nan"))},
        {"percents": (50, float("inf"))},
        {"percents": (*range(1, 101), 100.5)},
        {"min_requests": 0},
        {"min_requests": 2.5},
        {"min_step_s": -1},
        {"min_step_s": float("nan")},
        {"max_step_s": 0},
        {"max_step_s": float("nan")},
        {"max_step_s": float("inf")},
        {"min_step_s": 601},
        {"min_step_s": 11, "max_step_s": 10},
        {"look_s": 0},
        {"look_s": 3601},
        {"percent": (100,)},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RampPolicy.model_validate(changed)


def test_a_refusal_says_what_is_wrong() -> None:
    with pytest.raises(ValidationError, match=r"percents \(50\.0, 10\.0, 100\.0\) must rise from above 0 to 100"):
        RampPolicy(percents=(50, 10, 100))
    with pytest.raises(ValidationError, match=r"min_step_s 11 is above max_step_s 10"):
        RampPolicy(min_step_s=11, max_step_s=10)


def test_the_default_rises_in_six_watched_steps() -> None:
    steps = RampPolicy().steps(0, alone=False)
    assert [step.buckets for step in steps] == [10, 50, 100, 250, 500, 1000]
    assert all(step.watched for step in steps)


@pytest.mark.parametrize("current", [0, 1, 300, BUCKETS])
def test_a_release_that_is_alone_or_not_ramped_gets_everybody_at_once(current: int) -> None:
    everybody = (RampStep(buckets=BUCKETS, watched=False),)
    assert RampPolicy().steps(current, alone=True) == everybody
    assert RampPolicy(enabled=False).steps(current, alone=False) == everybody


@pytest.mark.parametrize(
    ("current", "left"), [(0, [100, 500, 1000]), (100, [100, 500, 1000]), (101, [500, 1000]), (1000, [1000])]
)
def test_a_ramp_that_is_taken_up_again_goes_on_where_it_was(current: int, left: list[int]) -> None:
    assert [step.buckets for step in RampPolicy(percents=(10, 50, 100)).steps(current, alone=False)] == left


def test_shares_too_small_or_too_close_to_tell_apart_are_one_step() -> None:
    policy = RampPolicy(percents=(0.001, 0.01, 0.1, 0.11, 100))
    assert [step.buckets for step in policy.steps(0, alone=False)] == [1, 1000]


@given(percents, st.integers(0, BUCKETS))
def test_a_ramp_only_ever_rises_and_ends_with_everybody(shares: tuple[float, ...], current: int) -> None:
    counts = [step.buckets for step in RampPolicy(percents=shares).steps(current, alone=False)]
    assert counts == sorted(set(counts))
    assert counts[0] >= max(1, current)
    assert counts[-1] == BUCKETS


# --- judging a step ---


def rows(
    n: int, *, digest: str | None = MINE, ms: float | None = 100.0, status: int = 200, error: str | None = None
) -> pa.Table:
    """Return n equal interactions, as the lake returns them."""
    schema = pa.schema([SCHEMA.field(name) for name in RAMP_COLUMNS])
    row = {"release_digest": digest, "latency_ms": ms, "status": status, "error_type": error}
    return pa.Table.from_pylist([row] * n, schema=schema)


def judged(*tables: pa.Table, policy: RampPolicy = POLICY) -> Verdict:
    return judge_step(RELEASE, policy, pa.concat_tables(tables), START, END)


def said(*tables: pa.Table, policy: RampPolicy = POLICY) -> tuple[Outcome, str]:
    verdict = judged(*tables, policy=policy)
    return verdict.outcome, verdict.reason


def test_enough_good_answers_pass() -> None:
    assert said(rows(200)) == (
        Outcome.PASS,
        "failed calls 0 % <= limit 5 % (n=200); p95 latency 100 ms <= limit 1000 ms (n=200)",
    )


def test_the_verdict_says_whose_it_is_and_when() -> None:
    verdict = judged(rows(40))
    assert (verdict.application, verdict.release_digest) == ("faq", MINE)
    assert (verdict.window_start, verdict.window_end) == (START, END)
    assert [check.monitor for check in verdict.checks] == ["errors", "latency"]


@pytest.mark.parametrize("failure", [{"status": 500}, {"status": 429}, {"error": "timeout"}])
def test_failed_calls_fail_the_step(failure: dict[str, Any]) -> None:
    assert said(rows(170), rows(30, **failure)) == (Outcome.FAIL, "failed calls 15 % > limit 5 % (n=200)")


def test_a_release_that_answers_nothing_fails() -> None:
    assert said(rows(30, status=500, ms=None)) == (Outcome.FAIL, "failed calls 100 % > limit 5 % (n=30)")


def test_a_few_failed_calls_may_be_chance_and_are_no_conclusion() -> None:
    outcome, reason = said(rows(94), rows(6, status=500))
    assert outcome is Outcome.INCONCLUSIVE
    assert reason.startswith("failed calls 6 % > limit 5 %, but chance allows 3.")


def test_slow_answers_fail_the_step() -> None:
    assert said(rows(150), rows(50, ms=1340)) == (
        Outcome.FAIL,
        "p95 latency 1340 ms > limit 1000 ms (n=200)",
    )


def test_the_latency_of_failed_calls_and_unknown_latencies_say_nothing() -> None:
    verdict = judged(rows(190), rows(8, ms=60_000, status=504), rows(40, ms=None))
    errors, latency = verdict.checks
    assert (errors.outcome, errors.n) == (Outcome.PASS, 238)
    assert (latency.outcome, latency.value, latency.n) == (Outcome.PASS, 100.0, 190)


@pytest.mark.parametrize(
    ("n", "outcome"), [(0, Outcome.INCONCLUSIVE), (1, Outcome.INCONCLUSIVE), (29, Outcome.INCONCLUSIVE)]
)
def test_too_few_requests_are_no_conclusion_however_good_or_bad(n: int, outcome: Outcome) -> None:
    few = f"failed calls: {n} interactions < minimum 30 (n={n})"
    assert said(rows(n)) == (outcome, f"{few}; p95 latency: {n} interactions < minimum 30 (n={n})")
    assert judged(rows(n, status=500)).outcome is outcome


def test_the_policy_says_how_many_requests_are_enough() -> None:
    assert said(rows(30))[0] is Outcome.PASS
    assert said(rows(99), policy=RampPolicy(min_requests=100))[0] is Outcome.INCONCLUSIVE
    assert said(rows(3), policy=RampPolicy(min_requests=3))[0] is Outcome.PASS


def test_only_what_the_release_itself_answered_counts() -> None:
    noise = (rows(500, digest=OTHER, status=500), rows(500, digest=None, ms=9000, error="timeout"))
    assert judged(rows(40), *noise) == judged(rows(40))
    assert judged(*noise).outcome is Outcome.INCONCLUSIVE
    assert judged(rows(40, status=500), rows(5000, digest=OTHER)).outcome is Outcome.FAIL


# --- when a step is over ---


def verdict_of(outcome: Outcome) -> Verdict:
    check = Check(monitor="errors", outcome=outcome, statement="s", value=None, limit=None, n=0)
    return Verdict(application="faq", release_digest=MINE, window_start=START, window_end=END, checks=(check,))


@pytest.mark.parametrize(
    ("outcome", "too_early", "in_time", "too_late"),
    [
        (Outcome.PASS, False, True, True),
        (Outcome.INCONCLUSIVE, False, False, True),
        (Outcome.ERROR, False, False, True),
        (Outcome.FAIL, True, True, True),
    ],
)
def test_a_step_ends_when_it_failed_or_is_sure_for_long_enough_or_out_of_time(
    outcome: Outcome, *, too_early: bool, in_time: bool, too_late: bool
) -> None:
    verdict = verdict_of(outcome)
    assert [is_settled(verdict, elapsed_s, POLICY) for elapsed_s in (0, 9.9)] == [too_early] * 2
    assert [is_settled(verdict, elapsed_s, POLICY) for elapsed_s in (10, 59.9)] == [in_time] * 2
    assert [is_settled(verdict, elapsed_s, POLICY) for elapsed_s in (60, 1e6)] == [too_late] * 2
