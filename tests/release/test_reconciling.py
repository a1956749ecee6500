"""What was left undone, as the ledger tells it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sample_release import spec_of

from deployments.commands.health_parts import NIGHT_H
from tasks.experiments.design import design_of
from tasks.experiments.life import ExperimentRecord, Stage
from tasks.monitors.verdict import Check, Outcome, RecordedVerdict, Verdict
from tasks.release.lifecycle import State
from tasks.release.model import AbTest
from tasks.release.reconciling import MAX_NIGHT_AGE, Cure, Gap, find_gaps, is_latest_news, judge_nights
from tasks.release.rollout import Rollout
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 10, tzinfo=UTC)
OLD, NEW = "1" * 64, "2" * 64


def plan(new: int) -> Plan:
    buckets = (NEW,) * new + (OLD,) * (BUCKETS - new)
    return Plan(application="faq", revision=9, salt="s", buckets=buckets, author="a", reason="r", time=NOW)


def rollout(digest: str, state: State, day: int = 0, reason: str = "") -> Rollout:
    time = NOW + timedelta(days=day)
    return Rollout(
        rollout_id=f"{digest[0]}-{day}",
        application="faq",
        release_digest=digest,
        stable_digest=OLD,
        deployment_id="d",
        state=state,
        started=time,
        changed=time,
        reason=reason,
    )


def night(
    digest: str, outcome: Outcome, day: int, kind: str = "evaluation", late: timedelta = timedelta(minutes=30)
) -> RecordedVerdict:
    end = NOW + timedelta(days=day)
    check = Check(monitor="quality", outcome=outcome, statement=f"quality of night {day}", value=0.1, limit=0.7, n=500)
    verdict = Verdict(
        application="faq",
        release_digest=digest,
        window_start=end - timedelta(days=1),
        window_end=end,
        checks=(check,),
    )
    return RecordedVerdict(verdict_id=f"{day}", kind=kind, recorded=end + late, verdict=verdict)


def gap(digest: str, cure: Cure, reason: str) -> tuple[Gap, ...]:
    return (Gap(application="faq", release_digest=digest, cure=cure, reason=reason),)


def test_a_failed_night_without_a_rollback_calls_for_one() -> None:
    rollouts = [rollout(NEW, State.PROMOTED), rollout(OLD, State.PROMOTED, -9)]
    found = find_gaps(plan(1000), rollouts, [night(NEW, Outcome.FAIL, 1), night(NEW, Outcome.PASS, 0)])
    assert found == gap(NEW, Cure.ROLL_BACK, "quality of night 1")


@pytest.mark.parametrize(
    "verdicts",
    [
        [night(NEW, Outcome.FAIL, 1), night(NEW, Outcome.PASS, 2)],
        [night(NEW, Outcome.FAIL, -1)],
        [night(OLD, Outcome.FAIL, 1)],
        [night(NEW, Outcome.INCONCLUSIVE, 1)],
        [night(NEW, Outcome.ERROR, 1)],
        [night(NEW, Outcome.FAIL, 1, kind="ramp")],
        [night(NEW, Outcome.FAIL, 0, late=timedelta(hours=30))],
        [night(NEW, Outcome.FAIL, 1, late=timedelta(days=20))],
        [night(NEW, Outcome.PASS, 1), night(NEW, Outcome.FAIL, 2, late=timedelta(days=3))],
        [],
    ],
    ids=[
        *("a later night passed", "before its rollout", "serves nobody", "inconclusive", "error", "a ramp's"),
        *("a window before its rollout", "judged weeks later", "judged again, late", "none"),
    ],
)
def test_what_calls_for_nothing(verdicts: list[RecordedVerdict]) -> None:
    rollouts = [rollout(NEW, State.PROMOTED), rollout(OLD, State.PROMOTED, -9)]
    assert find_gaps(plan(1000), rollouts, verdicts) == ()


@pytest.mark.parametrize("state", [State.REVERTING, State.REJECTING])
def test_a_failure_that_nobody_undid_is_undone(state: State) -> None:
    found = find_gaps(plan(100), [rollout(NEW, state, reason="harm")], [night(NEW, Outcome.FAIL, 1)])
    assert found == gap(NEW, Cure.ROLL_BACK, "harm")


def test_of_two_that_are_undone_the_one_that_failed_goes_before_the_one_beside_it() -> None:
    beside = rollout(NEW, State.REJECTING, 1, reason="release 111111111111 was rolled back: harm")
    found = find_gaps(plan(0), [beside, rollout(OLD, State.REVERTING, reason="harm")], [])
    assert [gap.release_digest for gap in found] == [OLD, NEW]


@pytest.mark.parametrize(
    ("window_end", "judged", "is_it"),
    [(2, 0.5, True), (2, 47, True), (2, 49, False), (1, 30, True), (0, 1, False)],
)
def test_only_a_verdict_on_the_last_night_and_in_time_may_call_for_a_rollback(
    window_end: int, judged: float, is_it: bool
) -> None:
    on_record = [night(NEW, Outcome.PASS, 1), night(OLD, Outcome.PASS, 9)]
    verdict = night(NEW, Outcome.FAIL, window_end).verdict
    now = NOW + timedelta(days=window_end, hours=judged)
    assert is_latest_news(verdict, on_record, now) is is_it


@pytest.mark.parametrize("state", [State.RAMPING, State.WAITING])
def test_a_ramp_that_nobody_watches_is_held(state: State) -> None:
    found = find_gaps(plan(100), [rollout(NEW, state)], [])
    assert found == gap(NEW, Cure.HOLD, "nobody watches the ramp any more")


def test_a_ramp_whose_night_failed_is_rolled_back_and_not_held() -> None:
    found = find_gaps(plan(100), [rollout(NEW, State.RAMPING)], [night(NEW, Outcome.FAIL, 1)])
    assert found == gap(NEW, Cure.ROLL_BACK, "quality of night 1")


@pytest.mark.parametrize("state", [State.REGISTERED, State.DEPLOYED, State.TESTED, State.HELD, State.ROLLED_BACK])
def test_who_has_no_unwatched_users_is_left_alone(state: State) -> None:
    assert find_gaps(plan(0), [rollout(NEW, state)], []) == ()


def test_an_application_without_a_plan_has_no_gap() -> None:
    assert find_gaps(None, [], []) == ()


@pytest.mark.parametrize(
    ("verdicts", "hours", "outcome", "reason"),
    [
        ([night(OLD, Outcome.FAIL, 0)], 26.5, Outcome.PASS, "the last night was judged 26.0 h ago <= limit 26 h"),
        ([night(OLD, Outcome.PASS, 0)], 27, Outcome.ERROR, "the last night was judged 26.5 h ago > limit 26 h"),
        (
            [night(OLD, Outcome.PASS, 0, kind="ramp")],
            25,
            Outcome.PASS,
            "no night was ever judged, and the first plan was",
        ),
        ([], 30, Outcome.ERROR, "no night was ever judged, and the first plan was written 30.0 h ago > limit 26 h"),
    ],
)
def test_an_application_whose_nights_are_not_judged_is_told(
    verdicts: list[RecordedVerdict], hours: float, outcome: Outcome, reason: str
) -> None:
    found = judge_nights("faq", NOW, verdicts, NOW + timedelta(hours=hours))
    assert (found.outcome, found.monitor, found.release_digest) == (outcome, "evaluation", "")
    assert found.reason.startswith(reason)
    # The same window until a night is judged, so that it is one alert however often it is looked at.
    assert found.window_end == judge_nights("faq", NOW, verdicts, NOW + timedelta(hours=hours + 9)).window_end


def test_the_health_command_and_the_automation_wait_as_long() -> None:
    assert timedelta(hours=NIGHT_H) == MAX_NIGHT_AGE


def experiment(days_ago: int) -> ExperimentRecord:
    arms = {OLD: 1.0, NEW: 1.0}
    started = NOW - timedelta(days=days_ago)
    spec = spec_of(2, endpoint="models:/bot/2", ab_test=AbTest(name="tone", share=0.5))
    return ExperimentRecord(
        experiment_id="1",
        application="faq",
        name="tone",
        control=OLD,
        arms=arms,
        users_per_arm=100,
        design=design_of(spec, OLD, 100),
        stage=Stage.RUNNING,
        started=started,
        changed=started,
        reason="",
        decided=None,
    )


def test_an_arm_whose_night_failed_is_rolled_back_though_it_was_never_rolled_out() -> None:
    failed, rollouts = [night(NEW, Outcome.FAIL, 1)], [rollout(OLD, State.PROMOTED, -9)]
    assert find_gaps(plan(500), rollouts, failed, experiment(1)) == gap(NEW, Cure.ROLL_BACK, "quality of night 1")
    assert find_gaps(plan(500), rollouts, failed, experiment(-2)) == ()  # begun in knowledge of it
    assert find_gaps(plan(500), rollouts, failed, None) == ()
