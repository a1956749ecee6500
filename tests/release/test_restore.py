"""What a rollback restores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tasks.release.lifecycle import State
from tasks.release.restore import decide_restoration
from tasks.release.rollout import Rollout
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
V1, V2, V3 = ("1" * 64, "2" * 64, "3" * 64)


def plan(**buckets: int) -> Plan:
    given = tuple(digest * 64 for name, count in buckets.items() for digest in [name[1:]] * count)
    assert len(given) == BUCKETS
    return Plan(application="faq", revision=9, salt="s", buckets=given, author="a", reason="r", time=NOW)


def rollout(digest: str, state: State, day: int, stable: str = "") -> Rollout:
    return Rollout(
        rollout_id=f"{digest[0]}-{day}",
        application="faq",
        release_digest=digest,
        stable_digest=stable,
        deployment_id="d",
        state=state,
        started=NOW + timedelta(days=day),
        changed=NOW + timedelta(days=day),
        reason="",
    )


PROMOTED = [rollout(V3, State.PROMOTED, 3), rollout(V2, State.PROMOTED, 2), rollout(V1, State.PROMOTED, 1)]


def test_the_last_proven_release_comes_first() -> None:
    decision = decide_restoration(plan(v3=1000), PROMOTED, set(), V3)
    assert (decision.bad, decision.candidates) == (V3, (V2, V1))


def test_without_a_name_the_one_most_users_get_goes() -> None:
    assert decide_restoration(plan(v2=100, v3=900), PROMOTED, set(), None).bad == V3


@pytest.mark.parametrize("state", [State.RAMPING, State.HELD, State.WAITING, State.REVERTING])
def test_without_a_name_the_release_that_is_being_rolled_out_goes_and_not_the_champion(state: State) -> None:
    rollouts = [rollout(V3, state, 3, stable=V1), *PROMOTED[1:]]
    decision = decide_restoration(plan(v1=900, v3=100), rollouts, set(), None)
    assert (decision.bad, decision.serves) == (V3, True)
    assert decision.candidates == (V1, V2)  # who stands beside it, before who was promoted later


def test_a_release_in_quarantine_never_comes_back() -> None:
    assert decide_restoration(plan(v3=1000), PROMOTED, {V2}, V3).candidates == (V1,)
    assert decide_restoration(plan(v3=1000), PROMOTED, {V1, V2}, V3).candidates == ()


def test_a_release_that_was_never_promoted_is_not_proven() -> None:
    rollouts = [PROMOTED[0], rollout(V2, State.HELD, 2), PROMOTED[2]]
    assert decide_restoration(plan(v3=1000), rollouts, set(), V3).candidates == (V1,)


def test_where_nobody_can_take_the_users_and_nothing_of_its_own_is_under_way_it_is_stranded() -> None:
    def is_stranded(newest: Rollout, *others: Rollout) -> bool:
        return decide_restoration(plan(v3=1000), [newest, *others], set(), V3).is_stranded

    assert is_stranded(PROMOTED[0])
    assert is_stranded(rollout(V2, State.RAMPING, 4, stable=V3), PROMOTED[0])  # the cure
    assert not is_stranded(rollout(V3, State.RAMPING, 4, stable=""))
    assert not is_stranded(*PROMOTED)


@pytest.mark.parametrize(("state", "may"), [(State.RAMPING, True), (State.HELD, True), (State.REVERTING, False)])
def test_a_release_that_is_rolled_out_again_may_take_the_users_until_it_fails(state: State, may: bool) -> None:
    rollouts = [rollout(V1, state, 4, stable=V3), *PROMOTED]
    candidates = decide_restoration(plan(v1=100, v3=900), rollouts, set(), V3).candidates
    assert candidates == ((V2, V1) if may else (V2,))


def test_an_event_about_a_release_that_no_longer_serves_does_nothing() -> None:
    rolled_back = [rollout(V3, State.ROLLED_BACK, 3), *PROMOTED[1:]]
    for quarantined in (set[str](), {V3}):
        decision = decide_restoration(plan(v2=1000), rolled_back, quarantined, V3)
        assert (decision.bad, decision.explanation) == ("", "release 333333333333 serves nobody")
    assert decide_restoration(plan(v2=1000), PROMOTED, set(), V1).bad == ""


@pytest.mark.parametrize("state", [State.REGISTERED, State.TESTED, State.REJECTING, State.REVERTING])
def test_a_rollout_that_has_no_users_is_ended_without_touching_traffic(state: State) -> None:
    rollouts = [rollout(V3, state, 3, stable=V2), *PROMOTED[1:]]
    decision = decide_restoration(plan(v2=1000), rollouts, {V3}, V3)
    assert (decision.bad, decision.serves, decision.candidates) == (V3, False, ())


def test_an_application_without_traffic_has_nothing_to_roll_back() -> None:
    assert decide_restoration(None, [], set(), None).bad == ""


def test_a_rollout_begun_after_the_failure_is_not_ended_by_news_of_it() -> None:
    again = [rollout(V3, State.DEPLOYED, 5, stable=V2), rollout(V3, State.ROLLED_BACK, 3), *PROMOTED[1:]]
    late = decide_restoration(plan(v2=1000), again, set(), V3, failed_at=NOW + timedelta(days=4))
    assert (late.bad, late.explanation) == (
        "",
        f"release {V3[:12]} has no users, and its rollout was begun after it had failed",
    )
    assert decide_restoration(plan(v2=1000), again, set(), V3, failed_at=NOW + timedelta(days=6)).bad == V3
    assert decide_restoration(plan(v2=1000), again, set(), V3).bad == V3  # a person ends it
    half_undone = [rollout(V3, State.REJECTING, 5, stable=V2), *PROMOTED[1:]]
    assert decide_restoration(plan(v2=1000), half_undone, set(), V3, failed_at=NOW).bad == V3
    # With users it is the safe side to believe the news.
    assert decide_restoration(plan(v2=900, v3=100), again, set(), V3, failed_at=NOW).bad == V3
