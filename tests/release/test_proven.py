"""Who stands by for whom: what is on record decides, and the data path is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from crash_stage import PROMOTED, ROLLED_BACK, TAKEN_BACK, Case, Scenario, Stage

from tasks.release.lifecycle import State
from tasks.release.proven import promoted_digests, proven_digests
from tasks.release.rollout import Rollout
from tasks.traffic.haproxy.folder import read_proven

START = datetime(2026, 3, 1, tzinfo=UTC)


def rollout(digest: str, state: State, minute: int) -> Rollout:
    return Rollout(
        rollout_id=f"{digest}-{minute}",
        application="faq",
        release_digest=digest,
        stable_digest="",
        deployment_id="d",
        state=state,
        started=START + timedelta(minutes=minute),
        changed=START + timedelta(minutes=minute),
        reason="r",
    )


def test_the_last_promoted_release_stands_by_first() -> None:
    rollouts = [rollout("a", State.PROMOTED, 5), rollout("b", State.PROMOTED, 9), rollout("a", State.PROMOTED, 2)]
    assert proven_digests(rollouts, set()) == ("b", "a")
    assert proven_digests(rollouts, {"b"}) == ("a",)
    assert proven_digests([], set()) == ()


@pytest.mark.parametrize("then", [[], [State.REJECTED]])
def test_who_failed_when_it_was_tried_again_is_proven_no_more(then: list[State]) -> None:
    states = [State.PROMOTED, State.ROLLED_BACK, *then]
    rollouts = [rollout("a", state, minute) for minute, state in enumerate(states)]
    rollouts.append(rollout("b", State.PROMOTED, 9))
    assert promoted_digests(rollouts) == ("b",)
    assert proven_digests(rollouts, set()) == ("b",)


@pytest.mark.parametrize(
    ("state", "is_proven"),
    [
        (State.REGISTERED, False),
        (State.TESTED, False),
        (State.RAMPING, False),
        (State.WAITING, False),
        (State.HELD, False),
        (State.REVERTING, False),
        (State.REJECTED, True),  # this time it could not be deployed; it was promoted all the same
        (State.PROMOTED, True),
    ],
)
def test_who_is_rolled_out_again_or_taken_back_is_in_doubt(state: State, is_proven: bool) -> None:
    rollouts = [rollout("a", State.PROMOTED, 1), rollout("a", state, 2)]
    assert (proven_digests(rollouts, set()) == ("a",)) is is_proven
    assert promoted_digests(rollouts) == ("a",)
    assert promoted_digests([rollout("c", State.RAMPING, 1), rollout("d", State.ROLLED_BACK, 2)]) == ()


@pytest.fixture(scope="module")
def own_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        # No Prefect server is there: notices wait in the ledger, and say why.
        patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
        made = Stage(tmp_path_factory.mktemp("stage"), rate=40.0)
        yield made
        made.close()


def standing(case: Case) -> list[str]:
    return [case.name_of(digest) for digest in read_proven(case.stage.driver.folder, case.application)]


@pytest.mark.stack
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("scenario", "proven", "running"),
    [
        (PROMOTED, ["v3", "v2"], ("v2", "v3")),
        (TAKEN_BACK, ["v1"], ("v1",)),
        (ROLLED_BACK, ["v1"], ("v1",)),
    ],
)
def test_a_flow_leaves_those_standing_by_that_are_proven_then(
    own_stage: Stage, scenario: Scenario, proven: list[str], running: tuple[str, ...]
) -> None:
    (case,) = own_stage.cast({f"proven-{scenario.name}": scenario})
    with own_stage.users_of(case):
        assert case.run() == 0, case.endings
    assert standing(case) == proven
    assert case.end_state().running == running
    backends = own_stage.driver.backends()
    for digest in own_stage.driver.running(case.application):
        others = [name for name in proven if name in running and name != case.name_of(digest)]
        assert len([slot for slot in backends[digest[:12]].standbys if slot.is_on]) == len(others)
