"""The ramp: which shares a release goes through, and what decides at each of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_release import release_of

from tasks.interactions.columns import SCHEMA
from tasks.monitors.verdict import Outcome
from tasks.release.analysis.judge import Decision, Ground, Situation
from tasks.release.lifecycle import State
from tasks.release.model import Monitors
from tasks.release.ramp import (
    LOOK_COLUMNS,
    RampPolicy,
    RampStep,
    judge_alone,
    judge_shared,
    ramp_plans,
    with_routed,
)
from tasks.release.rollout import Rollout
from tasks.traffic.driver import Routed
from tasks.traffic.plan import BUCKETS, Plan, bucket_of, reassign

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(minutes=1)
POLICY = RampPolicy(min_requests=30, min_step_s=10, max_step_s=60)
RELEASE = release_of(monitors=Monitors(latency_ms=1000, errors=0.05))
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
        {"min_step_s": 3601},
        {"min_step_s": 11, "max_step_s": 10},
        {"look_s": 0},
        {"look_s": 3601},
        {"percent": (100,)},
        {"approval": True, "enabled": False},
        {"approval": True, "percents": (100,)},
        {"approval": True, "percents": (99.99, 100)},
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
    with pytest.raises(ValidationError, match=r"a person is asked at a share below 100 %, and enabled: false has none"):
        RampPolicy(approval=True, enabled=False)
    with pytest.raises(ValidationError, match=r"and percents \(100\.0,\) has none; allowed: no approval, or a ramp"):
        RampPolicy(approval=True, percents=(100,))
    assert RampPolicy(percents=(100,)).noninferiority  # there is nobody to compare with, and nobody to ask


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


@pytest.mark.parametrize("asked", [{"approval": True, "noninferiority": False}, {"approval": False}])
def test_nobody_gets_from_a_share_that_is_no_step_to_everybody_unasked(asked: dict[str, bool]) -> None:
    policy = RampPolicy(percents=(1, 5, 10, 100), **asked)
    last, everybody = RampStep(buckets=250, watched=True, is_last=True), RampStep(buckets=BUCKETS, watched=True)
    assert policy.steps(250, alone=False) == (last, everybody)
    assert policy.steps(100, alone=False) == (replace(last, buckets=100), everybody)
    assert policy.steps(BUCKETS, alone=False) == (everybody,)
    assert RampPolicy(percents=(100,)).steps(0, alone=False) == (everybody,)
    free = RampPolicy(percents=(1, 5, 10, 100), approval=False, noninferiority=False)
    assert free.steps(250, alone=False) == (everybody,)


def test_shares_too_small_or_too_close_to_tell_apart_are_one_step() -> None:
    policy = RampPolicy(percents=(0.001, 0.01, 0.1, 0.11, 100))
    assert [step.buckets for step in policy.steps(0, alone=False)] == [1, 1000]


@given(percents, st.integers(0, BUCKETS))
def test_a_ramp_only_ever_rises_and_ends_with_everybody(shares: tuple[float, ...], current: int) -> None:
    counts = [step.buckets for step in RampPolicy(percents=shares).steps(current, alone=False)]
    assert counts == sorted(set(counts))
    assert counts[0] >= max(1, current)
    assert counts[-1] == BUCKETS


def test_only_the_last_step_before_everybody_must_show_that_nothing_is_worse() -> None:
    assert [step.is_last for step in RampPolicy().steps(0, alone=False)] == [False] * 4 + [True, False]


# --- judging a step ---


def calls(
    n: int, *, digest: str = MINE, ms: float | None = 100.0, status: int = 200, error: str | None = None, first: int = 0
) -> pa.Table:
    """Return n calls of n users, as the lake returns them, a second apart."""
    schema = pa.schema([SCHEMA.field(name) for name in LOOK_COLUMNS])
    return pa.Table.from_pylist(
        [
            {
                "interaction_id": f"{digest[:4]}-{first + at}",
                "unit": f"user-{first + at}",
                "bucket": bucket_of("faq", f"user-{first + at}"),
                "time_utc": START + timedelta(seconds=at),
                "release_digest": digest,
                "status": status,
                "error_type": error,
                "latency_ms": ms,
            }
            for at in range(n)
        ],
        schema=schema,
    )


def alone(*tables: pa.Table) -> Decision:
    return judge_alone(
        RELEASE, policy=POLICY, calls=pa.concat_tables(tables), since=START, now=END, situation=Situation()
    )


def test_a_release_that_has_every_user_is_held_to_its_limits_only() -> None:
    decision = alone(calls(400))
    assert decision.verdict.outcome is Outcome.PASS
    assert [check.monitor for check in decision.verdict.checks] == ["errors", "latency"]
    assert (decision.verdict.window_start, decision.verdict.window_end) == (START, END)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"status": 500}, "failed calls 25 % > limit 5 % (n=400 calls of 400 users)"),
        ({"error": "timeout"}, "failed calls 25 % > limit 5 % (n=400 calls of 400 users)"),
        ({"ms": 1340}, "answers slower than 1000 ms 25 % > limit 5 % (n=400 calls of 400 users)"),
    ],
)
def test_a_breach_fails_the_step(bad: dict[str, Any], said: str) -> None:
    decision = alone(calls(300), calls(100, first=300, **bad))
    assert (decision.verdict.outcome, decision.verdict.reason) == (Outcome.FAIL, said)
    assert decision.ground is Ground.LIMITS


def test_a_callers_own_mistakes_break_nothing() -> None:
    decision = alone(calls(300), calls(200, first=300, status=400, error="invalid_request_error"))
    assert decision.verdict.outcome is Outcome.PASS


def test_too_few_calls_are_no_conclusion_however_bad() -> None:
    assert alone(calls(29, status=500)).verdict.outcome is Outcome.INCONCLUSIVE


def test_only_what_the_release_itself_answered_counts() -> None:
    noise = calls(500, digest=OTHER, status=500)
    assert alone(calls(400), noise).verdict == alone(calls(400)).verdict


# --- sharing users with the stable release ---


def plan_of(revision: int, candidate: int, time: datetime) -> Plan:
    wanted = {MINE: candidate, OTHER: BUCKETS - candidate}
    buckets = reassign((OTHER,) * BUCKETS, wanted, "s")
    return Plan(application="faq", revision=revision, salt="s", buckets=buckets, author="a", reason="r", time=time)


ROLLOUT = Rollout(
    rollout_id="r1",
    application="faq",
    release_digest=MINE,
    stable_digest=OTHER,
    deployment_id="d",
    state=State.RAMPING,
    started=START,
    changed=START,
    reason="",
)
SHARED = RampPolicy(percents=(50, 100), min_requests=30, tick_s=10, settle_s=0, scores=False)
PLANS = (plan_of(1, 0, START - timedelta(days=1)), plan_of(2, 500, START))


def traffic(n: int, *, failing: float) -> pa.Table:
    """Return calls of n users as the plan gives them, of which the candidate fails a share."""
    users = [(f"user-{at}", bucket_of("faq", f"user-{at}")) for at in range(n)]
    rows = []
    for at, (unit, bucket) in enumerate(users):
        digest = PLANS[1].buckets[bucket]
        bad = digest == MINE and at % 1000 < 1000 * failing
        rows.append(
            {
                "interaction_id": unit,
                "unit": unit,
                "bucket": bucket,
                "time_utc": START + timedelta(seconds=at * 300 / n),
                "release_digest": digest,
                "status": 500 if bad else 200,
                "error_type": None,
                "latency_ms": 100.0,
            }
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in LOOK_COLUMNS]))


def shared(table: pa.Table, situation: Situation = Situation(needs_noninferiority=False)) -> Decision:  # noqa: B008
    now = START + timedelta(seconds=320)
    return judge_shared(RELEASE, rollout=ROLLOUT, policy=SHARED, plans=PLANS, calls=table, now=now, situation=situation)


def test_a_candidate_that_is_as_good_passes_and_the_share_is_as_planned() -> None:
    decision = shared(traffic(4000, failing=0))
    assert decision.verdict.outcome is Outcome.PASS, decision.verdict.reason
    ratio = next(check for check in decision.verdict.checks if check.monitor == "ratio")
    assert "as planned" in ratio.statement


def test_a_candidate_that_is_worse_but_within_its_limits_is_harm() -> None:
    decision = shared(traffic(8000, failing=0.045))
    assert (decision.verdict.outcome, decision.ground) == (Outcome.FAIL, Ground.HARM)
    assert "(harm, n=" in decision.verdict.reason


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, Outcome.PASS), (1.5, Outcome.FAIL)])
def test_a_candidate_whose_answers_cost_half_as_much_again_is_harm(factor: float, outcome: Outcome) -> None:
    table = traffic(4000, failing=0)
    cost = [1000.0 * factor if digest == MINE else 1000.0 for digest in table["release_digest"].to_pylist()]
    priced = table.append_column("cost_pusd", pa.array(cost))
    now = START + timedelta(seconds=320)
    situation = Situation(needs_noninferiority=False)
    decision = judge_shared(
        RELEASE,
        rollout=ROLLOUT,
        policy=SHARED,
        plans=PLANS,
        calls=priced,
        now=now,
        situation=situation,
        stable_cost_pusd=1000.0,
    )
    assert decision.verdict.outcome is outcome
    assert any(check.monitor == "cost" for check in decision.verdict.checks)
    if outcome is Outcome.FAIL:
        said = "cost of a successful answer, in 4 average ones 37.5 % vs 25 %"
        assert decision.verdict.reason.startswith(said), decision.verdict.reason


def test_not_worse_must_be_shown_where_that_is_asked_for() -> None:
    few = traffic(400, failing=0)
    assert shared(few).verdict.outcome is Outcome.PASS
    asked = shared(few, Situation(needs_noninferiority=True))
    assert (asked.verdict.outcome, asked.ground) == (Outcome.INCONCLUSIVE, Ground.NONINFERIORITY)


def test_users_that_got_lost_on_the_way_stop_the_comparison() -> None:
    table = traffic(6000, failing=0)
    kept = [at for at, digest in enumerate(table["release_digest"].to_pylist()) if digest != MINE or at % 2]
    decision = shared(table.take(kept))
    assert (decision.verdict.outcome, decision.ground) == (Outcome.ERROR, Ground.RATIO)


def test_the_plans_of_a_ramp_are_those_since_the_release_first_had_users() -> None:
    old = plan_of(1, 0, START)
    ramp = [plan_of(2, 0, START), plan_of(3, 100, START), plan_of(4, 500, START), plan_of(5, 1000, START)]
    assert ramp_plans([*reversed(ramp), old], MINE) == tuple(ramp[:3])


# --- what the data path saw ---


@pytest.mark.parametrize(
    ("seen", "outcome", "said"),
    [
        ((100, 0, 0, True), Outcome.PASS, "requests it did not answer 0.0% <= limit 5.0% (0 failed, 0 given up, n=100"),
        ((100, 60, 0, True), Outcome.FAIL, "requests it did not answer 60.0% > limit 5.0% (60 failed, 0 given up"),
        ((100, 0, 60, True), Outcome.FAIL, "requests it did not answer 60.0% > limit 5.0% (0 failed, 60 given up"),
        ((100, 7, 0, True), Outcome.INCONCLUSIVE, "requests it did not answer 7.0% > limit 5.0%, but chance allows"),
        ((29, 29, 0, True), Outcome.INCONCLUSIVE, "requests routed: 29 < minimum 30"),
        ((0, 0, 0, False), Outcome.FAIL, "the data path cannot reach the release"),
        ((0, 0, 80, True), Outcome.FAIL, "requests that wait 80 > 34 that may at this rate (n=80 at the data path)"),
    ],
)
def test_a_release_that_crashes_or_hangs_is_seen_at_the_data_path(
    seen: tuple[int, int, int, bool], outcome: Outcome, said: str
) -> None:
    requests, failed, odd, is_up = seen
    unanswered, waiting = (odd, 0) if requests else (0, odd)
    routed = Routed(requests=requests, failed=failed, unanswered=unanswered, waiting=waiting, is_up=is_up)
    verdict = with_routed(alone(calls(400)), routed, POLICY, RELEASE, 10.0)
    assert verdict.outcome is outcome
    assert verdict.checks[0].statement.startswith(said)
    assert [check.monitor for check in verdict.checks] == ["routed", "errors", "latency"]


def test_counters_that_began_anew_count_from_there() -> None:
    before = Routed(requests=100, failed=10, unanswered=1, waiting=0, is_up=True)
    later = Routed(requests=130, failed=12, unanswered=1, waiting=0, is_up=True)
    assert later.since(before) == Routed(requests=30, failed=2, unanswered=0, waiting=0, is_up=True)
    restarted = Routed(requests=7, failed=1, unanswered=0, waiting=0, is_up=True)
    assert restarted.since(before) == restarted
