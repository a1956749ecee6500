"""The commands ``delivery experiment`` and ``delivery shadow``: what they send is what their flows take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands import kick as kick_module
from deployments.commands import trials
from deployments.commands.kick import Ended
from flows.experiment import experiment
from flows.shadow import shadow
from flows.stop import stop
from tasks import settings as settings_module
from tasks.experiments.design import ExperimentDesign
from tasks.experiments.experiment import Experiment
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan

DESIGN: dict[str, Any] = {
    "application": "faq",
    "name": "tone",
    "control": "1",
    "arms": [{"release": "1"}, {"release": "2", "weight": 2}],
    "users_per_arm": 100,
}
SPEC = {
    "application": "faq",
    "model_id": "bot",
    "version": "2",
    "endpoint": "models:/bot/1",
    "prompt": {"name": "p", "text": "hello"},
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Keep what a command starts, and end it as ``ends`` says."""
    kept: dict[str, Any] = {"ends": "Concluded"}

    def kick(deployment: str, parameters: Mapping[str, Any], *, say: Callable[[str], None]) -> Ended:
        say("started")
        kept.update(deployment=deployment, parameters=json.loads(json.dumps(parameters)))
        return Ended(flow_run_id="1", state=kept["ends"], message="why", is_completed=False)

    monkeypatch.setattr(kick_module, "kick", kick)
    monkeypatch.setattr(trials, "use_stack", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return kept


def write(path: Path, document: object) -> str:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, arguments)
    return ended.exit_code, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("ends", "code"),
    [("Concluded", 0), ("Inconclusive", 3), ("RolledBack", 4), ("ControlFailed", 4), ("Rejected", 5), ("Failed", 1)],
)
def test_an_experiment_exits_with_how_it_ended(sent: dict[str, Any], tmp_path: Path, ends: str, code: int) -> None:
    sent["ends"] = ends
    assert run("experiment", "start", write(tmp_path / "e.yaml", DESIGN)) == (code, f"started\n{ends}: why\n")
    assert sent["deployment"] == "experiment/experiment"
    taken = experiment.validate_parameters(sent["parameters"])
    assert taken["design"] == ExperimentDesign.model_validate(DESIGN)


def test_a_bad_experiment_file_is_one_line(sent: dict[str, Any], tmp_path: Path) -> None:
    code, said = run("experiment", "start", write(tmp_path / "e.yaml", DESIGN | {"control": "9"}))
    assert (code, said.count("\n")) == (1, 1)
    assert "control 9 is none of the arms: 1, 2" in said
    assert "deployment" not in sent


def test_a_stop_says_who_and_why(sent: dict[str, Any]) -> None:
    sent["ends"] = "Stopped"
    assert run("experiment", "stop", "faq", "--reason", "enough", "--who", "Ada")[0] == 0
    assert (sent["deployment"], stop.validate_parameters(sent["parameters"])) == (
        "stop/stop",
        {"application": "faq", "who": "Ada", "reason": "enough"},
    )
    assert run("experiment", "stop", "faq", "--reason", "enough", "--who", " ")[0] == 1


@pytest.mark.parametrize(
    ("ends", "code"), [("Passed", 0), ("Inconclusive", 3), ("Worse", 4), ("Rejected", 5), ("Crashed", 1)]
)
def test_a_shadow_exits_with_how_it_ended(sent: dict[str, Any], tmp_path: Path, ends: str, code: int) -> None:
    sent["ends"] = ends
    arguments = ("--sample", "50", "--since", "2026-03-01", "--until", "2026-03-02T12:00:00")
    assert run("shadow", write(tmp_path / "r.yaml", SPEC), *arguments)[0] == code
    taken = shadow.validate_parameters(sent["parameters"])
    assert (taken["release"].version, taken["policy"].sample, taken["known"]) == ("2", 50, None)
    assert taken["since"] == datetime(2026, 3, 1, tzinfo=UTC)
    assert taken["until"] == datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_a_shadow_takes_a_file_or_a_known_release_and_not_both(sent: dict[str, Any], tmp_path: Path) -> None:
    sent["ends"] = "Passed"
    policy = write(tmp_path / "p.yaml", {"sample": 10, "decides": ["success"]})
    assert run("shadow", "--application", "faq", "--release", "2", "--policy", policy)[0] == 0
    taken = shadow.validate_parameters(sent["parameters"])
    assert (taken["release"], taken["application"], taken["known"], taken["policy"].sample) == (None, "faq", "2", 10)
    for wrong in ((), ("--application", "faq"), (write(tmp_path / "r.yaml", SPEC), "--release", "2")):
        code, said = run("shadow", *wrong)
        assert (code, said.count("\n")) == (1, 1)
        assert "give a release file, or --application and --release of a known one" in said


def test_show_says_where_it_stands(sent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del sent
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    settings_module.settings.cache_clear()
    a, b, now = "a" * 64, "b" * 64, datetime(2026, 3, 1, tzinfo=UTC)
    ledger = Ledger(settings_module.settings().ledger)
    lease = ledger.acquire("faq", "test", now)
    ledger.write_plan(
        Plan(application="faq", revision=1, salt="s", buckets=(a,) * BUCKETS, author="t", reason="r", time=now), lease
    )
    design = ExperimentDesign.model_validate(DESIGN)
    ledger.begin_experiment(lease, design, Experiment(name="tone", control=a, arms={a: 1.0, b: 2.0}), 100, now)
    ledger.close()
    assert run("experiment", "show", "faq") == (0, "tone of faq is preparing\nwaits for 100 users of each arm\n")
    document = json.loads(run("experiment", "show", "faq", "--json")[1])
    assert (document["arms"], document["stage"], document["report"]) == ({a: 1.0, b: 2.0}, "preparing", None)
    assert run("experiment", "show", "other") == (1, "error: other has no experiment at all; those it had: none yet\n")
    settings_module.settings.cache_clear()
