"""``delivery log`` refuses what the flows refuse, in the same words, and keeps to the settings like them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deployments.cli import app
from tasks import settings as settings_module
from tasks.errors import InputError
from tasks.interactions import steps
from tasks.interactions.gate import GatePolicy
from tasks.settings import Settings
from tasks.stores.lake import Lake

QUESTION = "Write to ada@example.org"
ROW = {"id": "1", "at": "2026-03-01T12:00:00Z", "asked": QUESTION, "said": "Done"}
MAPPING = "columns: {interaction_id: id, time: at, input_text: asked, output_text: said}\n"
PLAIN: dict[str, Any] = {
    "application": None,
    "form": "auto",
    "mapping": None,
    "content": None,
    "redact": None,
    "final": False,
    "dry_run": True,
    "gate": GatePolicy(),
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a table of one call; beside it stands its mapping, and what commands set is undone."""
    for name in ("DELIVERY_STATE_DIR", "DO_NOT_TRACK", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    settings_module.settings.cache_clear()
    (tmp_path / "m.yaml").write_text(MAPPING, encoding="utf-8")
    (tmp_path / "log.csv").write_text(f"{','.join(ROW)}\n{','.join(ROW.values())}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "log.csv"
    settings_module.settings.cache_clear()


def delivery_log(*words: str) -> Result:
    return CliRunner().invoke(app, ["log", *words, "--state", "state"], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("options", "values", "said"),
    [
        (["--mapping", "m.yaml", "--format", "otlp"], {"mapping": Path("m.yaml"), "form": "otlp"}, "'otlp'"),
        (["--mapping", "none.yaml"], {"mapping": Path("none.yaml")}, "none.yaml"),
        (["--format", "mapped"], {"form": "mapped"}, "give the mapping file"),
        (["--format", "xml"], {"form": "xml"}, "'xml'"),
        (["--content", "some"], {"content": "some"}, "'some'"),
    ],
)
def test_the_shell_refuses_what_the_flow_refuses(
    log: Path, options: list[str], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        steps.plan_job.fn(Settings(state_dir=log.parent / "state"), **PLAIN | values)
    ended = delivery_log("ingest", str(log), "--dry-run", *options)
    assert said in str(refused.value)
    assert (ended.exit_code, ended.stderr) == (1, f"error: {refused.value}\n")


@pytest.mark.parametrize("words", [["compact", "--hours", "0"], ["retain", "--log-days", "0"]])
def test_the_shell_keeps_no_less_than_the_flow(log: Path, words: list[str]) -> None:
    ended = delivery_log(*words, "--dry-run")
    assert ended.exit_code == 2
    assert "should be greater than or equal to 1" in ended.stderr
    assert log.exists()


@pytest.mark.parametrize(
    ("setting", "options", "kept"),
    [("1", [], False), ("1", ["--no-redact"], True), ("0", [], True), ("0", ["--redact"], False)],
)
def test_redaction_is_what_is_said_and_otherwise_what_is_set_in_the_state_that_is_named(
    log: Path, monkeypatch: pytest.MonkeyPatch, setting: str, options: list[str], kept: bool
) -> None:
    monkeypatch.setenv("DELIVERY_REDACT", setting)
    ended = delivery_log("ingest", str(log), "--mapping", "m.yaml", "--application", "faq", *options)
    assert ended.exit_code == 0, ended.output
    lake = Lake(Settings(state_dir=log.parent / "state").lake_dir)
    day = datetime(2026, 3, 1, tzinfo=UTC)
    assert not (log.parent / ".state").exists()  # the default
    (text,) = lake.window("faq", day, day + timedelta(days=1), ["input_text"])["input_text"].to_pylist()
    assert (text == QUESTION) is kept
