"""Kill a flow at its points, run it again, and compare what is left with an uninterrupted run."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from crash_stage import PATIENCE_S, RATE, Case, EndState, Scenario, Stage

STAGES = 3
Choose = Callable[[list[str]], list[int]]
"""Chooses among the points of an uninterrupted run, by their labels; returns their numbers."""
_SWAP = (
    *("Ledger.write_plan", "Ledger.write_plan: commit", "HaproxyDriver.apply", "HaproxyDriver._swap"),
    "HAProxy: commit map",
)


def every(step: int) -> Choose:
    """Choose every so many points: 1 is every point."""
    return lambda points: list(range(0, len(points), step))


def around_swaps(points: list[str]) -> list[int]:
    """Choose what lies around the changes of plan: written, committed, put into effect, in effect."""
    chosen = {at + after for at, label in enumerate(points) if label in _SWAP for after in (0, 1)}
    return sorted(at for at in chosen if at < len(points))


def last_swap(points: list[str]) -> list[int]:
    """Choose what lies around the last change of plan."""
    last = max(at for at, label in enumerate(points) if label == "Ledger.write_plan")
    return [at for at in around_swaps(points) if at >= last]


def but_swaps(points: list[str]) -> list[int]:
    """Choose every point that does not lie around a change of plan."""
    return sorted(set(range(len(points))) - set(around_swaps(points)))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one point.

    Attributes:
        point: What the flow was about to do when it was killed.
        problems: What is not as in an uninterrupted run; empty where all is.
        second: How the second run ended.
        asked: Requests of users.
        failed: Of these, those that were not answered with 200.
        stale: Of these, those asked again because HAProxy closed a kept connection just then.
        due: Requests there ought to have been at the rate of the stage.
    """

    scenario: str
    number: int
    point: str
    second: str
    problems: tuple[str, ...]
    asked: int
    failed: int
    stale: int
    due: int


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An uninterrupted run: the points it came by, what is left of it, and how it ended."""

    points: list[str]
    end: EndState
    ending: str


def uninterrupted(stage: Stage, scenario: Scenario) -> Whole:
    """Run a scenario without a kill."""
    case = stage.cast({f"{scenario.name}-whole": scenario})[0]
    with stage.users_of(case):
        code = case.run()
        assert code == 0, (case.endings, (case.folder / "traceback.txt").read_text())
        # A ramp that is held had no time on this machine, and is nothing to hold others against.
        assert not case.endings[0].startswith("Held"), case.endings
        end = case.end_state()
    assert not [*case.strange, *stage.seen_by_users(case)["failures"]]
    stage.drop(case)
    return Whole(points=case.points(), end=end, ending=case.endings[0])


def killed_everywhere(stages: list[Stage], scenarios: Mapping[Scenario, Choose]) -> list[Outcome]:
    """Kill scenarios where they write or act, run them again each time, and compare with an uninterrupted run.

    Args:
        stages: Where; they share the points.
        scenarios: What, and at which of its points.
    """
    with ThreadPoolExecutor(len(stages)) as pool:
        # One after the other on each stage: the reload of one would spare another its own.
        shares = [list(scenarios)[at :: len(stages)] for at in range(len(stages))]
        made = pool.map(lambda stage, share: [(s, uninterrupted(stage, s)) for s in share], stages, shares)
        wholes = dict(pair for pairs in made for pair in pairs)
        todo = [
            (scenario, number) for scenario, whole in wholes.items() for number in scenarios[scenario](whole.points)
        ]
        parts = [todo[at :: len(stages)] for at in range(len(stages))]
        done = pool.map(lambda stage, part: _killed_on(stage, part, wholes), stages, parts)
        outcomes = [outcome for part in done for outcome in part]
    return sorted(outcomes, key=lambda outcome: (outcome.scenario, outcome.number))


def _killed_on(stage: Stage, part: list[tuple[Scenario, int]], wholes: dict[Scenario, Whole]) -> list[Outcome]:
    cases = stage.cast({f"{scenario.name}-{number}": scenario for scenario, number in part})
    return [_killed(case, number, wholes[scenario]) for case, (scenario, number) in zip(cases, part, strict=True)]


def _killed(case: Case, number: int, whole: Whole) -> Outcome:
    problems: list[str] = []
    with case.stage.users_of(case):
        code = case.run(kill_at=number)
        if code != -signal.SIGKILL or case.points() != whole.points[: number + 1]:
            problems.append(f"it was not killed there: exit code {code}, {case.endings}, {case.points()[-1:]}")
        case.look()
        if case.scenario.flow == "reconcile":
            await_lease_end(case)  # it leaves alone what seems to be worked on; the next one of the schedule does not
        case.run()
        end = case.end_state()
    second, name = case.endings[-1], whole.ending.partition(":")[0]
    if not second.startswith((name, *case.scenario.twice)):
        problems.append(f"ended {second}, not {name}")
    problems += [
        f"{part.name}: {getattr(end, part.name)} != {getattr(whole.end, part.name)}"
        for part in fields(end)
        if getattr(end, part.name) != getattr(whole.end, part.name)
    ]
    seen = case.stage.seen_by_users(case)
    problems += [*case.strange, *(f"request failed: {text}" for text in seen["failures"])]
    case.stage.drop(case)
    shutil.rmtree(case.folder / "lake", ignore_errors=True)
    return Outcome(
        scenario=case.scenario.name,
        number=number,
        point=whole.points[number],
        second=second,
        problems=tuple(problems),
        asked=seen["ok"] + len(seen["failures"]),
        failed=len(seen["failures"]),
        stale=seen["stale"],
        due=seen["due"],
    )


def await_lease_end(case: Case) -> None:
    """Wait until the lease of a case has run out."""
    until = time.monotonic() + PATIENCE_S
    while (expiry := case.stage.ledger.lease_expiry(case.application)) is not None and expiry > datetime.now(UTC):
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def stages(folder: Path, count: int = STAGES, rate: float = RATE) -> Iterator[list[Stage]]:
    """Have stages until the block ends: each its own HAProxy, so that the reloads of one disturb no other's points."""
    with ThreadPoolExecutor(count) as pool:
        made = list(pool.map(lambda number: Stage(folder / str(number), rate=rate), range(count)))
    try:
        yield made
    finally:
        for stage in made:
            stage.close()
