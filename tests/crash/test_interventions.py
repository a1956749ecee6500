"""What people and ``reconcile`` do to a rollout that was killed, and reconciliations that are killed themselves."""

from __future__ import annotations

import signal
import time

import pytest
from crash_kills import await_lease_end, every, killed_everywhere
from crash_stage import FAILED_NIGHT, PATIENCE_S, PROMOTED, Case, Stage

from tasks.release.lifecycle import State

pytestmark = [pytest.mark.crash, pytest.mark.stack, pytest.mark.timeout(600)]
HELD = "Reconciled: Held: nobody watches the ramp any more; start the rollout again, or: delivery abort"


def state_of(case: Case) -> State:
    return case.stage.ledger.rollouts(case.application)[0].state


def await_state(case: Case, state: State) -> None:
    until = time.monotonic() + PATIENCE_S
    while not (rollouts := case.stage.ledger.rollouts(case.application)) or rollouts[0].state is not state:
        assert time.monotonic() < until, rollouts[:1]
        time.sleep(0.05)


def assert_undisturbed(case: Case) -> None:
    assert not [*case.strange, *case.stage.seen_by_users(case)["failures"]]


def test_a_rollout_killed_before_while_and_after_a_person_is_asked_goes_on_where_it_was(stage: Stage) -> None:
    whole = stage.cast({"whole": PROMOTED})[0]
    with stage.users_of(whole), whole.start(approval=True) as run:
        await_state(whole, State.WAITING)
        assert whole.run(flow="approve") == 0, whole.endings
        assert run.wait() == 0
        end = whole.end_state()
    points = whole.points()
    asked = points.index("publish: artifact")
    # To ask: put on record, committed, told; then it looks on; then, approved, the verdict is recorded and it goes on.
    assert points[asked - 2 : asked + 2] == [
        *("Ledger.advance", "Ledger.advance: commit", "publish: artifact", "publish: event"),
    ]
    chosen = (asked - 1, asked + 1, asked + 2, asked + 4)
    cases = stage.cast({f"asked-{number}": PROMOTED for number in chosen})
    for number, case in zip(chosen, cases, strict=True):
        with stage.users_of(case):
            with case.start(approval=True, kill_at=number) as killed:
                if number > asked + 2:
                    await_state(case, State.WAITING)
                    assert case.run(flow="approve") == 0, case.endings
                killed.wait()
            assert case.points() == points[: number + 1]
            if number <= asked + 2:
                assert case.run(flow="approve") == 0, case.endings
            assert case.run(approval=True) == 0, case.endings
            assert case.end_state() == end, (number, points[number])
        assert case.endings[-1] == "Promoted: bot 3 serves every user"
        assert_undisturbed(case)
        stage.drop(case)


def test_a_hold_said_while_nobody_watched_is_no_hold_and_one_said_to_a_watch_ends_it(stage: Stage) -> None:
    case = stage.cast({"hold": PROMOTED})[0]
    with stage.users_of(case):
        with case.start(approval=True) as run:
            await_state(case, State.WAITING)
            assert case.run(flow="hold") == 0, case.endings
            assert run.wait() == 0
        assert case.endings[-1].startswith("Held: "), case.endings
        assert state_of(case) is State.HELD
        users = case.end_state().plans[-1]
        assert case.run(flow="reconcile") == 0  # somebody decided that it stands where it is
        assert case.endings[-1].startswith("NothingToDo: ")
        assert case.end_state().plans[-1] == users
        assert case.run(flow="abort") == 0
    assert case.endings[-1].startswith("RolledBack: bot 3 is out, bot 2 serves every user again")
    assert_undisturbed(case)


def test_reconcile_killed_anywhere_and_run_again_rolls_a_failed_night_back(stage: Stage) -> None:
    outcomes = killed_everywhere([stage], {FAILED_NIGHT: every(3)})
    problems = [f"{o.number} {o.point}: {problem}" for o in outcomes for problem in o.problems]
    assert not problems, "\n".join(problems)
    assert len(outcomes) > 6
    assert {outcome.second.partition(":")[0] for outcome in outcomes} >= {"Reconciled"}


def test_reconcile_killed_anywhere_and_run_again_holds_a_ramp_that_nobody_watches(stage: Stage) -> None:
    whole, *cases = stage.cast({f"ramp-{number}": PROMOTED for number in range(-1, 7)})
    passed = set[str]()
    for number, case in enumerate([whole, *cases], -1):
        with stage.users_of(case):
            assert case.run(kill_before="Watch.look") == -signal.SIGKILL
            await_lease_end(case)
            assert state_of(case) is State.RAMPING
            code = case.run(flow="reconcile", kill_at=None if case is whole else number)
            passed |= set(case.points())
            await_lease_end(case)
            assert case.run(flow="reconcile") == 0, case.endings
            assert state_of(case) is State.HELD
            assert case.end_state() == whole.end_state(), number
        assert code == (0 if case is whole else -signal.SIGKILL), case.endings
        assert_undisturbed(case)
    assert whole.endings[-2].startswith(HELD), whole.endings
    assert whole.endings[-1].startswith("NothingToDo: ")
    assert passed == {
        *("Ledger.acquire", "Ledger.acquire: commit", "Ledger.advance", "Ledger.advance: commit", "publish: event"),
        *("Ledger.release_lease", "Ledger.release_lease: commit"),
    }


def test_two_reconciliations_at_once_do_what_one_does(either_stage: Stage) -> None:
    stage = either_stage
    one, both = stage.cast({"one": FAILED_NIGHT, "both": FAILED_NIGHT})
    assert one.run() == 0
    with stage.users_of(both):
        with both.start(lease_s=6.0) as first, both.start(lease_s=6.0) as second:
            assert {first.wait(), second.wait()} == {0}, both.endings
        end = both.end_state()
    assert end == one.end_state()
    assert any(ending.startswith("Reconciled: RolledBack: bot 2 is out") for ending in both.endings), both.endings
    assert all(ending.startswith(("Reconciled: ", "NothingToDo: ")) for ending in both.endings), both.endings
    assert_undisturbed(both)


def test_reconcile_leaves_a_rollout_alone_that_is_under_way(stage: Stage) -> None:
    alone, case = stage.cast({"alone": PROMOTED, "met": PROMOTED})
    for one in (alone, case):
        with stage.users_of(one), one.start(approval=True, lease_s=60.0) as run:
            await_state(one, State.RAMPING)
            for state in (State.RAMPING, State.WAITING):
                await_state(one, state)
                if one is case:
                    assert one.run(flow="reconcile", lease_s=60.0) == 0
                    assert one.endings[-1].startswith("NothingToDo: "), one.endings
            assert one.run(flow="approve") == 0
            assert run.wait() == 0, one.endings
        assert_undisturbed(one)
    assert case.endings[-1] == "Promoted: bot 3 serves every user"
    assert case.end_state() == alone.end_state()
