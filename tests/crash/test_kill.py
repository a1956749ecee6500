"""``kill -9`` at every point of a flow, with the real HAProxy, the real ledger and users who ask all the while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_kills import Outcome, but_swaps, every, killed_everywhere, last_swap, stages
from crash_stage import PATIENCE_S, PROMOTED, REJECTED, ROLLED_BACK, TAKEN_BACK, Case, Run, Stage

pytestmark = [pytest.mark.crash, pytest.mark.stack, pytest.mark.timeout(600)]
FULL_RATE = 200.0
"""Requests of users a second that a change of plan must not disturb."""


def assert_whole(outcomes: list[Outcome]) -> None:
    problems = [f"{o.scenario}-{o.number} {o.point}: {problem}" for o in outcomes for problem in o.problems]
    assert not problems, "\n".join(problems)


def test_killed_anywhere_and_run_again_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with stages(tmp_path) as made:
        # Around changes of plan at the full rate below; tests/bench/bench_crash.py tries all of all.
        chosen = {PROMOTED: every(8), REJECTED: every(11), TAKEN_BACK: every(7), ROLLED_BACK: but_swaps}
        outcomes = killed_everywhere(made, chosen)
    assert len(outcomes) > 20
    assert sum(outcome.asked for outcome in outcomes) > 1000
    assert_whole(outcomes)


def test_killed_while_the_plan_changes_nobody_of_200_a_second_is_refused(tmp_path: Path) -> None:
    with stages(tmp_path, count=1, rate=FULL_RATE) as made:
        outcomes = killed_everywhere(made, {PROMOTED: last_swap, ROLLED_BACK: last_swap})
    points = {(outcome.scenario, outcome.point) for outcome in outcomes}
    assert {(name, "HAProxy: commit map") for name in "ad"} < points
    asked, due = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("asked", "due"))
    assert asked >= 0.98 * due  # they were asked at that rate indeed
    assert due > 100 * len(outcomes)
    assert_whole(outcomes)


def test_killed_with_its_ledger_on_postgresql(tmp_path: Path, new_database: Callable[[], str]) -> None:
    stage = Stage(tmp_path, ledger_url=new_database())
    try:
        outcomes = killed_everywhere([stage], {PROMOTED: last_writes, ROLLED_BACK: some_writes})
    finally:
        stage.close()
    assert len(outcomes) >= 6
    assert_whole(outcomes)


def some_writes(points: list[str]) -> list[int]:
    """Choose a handful: before some commits, and where the plan is on record and not in effect."""
    commits = [at for at, label in enumerate(points) if label.endswith(": commit")]
    applies = [at for at, label in enumerate(points) if label == "HaproxyDriver.apply"]
    return sorted({commits[1], commits[len(commits) // 2], applies[-1], commits[-1]})


def last_writes(points: list[str]) -> list[int]:
    """Choose two of them: rollouts take their time."""
    return some_writes(points)[-2:]


def stopped(run: Run) -> None:
    """Wait until a flow has stopped itself."""
    until, stat = time.monotonic() + PATIENCE_S, Path(f"/proc/{run.pid}/stat")
    while True:
        try:
            state = stat.read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            state = "gone"
        if state in {"Z", "gone"}:
            run.wait()
            raise AssertionError(f"it ended before it stopped: {run.case.endings}")
        if state == "T":
            return
        assert time.monotonic() < until, (state, run.case.endings)
        time.sleep(0.02)


def left(case: Case) -> tuple[object, ...]:
    seen = case.stage.driver.observe(case.application)
    rollouts = case.stage.ledger.rollouts(case.application)
    return seen, case.stage.ledger.plans(case.application), rollouts, case.end_state()


def test_a_holder_that_slept_through_the_loss_of_its_lease_changes_nothing(either_stage: Stage) -> None:
    stage = either_stage
    whole = stage.cast({"whole": PROMOTED})[0]
    with stage.users_of(whole):
        assert whole.run() == 0, whole.endings
    points = whole.points()
    second_plan = [at for at, point in enumerate(points) if point == "Ledger.write_plan"][1]
    applied = [at for at, point in enumerate(points) if point == "HaproxyDriver.apply"][1]
    promoting = max(at for at, point in enumerate(points) if point == "Ledger.advance")
    chosen = (second_plan, promoting) if stage.ledger.url.startswith("sqlite") else (applied,)
    for number in chosen:
        case = stage.cast({f"slept-{number}": PROMOTED})[0]
        with stage.users_of(case), case.start(pause_at=number) as sleeper:
            stopped(sleeper)
            try:
                assert case.run(flow="abort") == 0, case.endings
                before = left(case)
            finally:
                os.kill(sleeper.pid, signal.SIGCONT)
            assert sleeper.wait() == 1
            assert left(case) == before
        assert case.endings[0].startswith("RolledBack: bot 3 is out, bot 2 serves every user again"), case.endings
        assert case.endings[1].startswith(("LeaseError: ", "ConflictError: ")), case.endings
        assert not [*case.strange, *stage.seen_by_users(case)["failures"]]


@pytest.mark.parametrize("second", ["rollout", "rollback"])
def test_two_processes_on_one_application(either_stage: Stage, second: str) -> None:
    stage = either_stage
    case = stage.cast({f"both-{second}": PROMOTED})[0]
    with stage.users_of(case):
        # A lease that outlives a busy machine: nobody is to lose it but to the other.
        order = {"flow": second, "version": 3 if second == "rollout" else 2, "lease_s": 6.0}
        with case.start(lease_s=6.0) as one, case.start(**order) as two:
            codes = {one.wait(), two.wait()}
        end = case.end_state()
    assert not [*case.strange, *stage.seen_by_users(case)["failures"]]
    assert end.in_effect
    assert codes == {0, 1} or second == "rollback", case.endings
    promoted = [state for _, state, _ in end.rollouts if state == "promoted"]
    if second == "rollout":
        assert sorted(ending.partition(":")[0] for ending in case.endings) == ["LeaseError", "Promoted"]
        assert len(promoted) == 3
    else:
        assert "v2" in end.quarantine, case.endings
        assert "v2" not in dict(end.plans[-1]), case.endings
