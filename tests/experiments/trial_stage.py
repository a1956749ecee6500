"""Experiments and shadows on the stage of the crash tests: the real flows, HAProxy, ledger and lake, plain calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import crash_plain
import crash_run
import crash_stage
import pytest

import flows.experiment
import flows.rollback
import flows.rollout
import flows.shadow
import flows.stop
from tasks.experiments import ending as experiment_ending
from tasks.experiments import steps as experiment_steps
from tasks.release import acting, rollback_steps, rollout_steps
from tasks.release.model import Release
from tasks.settings import Settings
from tasks.shadows import steps as shadow_steps

STEPS = (acting, experiment_ending, experiment_steps, rollback_steps, rollout_steps, shadow_steps)
FLOWS = (flows.experiment, flows.rollback, flows.rollout, flows.shadow, flows.stop)
SMOKE = crash_run.SMOKE


def cast(stage: crash_stage.Stage, wanted: Mapping[str, tuple[str, int, int]]) -> dict[str, Any]:
    """Put applications on the stage, with one reload for all; those that serve nobody are known.

    Args:
        stage: Where.
        wanted: Name of each, with the behaviour of its last version, how many versions it has, and which serves.
    """
    scenarios = {
        name: crash_stage.Scenario(
            name=name, proven=serving, flow="experiment", version=versions, behaviour=behaviour, latency_ms=100.0
        )
        for name, (behaviour, versions, serving) in wanted.items()
    }
    cases = {case.application: case for case in stage.cast(scenarios)}
    for case in cases.values():
        for release in case.releases.values():
            stage.ledger.remember(release)
    return cases


@contextmanager
def asked(case: Any) -> Iterator[Any]:
    """Have users ask an application until the block ends; every bucket had a release all the while."""
    with case.stage.users_of(case):
        yield case
    assert case.strange == []


def by_version(case: Any) -> dict[str, Release]:
    """Return the releases of a case."""
    return {release.spec.version: release for release in case.releases.values()}


def in_plain(patch: pytest.MonkeyPatch, case: Any, run_name: str = "one") -> crash_plain.FakeRun:
    """Make the flows of this process plain functions on the stores of a case."""
    settings = crash_run.StageSettings(
        state_dir=case.folder,
        data_url=case.stage.driver.url,
        ledger_url=Settings(state_dir=case.stage.folder).ledger,
        stage=case.stage.folder,
    )
    run = crash_plain.FakeRun(lambda: run_name)
    attributes = crash_plain.plain(run, lambda _: crash_plain.FakeRegistry(case.folder / "registry.json"))
    logger = next(value for _, name, value in attributes if name == "get_run_logger")
    for module in STEPS:
        for name, value in (
            *(("get_run_logger", logger), ("flow_run", run)),
            ("Registry", lambda _: crash_plain.FakeRegistry(case.folder / "registry.json")),
            *((name, lambda *_, **__: None) for name in ("create_progress_artifact", "create_table_artifact")),
            ("update_progress_artifact", lambda *_, **__: None),
        ):
            if hasattr(module, name):
                attributes.append((module, name, value))
    attributes += [(flow, "settings", lambda: settings) for flow in FLOWS]
    for target, name, value in attributes:
        patch.setattr(target, name, value)
    return run
