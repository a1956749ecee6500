"""Break things while a flow stands before one of its steps, mend them, and see what is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from crash_stage import PATIENCE_S, PROMOTED, ROLLED_BACK, Case, EndState, Run, Scenario
from fault_kinds import KINDS, ClockBack, DiskFull, Fault, FaultStage, RunnerKilled, build_clock, small_disk
from postgres_server import PostgresServer

OUTAGE_S = 0.6
"""Longer than a life of the lease of this stage (0.4 s) and than a writer waits for SQLite's lock (0.3 s)."""
CHECKS_S = 3.5
"""So long after a server is back HAProxy may take until it believes it: a check a second, and a retry that waits."""
RUNS = 5
UNDISTURBED, BEFORE = "as undisturbed", "as before"
SCENARIOS: tuple[Scenario, ...] = (PROMOTED, ROLLED_BACK)
Kinds = tuple[type[Fault], ...]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run that nothing disturbed: its steps, each with the number of its point, and what is left of it."""

    steps: tuple[tuple[int, str], ...]
    before: EndState
    end: EndState


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Faults that begin together, while a flow stands before one of its steps."""

    scenario: Scenario
    number: int
    step: str
    kinds: Kinds


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        faults: Names, in the order in which they began.
        left: ``as undisturbed``, ``as before`` or what else.
        runs: How often the flow was run.
        refused_s: From the first to the last request that was not answered.
        unlogged: Requests that were answered and are not on the log.
        problems: What must not be.
    """

    flow: str
    step: str
    faults: tuple[str, ...]
    left: str
    runs: int
    asked: int
    failed: int
    refused_s: float
    unlogged: int
    problems: tuple[str, ...]


def step_points(points: list[str]) -> tuple[tuple[int, str], ...]:
    """Return the points where a step begins, or a plan that is on record is about to be put into effect."""
    found: list[tuple[int, str]] = []
    for number, label in enumerate(points):
        if label.startswith("step: "):
            found.append((number, label.removeprefix("step: ").replace("_", " ")))
        elif label == "HaproxyDriver.apply":
            found.append((number, "apply the plan"))
    seen: dict[str, int] = {}
    steps = []
    for number, name in found:
        seen[name] = seen.get(name, 0) + 1
        steps.append((number, f"{name} {seen[name]}" if seen[name] > 1 else name))
    return tuple(steps)


def undisturbed(stage: FaultStage, scenario: Scenario, name: str) -> Whole:
    """Run a scenario with nothing broken."""
    case = stage.cast({name: scenario})[0]
    before = case.end_state()
    with stage.users_of(case):
        assert case.run() == 0, (case.endings, (case.folder / "traceback.txt").read_text())
        steps = step_points(case.points())
        assert case.run(flow="reconcile") == 0, case.endings
        end = case.end_state()
    seen = stage.seen_by_users(case)
    assert not [*case.strange, *seen["failures"], *unlogged(case)]
    whole = Whole(steps=steps, before=before, end=end)
    stage.drop(case)
    return whole


def tried(stage: FaultStage, trial: Trial, whole: Whole, name: str) -> Outcome:
    """Try one trial on a case of its own."""
    case, faults = stage.cast({name: trial.scenario})[0], [kind() for kind in trial.kinds]
    with stage.users_of(case):
        recover(case, disturb(case, trial.number, faults))
        end = case.end_state()
    stage.set_back(0)
    seen, missing, at = (
        stage.seen_by_users(case),
        unlogged(case),
        stage.world.say(answers=case.application)["failed_at"],
    )
    refused_s = max(at) - min(at) if at else 0.0
    left = left_of(end, whole)
    problems = [*case.strange]
    problems += [] if left in {UNDISTURBED, BEFORE} else [left, *case.endings]
    if seen["failures"] and not any(fault.harms for fault in faults):
        problems.append(f"request failed: {seen['failures'][0]}")
    if refused_s > OUTAGE_S + CHECKS_S:
        problems.append(f"requests were refused for {refused_s:.1f} s")
    problems += ["an answer came from nobody who was cast"] if set(seen["releases"]) - {"", *case.releases} else []
    if missing:
        problems.append(f"{len(missing)} answers are not on the log")
    stage.drop(case)
    return Outcome(
        flow=trial.scenario.flow,
        step=trial.step,
        faults=tuple(fault.name for fault in faults),
        left=left if left in {UNDISTURBED, BEFORE} else "otherwise",
        runs=len(case.endings),
        asked=seen["ok"] + len(seen["failures"]),
        failed=len(seen["failures"]),
        refused_s=refused_s,
        unlogged=len(missing),
        problems=tuple(problems),
    )


def disturb(case: Case, number: int, faults: list[Fault]) -> int:
    """Run the flow to a point, let the faults begin and end, and return the exit code of whoever ran last."""
    with ExitStack() as runs:
        run = runs.enter_context(case.start(pause_at=number))
        await_stopped(run)
        for fault in faults:
            fault.begin(case, run)
        with suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGCONT)
        if any(isinstance(fault, RunnerKilled) for fault in faults):
            run.wait()
            run = runs.enter_context(case.start())
        time.sleep(OUTAGE_S)
        for fault in faults:
            fault.end(case)
        return run.wait()


def recover(case: Case, code: int) -> None:
    """Run the flow again until it ends as it should, and then what the schedule runs anyway.

    A ramp that is held twice stays so: those refused while HAProxy was away are missing in its sample. A person ends
    it.
    """
    for _ in range(RUNS):
        if (code == 0 and not _is_held(case.endings[-1])) or case.endings[-1].startswith("QuarantineError"):
            break  # it is done, or was rejected and remains so
        code = case.run(flow="abort") if sum(map(_is_held, case.endings)) > 1 else case.run()
    case.run(flow="reconcile")


def _is_held(ending: str) -> bool:
    return ending.startswith("Held")


def await_stopped(run: Run) -> None:
    """Wait until a flow has stopped itself."""
    until, stat = time.monotonic() + PATIENCE_S, Path(f"/proc/{run.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until, run.case.endings
        time.sleep(0.01)


def left_of(end: EndState, whole: Whole) -> str:
    """Return what an end state is: that of an undisturbed run, that before the flow, or the difference."""
    last = replace(end, plans=end.plans[-1:])
    if last == replace(whole.end, plans=whole.end.plans[-1:]):
        return UNDISTURBED
    before = replace(whole.before, plans=whole.before.plans[-1:])
    serving = ("plans", "in_effect", "aliases")
    if all(getattr(last, name) == getattr(before, name) for name in serving):
        return BEFORE
    wanted = whole.end
    names = ("plans", "in_effect", "rollouts", "quarantine", "aliases", "running")
    differ = [f"{n}: {getattr(end, n)} != {getattr(wanted, n)}" for n in names if getattr(end, n) != getattr(wanted, n)]
    return "; ".join(differ)


def unlogged(case: Case) -> set[str]:
    """Return the names of the answers that the interaction log does not have."""
    answered = set(case.stage.world.say(answers=case.application)["names"])
    logged = set[str]()
    for path in (case.stage.folder / "interactions" / case.application).rglob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a part of a line, where the disk took no more; a reader sets it aside
                logged.add(json.loads(line)["interaction_id"])
    return answered - logged


@contextmanager
def fault_stage(folder: Path, server: PostgresServer | None = None) -> Iterator[FaultStage]:
    """Have a stage on a small disk until the block ends; with a server, its ledger is there."""
    with small_disk(folder / "disk"):
        stage = FaultStage(folder, server=server)
        try:
            yield stage
        finally:
            stage.close()


def possible_kinds(folder: Path) -> Kinds:
    """Return the faults that can be injected here: a full disk takes a mount, a clock set back takes a C compiler."""
    with small_disk(folder) as mounted:
        missing: set[type[Fault]] = {DiskFull} if mounted is None else set()
    if build_clock() is None:
        missing.add(ClockBack)
    return tuple(kind for kind in KINDS if kind not in missing)


def try_all(
    stages: list[FaultStage],
    choose: Callable[[Scenario, Whole], Iterable[Trial]],
    keep: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Try trials, shared out over stages.

    Args:
        stages: Where.
        choose: Returns the trials of a scenario whose undisturbed run is known.
        keep: Called with each outcome as it comes, by one thread a stage.
    """
    wholes = {scenario: undisturbed(stages[0], scenario, f"{scenario.name}-whole") for scenario in SCENARIOS}
    trials = [trial for scenario, whole in wholes.items() for trial in choose(scenario, whole)]

    def share(at: int) -> list[Outcome]:
        found = []
        for number, trial in list(enumerate(trials))[at :: len(stages)]:
            if stop.is_set():
                break
            found.append(tried(stages[at], trial, wholes[trial.scenario], f"{trial.scenario.name}-{number}"))
            keep(found[-1])
        return found

    stop = threading.Event()
    with ThreadPoolExecutor(len(stages)) as pool:
        try:
            return [outcome for part in pool.map(share, range(len(stages))) for outcome in part]
        finally:
            stop.set()  # an error on one stage, or Ctrl-C, ends the others after what they do now


def trials_of(scenario: Scenario, whole: Whole, groups: Sequence[Kinds], every: int = 1) -> list[Trial]:
    """Return the trials of groups of faults: each group at every so many of the steps, and at one of them at least."""
    steps = whole.steps
    return [
        Trial(scenario=scenario, number=number, step=step, kinds=kinds)
        for at, kinds in enumerate(groups)
        for number, step in steps[at % min(every, len(steps)) :: every]
    ]
