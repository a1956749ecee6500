"""Faults, one at a time and in pairs, while a rollout or a rollback stands before a step and users ask.

All combinations: ``tests/bench/bench_faults.py``, which writes ``docs/faults.md``.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from crash_stage import PROMOTED, ROLLED_BACK
from fault_cases import (
    UNDISTURBED,
    Kinds,
    Outcome,
    Trial,
    fault_stage,
    possible_kinds,
    trials_of,
    tried,
    try_all,
    undisturbed,
)
from fault_kinds import ClockBack, HaproxyKilled, LedgerAway, LedgerHangs, LedgerLocked, RegistryAway, RunnerKilled
from postgres_server import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.stack, pytest.mark.timeout(600)]
STEPS = 99
"""Each fault is tried at one step of each flow; another one for each fault."""
PAIRS = 7
"""Every so many pairs of faults, likewise."""


def assert_right(outcomes: list[Outcome]) -> None:
    wrong = [
        f"{o.flow} {o.step} {' + '.join(o.faults)}: {problem}; ran {o.runs} times, {o.failed} of {o.asked} refused"
        for o in outcomes
        for problem in o.problems
    ]
    assert not wrong, "\n".join(wrong)


def test_one_at_a_time_and_in_pairs(short_path: Path) -> None:
    kinds = possible_kinds(short_path / "probe")
    groups = [*((kind,) for kind in kinds), *list(combinations(kinds, 2))[::PAIRS]]
    with fault_stage(short_path / "stage") as stage:
        outcomes = try_all([stage], lambda scenario, whole: trials_of(scenario, whole, groups, STEPS))
    assert len(outcomes) > 15
    assert sum(outcome.asked for outcome in outcomes) > 500
    assert {len(outcome.faults) for outcome in outcomes} == {1, 2}
    assert_right(outcomes)


def test_what_the_registry_did_not_hear_of_a_rollback_it_is_told(short_path: Path) -> None:
    with fault_stage(short_path / "stage") as stage:
        whole = undisturbed(stage, ROLLED_BACK, "whole")
        number, step = next(found for found in whole.steps if found[1] == "finish")
        trial = Trial(scenario=ROLLED_BACK, number=number, step=step, kinds=(RegistryAway,))
        outcome = tried(stage, trial, whole, "behind")
    assert whole.before.aliases == (("champion", 2), ("previous", 1))
    assert whole.end.aliases == (("champion", 1),)
    assert outcome.left == UNDISTURBED
    assert outcome.runs == 2  # the rollback, and the reconciliation that told it
    assert_right([outcome])


def test_with_its_ledger_on_postgresql(short_path: Path, postgres_server: PostgresServer) -> None:
    groups: list[Kinds] = [(HaproxyKilled, LedgerLocked), (LedgerAway,), (RunnerKilled, LedgerHangs)]
    groups += [(RunnerKilled, ClockBack)] if ClockBack in possible_kinds(short_path / "probe") else []
    with fault_stage(short_path / "stage", postgres_server) as stage:
        outcomes = []
        for scenario, wanted in ((PROMOTED, "apply the plan 2"), (ROLLED_BACK, "restore")):
            whole = undisturbed(stage, scenario, f"{scenario.name}-whole")
            trials = [found for found in trials_of(scenario, whole, groups) if found.step == wanted]
            outcomes += [tried(stage, one, whole, f"{scenario.name}-{at}") for at, one in enumerate(trials)]
    assert len(outcomes) == 2 * len(groups)
    assert_right(outcomes)
