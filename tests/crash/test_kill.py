"""``kill -9`` at every point of a flow, with the real HAProxy, the real ledger and users who ask all the while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_stage import (
    PATIENCE_S,
    PROMOTED,
    REJECTED,
    ROLLED_BACK,
    TAKEN_BACK,
    Case,
    Run,
    Stage,
    killed_everywhere,
    stages,
)

pytestmark = [pytest.mark.crash, pytest.mark.stack, pytest.mark.timeout(600)]


def test_killed_anywhere_and_run_again_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with stages(tmp_path) as made:
        # Every point of a rollback, every third of a promotion; tests/bench/bench_crash.py tries all of all.
        chosen = {PROMOTED: 3, REJECTED: 11, TAKEN_BACK: 7, ROLLED_BACK: 1}
        outcomes = killed_everywhere(made, chosen)
    assert len(outcomes) > 20
    assert sum(outcome.asked for outcome in outcomes) > 1000
    problems = [f"{o.scenario}-{o.number} {o.point}: {problem}" for o in outcomes for problem in o.problems]
    assert not problems, "\n".join(problems)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path, runners=2)
    yield made
    made.close()


def stopped(run: Run) -> None:
    """Wait until a flow has stopped itself."""
    until = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until
        time.sleep(0.02)


def left(case: Case) -> tuple[object, ...]:
    seen = case.stage.driver.observe(case.application)
    rollouts = case.stage.ledger.rollouts(case.application)
    return seen, case.stage.ledger.plans(case.application), rollouts, case.end_state()


def test_a_holder_that_slept_through_the_loss_of_its_lease_changes_nothing(stage: Stage) -> None:
    whole = stage.cast({"whole": PROMOTED})[0]
    with stage.users_of(whole):
        assert whole.run() == 0
    points = whole.points()
    second_plan = [at for at, point in enumerate(points) if point == "Ledger.write_plan"][1]
    applied = [at for at, point in enumerate(points) if point == "HaproxyDriver.apply"][1]
    promoting = points.index("HaproxyDriver.retire") - 3
    for number in (second_plan, applied, promoting):
        case = stage.cast({f"slept-{number}": PROMOTED})[0]
        with stage.users_of(case), case.start(pause_at=number) as sleeper:
            stopped(sleeper)
            assert case.run(flow="abort") == 0
            before = left(case)
            os.kill(sleeper.pid, signal.SIGCONT)
            assert sleeper.wait() == 1
            assert left(case) == before
        assert case.endings[0].startswith("RolledBack: bot 3 is out, bot 2 serves every user again"), case.endings
        assert case.endings[1].startswith(("LeaseError: ", "ConflictError: ")), case.endings
        assert not [*case.strange, *stage.seen_by_users(case)["failures"]]


@pytest.mark.parametrize("second", ["rollout", "rollback"])
def test_two_processes_on_one_application(stage: Stage, second: str) -> None:
    case = stage.cast({f"both-{second}": PROMOTED})[0]
    with stage.users_of(case):
        with case.start() as one, case.start(flow=second, version=3 if second == "rollout" else 2) as two:
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
        assert "v2" in end.quarantine
        assert "v2" not in dict(end.plans[-1])
