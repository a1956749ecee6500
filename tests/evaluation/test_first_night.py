"""A night of thousands of calls a release through the nightly flow: each change is found at once, a quiet one passes.

The texts are real questions and answers of TruthfulQA; the changes are those people fear: upper case, a negation or a
sentence on every answer, a tenth more latency, half as much cost again, and one route or one language alone. Nights
have 10,000 calls, and 3,000 where their texts are read, because that takes the flow seconds;
``DELIVERY_TEST_CALLS=10000`` gives these as many.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow_stage import DAY, START, register, serve
from night_stage import Night, log_night, negated, real_texts
from prefect.client.orchestration import get_client

from flows.baseline import baseline
from flows.evaluation import evaluation
from tasks import settings as settings_module
from tasks.evaluation.records import record_keys, summary_rows
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.model import Release
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.metrics import Metrics

pytestmark = pytest.mark.usefixtures("prefect_server")
CALLS, USERS = 10_000, 800
CALLS_WITH_TEXTS = int(os.environ.get("DELIVERY_TEST_CALLS", "3000"))
KNOWN, EACH = 14, 2000
MONDAY = START + 3 * DAY
TONIGHT = MONDAY + KNOWN * DAY
SENTENCE = " Is there anything else I can help you with?"
USD_A_CALL = 40e-6 + 60 * 10e-6
"""Of 40 tokens in and 60 out at the price below."""
CHANGES: dict[str, dict[str, Any]] = {
    "quiet": {},
    "upper": {"says": lambda answer, _: answer.upper()},
    "negated": {"says": negated},
    "sentence": {"says": lambda answer, _: answer + SENTENCE},
    "slow": {"slower": {"chat": 1.1, "search": 1.1, "mail": 1.1}, "says": None, "calls": CALLS},
    "dear": {"says": None, "calls": CALLS},
    "parts": {"says": lambda answer, of: answer + SENTENCE * (of == "fr"), "slower": {"mail": 1.5}},
}


@pytest.fixture
def config(tmp_path: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[settings_module.Settings]:
    """Point the flow at stores of its own."""
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_MLFLOW_URL", mlflow_url)
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


def put_on_stage(config: settings_module.Settings, data_file: Callable[[str], Path]) -> dict[str, str]:
    """Log two weeks of one release and a night of each change; return the name of each change by its release."""
    texts, source = real_texts(data_file), np.random.default_rng(20_260_119)
    releases = {}
    for name in CHANGES:
        times = 1.5 if name == "dear" else 1.0
        price = {"input_usd_per_mtok": 1 * times, "output_usd_per_mtok": 10 * times}
        releases[name] = register(config, "nights", name, baseline="autumn", price=price)
    serve(config, (releases["quiet"],))
    for at in range(KNOWN):
        night = Night(day=MONDAY + at * DAY, calls=EACH, users=USERS, source=source)
        log_night(config, releases["quiet"], night, texts)
        store_cost(config, releases["quiet"], night, float(source.normal(0, 0.005)))
    for name, change in CHANGES.items():
        night = Night(**{"day": TONIGHT, "calls": CALLS_WITH_TEXTS, "users": USERS, "source": source, **change})
        log_night(config, releases[name], night, texts)
    return {release.digest: name for name, release in releases.items()}


def store_cost(config: settings_module.Settings, release: Release, night: Night, noise: float) -> None:
    """Put into the lake what an evaluation of the night would have said of its cost."""
    window, lake = Window(start=night.day, end=night.day + DAY), Lake(config.lake_dir)
    row: dict[str, Any] = {
        "application": "nights", "release_digest": release.digest, "version": "quiet", "deployment_id": None,
        "segment": "", "window": window.label, "window_start": window.start, "window_end": window.end,
        "metric": "cost_usd_per_day", "value": EACH * USD_A_CALL * math.exp(noise), "low": None, "high": None,
        "n": EACH, "outcome": "pass",
    }  # fmt: skip
    Metrics(lake).replace("nights", window.label, [row, {**row, "metric": "cost_coverage", "value": 1.0}])
    summary = summary_rows(release, window, Summary(n=EACH), Outcome.PASS)
    lake.replace("summaries", record_keys(release, window), summary)


def failures(verdict: Verdict) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for check in verdict.checks:
        if check.outcome is Outcome.FAIL:
            found.setdefault(check.monitor, []).append(check.statement)
    return found


@pytest.mark.timeout(600)
def test_each_change_is_found_the_first_night_and_a_quiet_night_passes(
    config: settings_module.Settings, data_file: Callable[[str], Path]
) -> None:
    names = put_on_stage(config, data_file)
    baseline("nights", "autumn", None, MONDAY, TONIGHT)
    judged: Any = evaluation("nights", TONIGHT)
    verdicts = {names[one.release_digest]: one for one in judged}
    assert set(verdicts) == set(CHANGES)
    assert (verdicts["quiet"].outcome, failures(verdicts["quiet"])) == (Outcome.PASS, {})
    for name, least in (("upper", 95), ("negated", 80), ("sentence", 95)):
        (statement,) = failures(verdicts[name])["drift:answer text"]
        assert float(statement.removeprefix("drift: answer text ").split("%")[0]) > least, name
        assert "drift:question text" not in failures(verdicts[name])
    assert any("latency_ms" in one for one in failures(verdicts["slow"])["drift"])
    (dear,) = failures(verdicts["dear"])["drift"]
    assert re.match(r"drift: cost per call x 1\.(49|5)\d* tonight, > ordinary ", dear), dear
    check_parts(config, verdicts["parts"], names)


def check_parts(config: settings_module.Settings, verdict: Verdict, names: dict[str, str]) -> None:
    """Assert that one route and one language are warned of by their names, and that the release passes."""
    assert (verdict.outcome, failures(verdict)) == (Outcome.PASS, {})
    with closing(Ledger(config.ledger)) as ledger:
        alerts = {
            (alert.monitor, alert.segment): alert.reason
            for alert in ledger.alerts("nights")
            if names[alert.release_digest] in {"parts", "quiet"} and alert.monitor.startswith("drift")
        }
    assert set(alerts) == {("drift", "route=mail"), ("drift", "language=fr"), ("drift:answer text", "language=fr")}
    assert re.match(r"drift of route=mail: latency_ms mean x 1\.[45]\d* \[", alerts["drift", "route=mail"])
    assert alerts["drift", "language=fr"].startswith("drift of language=fr: answer_chars ")
    assert "wholly beyond" in alerts["drift:answer text", "language=fr"]
    (report,) = (config.state_dir / "reports" / "nights").glob("*Z.html")
    html = report.read_text(encoding="utf-8")
    assert alerts["drift", "route=mail"].split("; ")[0] in html
    with get_client(sync_client=True) as client:
        (shown,) = [str(item.data) for item in client.read_artifacts() if item.key == "evaluation-nights"]
    assert "Warnings of segments, bot parts:" in shown
    assert "drift of language=fr: answer text " in shown
    assert "Warnings of segments, bot quiet:" not in shown
    assert "help you" not in shown
