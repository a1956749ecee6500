"""Every option that takes a time takes what people say: an age, a date or a time; what is neither is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands import metrics, trials
from tasks.evaluation.window import Window

OPTIONS = [
    *((["shadow", "--application", "faq", "--release", "1"], option) for option in ("--since", "--until")),
    *((["evaluate", "run", "faq"], option) for option in ("--start", "--end")),
]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Keep the parameters that a flow would be started with; what commands set in the environment is undone."""
    found: dict[str, Any] = {}

    def follow(_: str, parameters: Mapping[str, object], *__: object) -> NoReturn:
        found.update(parameters)
        raise typer.Exit(0)

    for name in ("DELIVERY_STATE_DIR", "DO_NOT_TRACK", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for module in (metrics, trials):
        monkeypatch.setattr(module, "follow", follow)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(("words", "option"), OPTIONS)
def test_an_age_a_date_and_a_time_are_taken(words: list[str], option: str, sent: dict[str, Any]) -> None:
    before = datetime.now(UTC) - timedelta(days=7)
    assert CliRunner().invoke(app, [*words, option, "7d"]).exit_code == 0
    assert before <= datetime.fromisoformat(sent[option[2:]]) <= datetime.now(UTC) - timedelta(days=7)
    for text in ("2026-03-01", "2026-03-01T00:00", "2026-03-01T02:00+02:00"):
        CliRunner().invoke(app, [*words, option, text])
        assert datetime.fromisoformat(sent[option[2:]]) == datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(("words", "option"), [*OPTIONS, (["history", "faq"], "--since")])
def test_what_is_no_time_is_refused_in_one_line(words: list[str], option: str, sent: dict[str, Any]) -> None:
    ended = CliRunner().invoke(app, [*words, option, "soon"])
    assert (ended.exit_code, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith(f"error: {option}: 'soon' is not allowed; allowed: an age like 36h or 7d")
    assert not sent


def test_an_age_in_days_is_a_midnight_where_nights_are_judged(sent: dict[str, Any]) -> None:
    assert CliRunner().invoke(app, ["evaluate", "run", "faq", "--start", "7d", "--nights", "7"]).exit_code == 0
    start = datetime.fromisoformat(sent["start"])
    (first, *_, last) = Window.nights(start, None, 7, datetime.now(UTC))
    assert first.start == start
    assert datetime.now(UTC) - last.end < timedelta(days=1)
