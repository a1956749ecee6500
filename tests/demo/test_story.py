"""The whole story, as `make demo` plays it, and what it says when an act does not happen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deployments.demo import story
from deployments.stack.services import Layout, Ports
from tasks.errors import NotFoundError


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_the_demo_really_plays_every_act_and_leaves_nothing_running(tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "DELIVERY"))}
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "demo", "--state", str(state)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert re.search(r"Promoted: faq-bot 1 serves every user", said)
    assert re.search(r"Promoted: faq-bot 2 serves every user", said)
    assert re.search(r"Rejected: smoke test failed: .*NotFittedError", said)
    assert re.search(r"v3: fail: .*mean quality 0\.\d+ < limit 0\.7 \(n=\d+\)", said)
    assert re.search(r"RolledBack: faq-bot 3 is out, faq-bot 2 serves every user again: mean quality", said)
    assert re.search(r"\d+ requests, 0 failed", said)
    assert re.search(r"From the failed check to the last wrong answer: \d+\.\d s\.", said)
    assert "Who served when" in said
    assert "The day's cost" in said
    assert not [process for process in psutil.process_iter() if _belongs_to(process, state)]
    assert not (state / "stack.json").exists()


def _belongs_to(process: psutil.Process, state: Path) -> bool:
    try:
        return process.environ().get("DELIVERY_STATE_DIR") == str(state) or str(state) in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    @contextmanager
    def running(state: Path, ports: Ports, _say: object) -> Iterator[Layout]:
        yield Layout(state=state, ports=ports, mark="test")

    monkeypatch.setattr(story, "running_stack", running)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return tmp_path / "state"


def test_an_act_that_does_not_happen_is_named_and_the_demo_fails(
    no_stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def fail(_: story.Story) -> None:
        raise NotFoundError("there is no corpus")

    monkeypatch.setattr(story, "_register_models", fail)
    assert story.play(no_stack, said.append) == 1
    assert said[-1] == "\nThe story broke: The models are trained and registered: there is no corpus"


def test_a_rollout_that_ends_otherwise_breaks_the_story(no_stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    held = story.Ended(flow_run_id="1", state="Held", message="failed calls 4 % <= limit", is_completed=True)
    monkeypatch.setattr(story, "_register_models", lambda _: None)
    monkeypatch.setattr(story, "kick", lambda *_, **__: held)
    assert story.play(no_stack, said.append) == 1
    assert said[-1].endswith("v1 comes in: the rollout ended Held, not Promoted: failed calls 4 % <= limit")
