"""Flows without their orchestrator: the real flows and steps, called as plain functions.

MLflow is not what is under test: releases and aliases are kept in one JSON file, or in memory.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Flow, Task
from prefect.states import Failed

import flows.decision
import flows.reconcile
import flows.rollback
import flows.rollout
from tasks.monitors import steps as alert_steps
from tasks.release import acting, decision_steps, mending, reconcile_steps, rollback_steps, rollout_steps, telling
from tasks.release.model import Prompt, PromptRef, Release, ReleaseSpec, text_sha256

Attribute = tuple[Any, str, Any]
PROMPT = "Be kind."
STEPS = (acting, telling, rollout_steps, rollback_steps, reconcile_steps, decision_steps, mending, alert_steps)


def release(application: str, version: int, **monitors: float) -> Release:
    """Return a release; its version is its number in the registry."""
    spec = ReleaseSpec(
        application=application,
        model_id="bot",
        version=str(version),
        endpoint="http://127.0.0.1:9/v1",
        prompt=PromptRef(name="p", text=PROMPT),
        monitors={"latency_ms": 60_000.0, **monitors},
    )
    return Release(spec=spec, prompt=as_prompt(), registry_version=version)


def as_prompt() -> Prompt:
    """Return the prompt of every release."""
    return Prompt(name="p", version=1, text=PROMPT, sha256=text_sha256(PROMPT))


@dataclass
class FakeRegistry:
    """What the flows need of the registry, in a JSON file that is replaced whole."""

    path: Path

    def register(self, spec: ReleaseSpec) -> tuple[Release, bool]:
        return Release(spec=spec, prompt=as_prompt(), registry_version=int(spec.version)), False

    def set_aliases(self, application: str, aliases: Mapping[str, int | None]) -> None:
        del application
        document = self.read()
        document["aliases"] = {n: v for n, v in {**document["aliases"], **aliases}.items() if v is not None}
        self._write(document)

    def aliases(self, application: str) -> dict[str, int]:
        del application
        return dict(self.read()["aliases"])

    def tag(self, release: Release, tags: Mapping[str, str]) -> None:
        document = self.read()
        document["tags"].setdefault(release.spec.version, {}).update(tags)
        self._write(document)

    def read(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"aliases": {}, "tags": {}}
        return json.loads(self.path.read_text()) if self.path.exists() else empty

    def _write(self, document: object) -> None:
        part = self.path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(document))
        part.replace(self.path)


class MemoryRegistry(FakeRegistry):
    """The same without a file."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"aliases": {}, "tags": {}}

    def read(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.document))

    def _write(self, document: Any) -> None:
        self.document = document


@dataclass
class FakeRun:
    """The runtime of a flow run."""

    name: Callable[[], str]
    events: list[str] = field(default_factory=list)

    def get_flow_name(self) -> str:
        return "flow"

    def get_name(self) -> str:
        return self.name()

    def get_id(self) -> str:
        return self.name()


def plain(run: FakeRun, registry: Callable[[str], FakeRegistry]) -> list[Attribute]:
    """Return what must be replaced so that flows run as plain functions."""

    def call(self: Any, *args: Any, return_state: bool = False, **kwargs: Any) -> Any:
        try:
            return self.fn(*args, **kwargs)
        except Exception as error:
            if return_state:  # as in an engine, whoever asks for the state gets no exception
                return Failed(name=type(error).__name__, message=str(error))
            raise

    def emit(event: str, **_: Any) -> None:
        run.events.append(event)

    logger = logging.getLogger("crash")
    logger.disabled = True
    found: list[Attribute] = [(Task, "__call__", call), (Flow, "__call__", call)]
    found += [(module, "get_run_logger", lambda: logger) for module in STEPS if hasattr(module, "get_run_logger")]
    found += [(module, "Registry", registry) for module in STEPS if hasattr(module, "Registry")]
    found += [(module, "flow_run", run) for module in (acting, rollout_steps, rollback_steps)]
    found += [(telling, "create_markdown_artifact", lambda **_: None), (telling, "emit_event", emit)]
    return found


def in_settings(settings: Any) -> list[Attribute]:
    """Return what must be replaced so that every flow uses these settings."""
    used = (flows.rollout, flows.rollback, flows.decision, flows.reconcile)
    return [(flow, "settings", lambda: settings) for flow in used]


def put(attributes: list[Attribute]) -> None:
    """Replace for good, in a process of one's own."""
    for target, name, value in attributes:
        setattr(target, name, value)
