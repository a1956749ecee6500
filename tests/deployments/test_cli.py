"""The command ``delivery``: what it shows, what it refuses in one line, and what its exit codes tell a pipeline."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
import yaml
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands import kick as kick_module
from deployments.commands.kick import EXIT_CODES, Ended
from deployments.stack.services import Ports
from deployments.stack.stack import Record
from flows.rollback import rollback
from flows.rollout import rollout
from tasks.errors import DeliveryError
from tasks.traffic.servers import free_port

SPEC = {
    "application": "faq",
    "model_id": "bot",
    "version": "1",
    "endpoint": "models:/bot/1",
    "prompt": {"name": "p", "text": "hello"},
}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
Run = Callable[..., "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``delivery`` away from any stack; what it sets in the environment is undone."""
    for name in ("DELIVERY_STATE_DIR", "DELIVERY_MLFLOW_URL", "DELIVERY_DATA_URL", "PREFECT_HOME", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str) -> Outcome:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run_command


@pytest.fixture
def release_file(tmp_path: Path) -> Path:
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    return path


@dataclass
class Kicked:
    """A stand-in for the Prefect server: keeps what was started, and ends it as told."""

    ends: str = "Promoted"
    deployment: str = ""
    parameters: Mapping[str, Any] | None = None

    def __call__(self, deployment: str, parameters: Mapping[str, Any], *, say: Callable[[str], None]) -> Ended:
        self.deployment, self.parameters = deployment, json.loads(json.dumps(parameters))
        say("http://127.0.0.1:4200/runs/flow-run/1")
        return Ended(flow_run_id="1", state=self.ends, message="p95 latency 1340 ms > limit", is_completed=False)


@pytest.fixture
def kicked(monkeypatch: pytest.MonkeyPatch) -> Kicked:
    made = Kicked()
    monkeypatch.setattr(kick_module, "kick", made)
    return made


def a_stack_runs(state: Path) -> Record:
    """Leave the record of a stack that this process holds."""
    state.mkdir()
    record = Record(
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        mark="m",
        state=str(state),
        ports=Ports(prefect=4200, mlflow=5000, data=8080),
    )
    (state / "stack.json").write_text(json.dumps(asdict(record)), encoding="utf-8")
    return record


# --- help ---


def test_without_a_command_the_commands_are_shown(run: Run) -> None:
    shown = run()
    assert all(name in shown.out + shown.err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_every_option_and_argument(run: Run, name: str) -> None:
    shown = run(name, "--help")
    assert shown.code == 0
    words = " ".join(shown.out.split())
    assert COMMANDS[name].help.split("\n\n")[0].strip() in words
    for parameter in COMMANDS[name].params:
        assert all(option in words for option in parameter.opts if option.startswith("--"))
        assert parameter.help
        assert parameter.help in words


@pytest.mark.parametrize("arguments", [["rollout"], ["rollback", "faq"], ["rollback", "--reason", "r"], ["fly"]])
def test_a_command_that_is_not_understood_exits_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"monitors": {"latency_ms": -3}}, "monitors.latency_ms: Input should be greater than 0 (was -3)"),
        ({"endpoint": "ftp://h"}, "endpoint: Value error, 'ftp://h' is no endpoint"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted (was 'blue')"),
    ],
)
def test_a_bad_release_file_is_one_line_with_file_field_and_value(
    run: Run, release_file: Path, kicked: Kicked, changes: dict[str, Any], said: str
) -> None:
    release_file.write_text(yaml.safe_dump(SPEC | changes), encoding="utf-8")
    ended = run("rollout", str(release_file))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"error: {release_file}: {said}")
    assert ended.err.count("\n") == 1
    assert kicked.parameters is None


def test_a_missing_file_and_a_bad_suite_are_one_line_too(run: Run, release_file: Path, kicked: Kicked) -> None:
    missing = run("rollout", "nope.yaml")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert missing.err.startswith("error: nope.yaml: cannot be read: ")
    suite = release_file.with_name("smoke.yaml")
    suite.write_text("cases: []", encoding="utf-8")
    bad = run("rollout", str(release_file), "--smoke", str(suite))
    assert bad.code == 1
    assert bad.err == f"error: {suite}: cases: Tuple should have at least 1 item after validation, not 0 (was [])\n"
    assert kicked.parameters is None


def test_without_a_server_it_says_what_to_do(run: Run, release_file: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: nobody, PREFECT_CLIENT_MAX_RETRIES: 0}):
        ended = run("rollout", str(release_file))
    assert ended.code == 1
    assert ended.err.startswith("error: the Prefect server does not answer: ")
    assert ended.err.endswith("is the stack up? (make up)\n")
    assert ended.err.count("\n") == 1


def test_a_defect_keeps_its_traceback(
    run: Run, release_file: Path, kicked: Kicked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kicked, "__call__", lambda *_, **__: 1 / 0)
    with pytest.raises(AssertionError, match="division by zero"):
        run("rollout", str(release_file))
    assert kicked.parameters is None


# --- env and down ---


def test_without_a_stack_there_is_no_environment(run: Run, tmp_path: Path) -> None:
    assert run("env") == Outcome(1, "", "error: no stack runs in .state; start it with: make up\n")
    state = tmp_path / "other"
    assert run("env", "--state", str(state)).err == f"error: no stack runs in {state}; start it with: make up\n"


def test_the_record_of_a_stack_that_is_gone_is_no_environment(run: Run, tmp_path: Path) -> None:
    record = a_stack_runs(tmp_path / "state")
    gone = asdict(record) | {"started": record.started - 100}
    (tmp_path / "state" / "stack.json").write_text(json.dumps(gone), encoding="utf-8")
    assert run("env", "--state", "state").code == 1


def test_the_environment_of_a_stack_can_be_evaluated_by_a_shell(run: Run, tmp_path: Path) -> None:
    record = a_stack_runs(tmp_path / "a state; with 'quotes'")
    shown = run("env", "--state", record.state)
    words = [shlex.split(line) for line in shown.out.splitlines()]
    assert all(len(line) == 2 and line[0] == "export" for line in words)
    assert dict(line[1].split("=", 1) for line in words) == record.layout.variables()
    assert (shown.code, shown.err) == (0, "")


def test_without_a_stack_down_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    assert run("down") == Outcome(0, "no stack runs in .state\n", "")
    assert run("down", "--state", "other").out == "no stack runs in other\n"
    assert list(tmp_path.iterdir()) == []


# --- starting a flow and telling how it ended ---


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        *(("Promoted", 0), ("Held", 3), ("RolledBack", 4), ("Rejected", 5)),
        *(("Failed", 1), ("Crashed", 1), ("Cancelled", 1), ("TimedOut", 1)),
    ],
)
def test_a_rollout_exits_with_how_it_ended(run: Run, release_file: Path, kicked: Kicked, ends: str, code: int) -> None:
    kicked.ends = ends
    ended = run("rollout", str(release_file))
    assert (ended.code, ended.err) == (code, "")
    assert ended.out.splitlines() == [
        "http://127.0.0.1:4200/runs/flow-run/1",
        f"{ends}: p95 latency 1340 ms > limit",
    ]


@pytest.mark.parametrize(
    ("ends", "code"), [("RolledBack", 0), ("NothingToDo", 0), ("NoCandidate", 6), ("Failed", 1), ("Crashed", 1)]
)
def test_a_rollback_exits_with_how_it_ended(run: Run, kicked: Kicked, ends: str, code: int) -> None:
    kicked.ends = ends
    assert run("rollback", "faq", "--reason", "wrong answers").code == code
    assert EXIT_CODES["RolledBack"] == 4  # for who asked for a rollout


def test_what_a_rollout_sends_is_what_its_flow_takes(run: Run, release_file: Path, kicked: Kicked) -> None:
    suite = release_file.with_name("smoke.yaml")
    suite.write_text("cases: [{name: a, question: b}]", encoding="utf-8")
    run("rollout", str(release_file), "--smoke", str(suite), "--no-ramp", "--override-reason", "rebuilt")
    assert kicked.deployment == "rollout/rollout"
    assert kicked.parameters is not None
    taken = rollout.validate_parameters(dict(kicked.parameters))
    assert (taken["release"].application, taken["release"].prompt.text) == ("faq", "hello")
    assert [case.name for case in taken["smoke"].cases] == ["a"]
    assert (taken["ramp"].enabled, taken["override_reason"]) == (False, "rebuilt")
    run("rollout", str(release_file), "--deployment", "rollout/eu")
    assert kicked.deployment == "rollout/eu"
    assert kicked.parameters["ramp"]["enabled"] is True
    assert "smoke" not in kicked.parameters


def test_what_a_rollback_sends_is_what_its_flow_takes(run: Run, kicked: Kicked) -> None:
    run("rollback", "faq", "--reason", "wrong answers", "--release", "a" * 64)
    assert kicked.deployment == "rollback/rollback"
    assert kicked.parameters is not None
    sent = {"application": "faq", "reason": "wrong answers", "release": "a" * 64}
    assert rollback.validate_parameters(dict(kicked.parameters)).items() >= sent.items()


def test_a_server_that_refuses_is_one_line(run: Run, release_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Ended:
        raise DeliveryError("there is no deployment rollout/rollout")

    monkeypatch.setattr(kick_module, "kick", refuse)
    assert run("rollout", str(release_file)) == Outcome(1, "", "error: there is no deployment rollout/rollout\n")


def test_a_flow_is_started_on_the_stack_of_the_folder(
    run: Run, tmp_path: Path, release_file: Path, kicked: Kicked, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = a_stack_runs(tmp_path / "state")
    monkeypatch.delenv("PREFECT_API_URL")
    assert run("rollout", str(release_file), "--state", record.state).code == 0
    assert kicked.deployment
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert os.environ["DELIVERY_STATE_DIR"] == record.state


def test_a_stack_and_an_environment_that_disagree_are_an_error(
    run: Run, tmp_path: Path, release_file: Path, kicked: Kicked, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = a_stack_runs(tmp_path / "state")
    monkeypatch.setenv("DELIVERY_DATA_URL", "http://elsewhere")
    refused = run("rollout", str(release_file), "--state", record.state)
    assert refused.code == 1
    assert "is http://" in refused.err
    assert "unset it, or give --state" in refused.err
    assert not kicked.deployment
