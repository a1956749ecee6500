"""The commands on alerts and metrics, on stores of their own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from deployments.commands.alerts import alerts_app
from deployments.commands.metrics import evaluate_app, sql
from tasks import settings as settings_module
from tasks.monitors.alerts import Signal
from tasks.monitors.notices import Message
from tasks.monitors.verdict import Outcome
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.metrics import Metrics

NOW = datetime(2026, 3, 1, tzinfo=UTC)
app = typer.Typer()
app.add_typer(alerts_app, name="alerts")
app.add_typer(evaluate_app, name="evaluate")
app.command()(sql)


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    settings_module.settings.cache_clear()
    yield tmp_path
    settings_module.settings.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_an_alert_is_listed_acknowledged_silenced_and_resolved(where: Path) -> None:
    ledger = Ledger(settings_module.settings().ledger)
    signal = Signal(
        application="faq",
        release_digest="d" * 64,
        monitor="quality",
        outcome=Outcome.FAIL,
        reason="mean quality 0.25 < limit 0.7 (n=50)",
        window_end=NOW,
    )
    message = Message(block="custom-webhook/a", subject="s", body="b")
    ((alert, _),) = ledger.signal_alerts([signal], lambda *_: (message,), NOW)
    (notice,) = ledger.claim_notices(NOW)
    ledger.notice_failed(notice.notice_id, "ConnectError", NOW + timedelta(minutes=1))
    shown = run("alerts", "list", "--state", str(where)).output
    assert alert.alert_id[:12] in shown
    assert "mean quality 0.25 < limit 0.7 (n=50)" in shown
    assert "not delivered to custom-webhook/a after 1 attempts (ConnectError); next at 00:01:00 UTC" in shown
    short = alert.alert_id[:8]
    assert "is acknowledged: faq" in run("alerts", "ack", short, "--reason", "on it").output
    assert "is silenced: faq" in run("alerts", "silence", short, "--reason", "noise", "--hours", "2").output
    assert "is resolved: faq" in run("alerts", "resolve", short, "--reason", "fixed").output
    again = run("alerts", "ack", short, "--reason", "x")
    assert again.exit_code == 1
    assert "which is resolved: 'acknowledge' is not allowed; allowed: fail, pass" in again.output
    history = run("alerts", "history", short).output
    assert [word in history for word in ("on it", "noise", "fixed", "ann")] == [True] * 4
    assert alert.alert_id[:12] not in run("alerts", "list").output
    assert alert.alert_id[:12] in run("alerts", "list", "faq", "--all").output


def test_sql_answers_as_a_table_or_as_json(where: Path) -> None:
    row = {"application": "faq", "release_digest": "d", "version": "1", "segment": "", "window": "w", "metric": "drift"}
    times = {"window_start": NOW, "window_end": NOW, "value": 0.25, "n": 3}
    Metrics(Lake(where / "lake")).replace("faq", "w", [{**row, **times}])
    assert run("sql", "SELECT metric, value FROM metrics", "--json").output == '{"metric": "drift", "value": 0.25}\n'
    assert "0.25" in run("sql", "SELECT metric, value FROM metrics").output
    refused = run("sql", "DROP VIEW metrics")
    assert (refused.exit_code, "one SELECT" in refused.output) == (1, True)


def test_a_self_test_without_its_baseline_says_how_to_make_one(where: Path) -> None:
    found = run("evaluate", "self-test", "faq", "autumn", "--state", str(where))
    assert found.exit_code == 1
    assert "faq has no baseline autumn; make one: the flow baseline/baseline" in found.output
