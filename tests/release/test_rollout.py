"""Rollouts and what people say to them, on the real HAProxy and on either database."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from crash_stage import PATIENCE_S, PROMOTED, REJECTED, Case, Stage

from tasks.release.lifecycle import State
from tasks.release.rollout import Action

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def two_at_once(either_ledger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Yield a stage with room for a rollout and for who decides about it."""
    made = Stage(tmp_path_factory.mktemp("stage"), runners=2)
    assert made.ledger.url.startswith(either_ledger)
    yield made
    made.close()


def await_state(case: Case, state: State) -> None:
    until = time.monotonic() + PATIENCE_S
    while not (rollouts := case.stage.ledger.rollouts(case.application)) or rollouts[0].state is not state:
        assert time.monotonic() < until, (rollouts[:1], case.endings)
        time.sleep(0.02)


def test_what_a_person_says_to_a_question_decides(two_at_once: Stage) -> None:
    cases = two_at_once.cast({"approved": PROMOTED, "aborted": PROMOTED})
    for case, said in zip(cases, ("approve", "abort"), strict=True):
        with two_at_once.users_of(case), case.start(approval=True, lease_s=60.0) as run:
            await_state(case, State.WAITING)
            assert case.run(flow=said, lease_s=60.0) == 0, case.endings
            run.wait()
        rollout = two_at_once.ledger.rollouts(case.application)[0]
        on_record = [decision.action for decision in two_at_once.ledger.decisions(rollout.rollout_id)]
        assert on_record == ([Action.APPROVE] if said == "approve" else [])
        assert not [*case.strange, *two_at_once.seen_by_users(case)["failures"]]
    approved, aborted = (case.end_state() for case in cases)
    assert cases[0].endings[-1] == "Promoted: bot 3 serves every user"
    assert cases[1].endings[0].startswith("RolledBack: bot 3 is out, bot 2 serves every user again"), cases[1].endings
    assert approved.plans[-1] == (("v3", 1000),)
    assert aborted.plans[-1] == (("v2", 1000),)
    assert (approved.quarantine, aborted.quarantine) == ((), ("v3",))
    assert approved.in_effect
    assert aborted.in_effect


def test_a_release_that_fails_its_smoke_test_meets_no_user(two_at_once: Stage) -> None:
    (case,) = two_at_once.cast({"rejected": REJECTED})
    with two_at_once.users_of(case):
        assert case.run() == 0  # what it is there for
        end = case.end_state()
    assert case.endings[0].startswith("Rejected: "), case.endings
    assert end.plans == ((("v1", 1000),),)
    assert end.quarantine == ("v2",)
    assert [state for _, state, _ in end.rollouts] == ["promoted", "rejected"]
    seen = two_at_once.seen_by_users(case)
    assert {case.name_of(digest) for digest in seen["releases"]} == {"v1"}
    assert not [*case.strange, *seen["failures"]]
