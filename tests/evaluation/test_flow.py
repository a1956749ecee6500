from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from flow_stage import (
    CITIES,
    DAY,
    START,
    N,
    Webhook,
    call,
    check_pages_are_cared_for,
    check_what_moved,
    log,
    register,
    serve,
    spoken,
    spread,
)
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client

from flows.alerts import alerts
from flows.baseline import baseline
from flows.evaluation import evaluation
from tasks import settings as settings_module
from tasks.drift.named import BASELINES_SCHEMA
from tasks.errors import DeliveryError
from tasks.evaluation import steps
from tasks.evaluation.summary import Summary
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.model import Release
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.metrics import Metrics
from tasks.stores.registry import Registry

pytestmark = pytest.mark.usefixtures("prefect_server")
SCORERS = """
scorers:
  - {name: raises, path: "flow_scorers:raises"}
  - {name: hangs, path: "flow_scorers:hangs", timeout_s: 0.05, total_s: 0.5}
  - {name: nan, path: "flow_scorers:nan"}
  - {name: missing, path: "flow_scorers:missing"}
  - {name: fine, path: "flow_scorers:fine", threshold: 0.5}
"""
WHY = {
    "raises": "RuntimeError",
    "hangs": "timed out after 0.05 s",
    "nan": "it gave nan, which is no score",
    "missing": "scorer missing: flow_scorers:missing cannot be loaded: AttributeError; check its name, package and "
    "arguments",
}


@pytest.fixture
def config(tmp_path: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[settings_module.Settings]:
    """Point the flow at stores of its own."""
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_MLFLOW_URL", mlflow_url)
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect what is announced."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(steps, "emit_event", lambda **event: seen.append(event))
    return seen


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """Run a server on the loopback that answers what it is told to."""
    with Webhook.running() as server:
        yield server


def outcome_of(verdict: Verdict, monitor: str) -> Outcome:
    return next(check.outcome for check in verdict.checks if check.monitor == monitor)


@pytest.mark.usefixtures("either_ledger")
def test_a_release_whose_answers_are_shuffled_fails_and_the_good_one_passes(
    config: settings_module.Settings, events: list[dict[str, Any]]
) -> None:
    good, bad = register(config, "faq", "1"), register(config, "faq", "2")
    serve(config, (good,), (good, bad))
    log(config, [call(good, at, START) for at in range(N)])
    log(config, [call(bad, at, START, wrong=True) for at in range(N)])
    verdicts = evaluation("faq", START, START + DAY)
    assert [(verdict.release_digest, verdict.outcome) for verdict in verdicts] == [
        (good.digest, Outcome.PASS),
        (bad.digest, Outcome.FAIL),
    ]
    assert outcome_of(verdicts[1], "quality") is Outcome.FAIL
    assert "mean quality 0 < limit 0.7 (n=150)" in verdicts[1].reason
    assert {check.monitor for check in verdicts[0].checks} == {
        "data", "latency", "errors", "toxicity", "quality", "cost",
    }  # fmt: skip
    assert f"predecessor {good.short} n=150" in next(
        check.statement for check in verdicts[1].checks if check.monitor == "drift"
    )
    check_events(events, verdicts)
    check_records(config, verdicts)


def check_events(events: list[dict[str, Any]], verdicts: list[Verdict]) -> None:
    # Months after its night it calls for nothing by itself.
    assert [event["event"] for event in events] == ["delivery.verdict.past.pass", "delivery.verdict.past.fail"]
    assert [event["payload"]["release_digest"] for event in events] == [item.release_digest for item in verdicts]
    assert events[1]["resource"]["prefect.resource.id"] == "delivery.application.faq"
    assert not any(city in str(events) for city in CITIES)


def check_records(config: settings_module.Settings, verdicts: list[Verdict]) -> None:
    lake, keys = Lake(config.lake_dir), {"application": "faq", "release_digest": verdicts[1].release_digest}
    scores = lake.read("scores", keys)
    summaries = lake.read("summaries", keys)
    assert scores is not None
    assert summaries is not None
    assert (scores.num_rows, summaries.num_rows) == (N, 1)
    assert Summary.from_json(summaries["summary"][0].as_py()).n == N
    with closing(Ledger(config.ledger)) as ledger:
        recorded = {row.verdict.release_digest: (row.kind, row.verdict) for row in ledger.verdicts("faq")}
    assert recorded == {verdict.release_digest: ("evaluation", verdict) for verdict in verdicts}


def test_a_night_that_is_run_again_replaces_itself_and_the_next_is_held_against_the_first(
    config: settings_module.Settings, events: list[dict[str, Any]]
) -> None:
    release = register(config, "again", "1")
    serve(config, (release,))
    for night in range(2):
        log(config, [call(release, at, START + night * DAY) for at in range(N)])
    first = evaluation("again", START)
    assert evaluation("again", START) == first
    second = evaluation("again", START + DAY)
    assert outcome_of(second[0], "drift") is Outcome.PASS
    assert [len(first), len(second), len(events)] == [1, 1, 3]
    assert len({event["id"] for event in events}) == 2
    check_that_nothing_doubled(config, release)
    assert len({event["payload"]["verdict_id"] for event in events}) == 2
    scores = Lake(config.lake_dir).read("scores", {"application": "again"})
    assert scores is not None
    assert scores.num_rows == 2 * N


def check_that_nothing_doubled(config: settings_module.Settings, release: Release) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(config.mlflow_url)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`delivery.digest` = '{release.digest}'")
    windows = sorted(run.data.tags["delivery.window"] for run in runs)
    assert windows == ["2026-01-02T00:00:00Z/2026-01-03T00:00:00Z", "2026-01-03T00:00:00Z/2026-01-04T00:00:00Z"]
    paths = sorted(file.path for file in client.list_artifacts(runs[0].info.run_id))
    assert paths == ["20260103T000000Z-20260104T000000Z.html", "20260103T000000Z-20260104T000000Z.png"]
    series = Metrics(Lake(config.lake_dir)).series("again", "quality_mean")
    assert [(row["window_end"], row["n"], row["outcome"]) for row in series.to_pylist()] == [
        (START + DAY, N, "pass"),
        (START + 2 * DAY, N, "pass"),
    ]
    html = (config.state_dir / "reports" / "again" / paths[0]).read_text(encoding="utf-8")
    assert "<h3>quality_mean</h3>" in html
    assert not any(city in html for city in CITIES)


def test_a_release_without_calls_is_inconclusive_and_strangers_are_not_judged(
    config: settings_module.Settings, events: list[dict[str, Any]]
) -> None:
    release = register(config, "quiet", "1")
    serve(config, (release,))
    stranger = call(release, 0, START).model_copy(update={"release_digest": "0" * 64})
    log(config, [stranger])
    state = evaluation("quiet", START, return_state=True)
    (verdict,) = state.result()
    assert (state.name, state.type.value) == ("Verdict inconclusive", "COMPLETED")
    assert verdict.reason == "data: 0 interactions < minimum 1 (n=0)"
    assert events[0]["event"] == "delivery.verdict.past.inconclusive"
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(limit=1)[0]
        artifacts = [item for item in client.read_artifacts() if item.key == "evaluation-quiet"]
    assert run.name is not None
    report = str(artifacts[0].data)
    assert report.startswith("# quiet: INCONCLUSIVE")
    assert "1 interactions belong to no registered release and were not judged." in report
    assert str(stranger.output_text) not in report


def test_a_night_is_for_every_application_that_has_a_plan(
    config: settings_module.Settings, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = [register(config, name, "1") for name in ("east", "west", "north")]
    for release in releases[:2]:
        serve(config, (release,))
    for release in releases:
        log(config, [call(release, at, START) for at in range(N)])
    verdicts = evaluation(start=START)
    assert [(verdict.application, verdict.outcome) for verdict in verdicts] == [
        ("east", Outcome.PASS),
        ("west", Outcome.PASS),
    ]
    assert [verdict.application for verdict in evaluation("north", START)] == ["north"]

    real = steps.Registry.find

    def find(registry: Registry, application: str, digest: str) -> Release:
        if application == "east":
            raise DeliveryError("the record was changed")
        return real(registry, application, digest)

    monkeypatch.setattr(steps.Registry, "find", find)
    events.clear()
    state = evaluation(start=START, return_state=True)
    assert state.is_failed()
    assert str(state.message).startswith("1 of 2 applications could not be judged: ")
    assert "the record was changed" in str(state.message)
    assert [event["payload"]["application"] for event in events] == ["west"]


def test_without_any_plan_there_is_nothing_to_judge(config: settings_module.Settings) -> None:
    assert config.ledger
    assert evaluation(start=START) == []


def test_the_form_describes_every_parameter() -> None:
    properties = evaluation.parameters.properties
    assert list(properties) == ["application", "start", "end", "nights"]
    assert all(field["description"] for field in properties.values())


@pytest.mark.usefixtures("events")
def test_nights_are_judged_one_by_one_and_half_a_night_is_its_own_outcome(config: settings_module.Settings) -> None:
    release = register(config, "half", "1", monitors={"cost_usd_per_day": 0.001})
    serve(config, (release,))
    log(config, spread(release, START, range(24)))
    log(config, spread(release, START + DAY, range(8)))
    state = evaluation("half", START, nights=3, return_state=True)
    verdicts = state.result()
    assert [verdict.window_start for verdict in verdicts] == [START, START + DAY, START + 2 * DAY]
    assert [outcome_of(verdict, "coverage") for verdict in verdicts[1:]] == [Outcome.INCONCLUSIVE] * 2
    assert "16 of 24 hours are missing" in statement_of(verdicts[1], "coverage")
    assert statement_of(verdicts[2], "data") == "data: 0 interactions < minimum 1 (n=0)"
    assert statement_of(verdicts[0], "cost") == (
        "cost 0.0192 USD a day > budget 0.001 USD, 100.0% of calls priced (n=600)"
    )
    assert statement_of(verdicts[0], "cost") in verdicts[0].reason
    with closing(Ledger(config.ledger)) as ledger:
        opened = {alert.monitor: alert.reason for alert in ledger.alerts("half")}
    assert set(opened) == {"cost", "coverage"}
    assert "24 of 24 hours" in opened["coverage"]


@pytest.mark.usefixtures("events")
def test_a_sentence_on_every_answer_is_found_the_first_night_and_its_words_stay_off_the_artifact(
    config: settings_module.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = register(config, "wordy", "1", baseline="autumn")
    serve(config, (release,))
    nights = [START + night * DAY for night in range(5)]
    for night in nights:
        more = " Anything else?" if night == nights[-1] else ""
        log(config, [spoken(release, at, night, more) for at in range(N)])
    digest = baseline("wordy", "autumn", None, START, nights[-1])
    monkeypatch.setenv("DELIVERY_REPORT_EXAMPLES", "true")
    settings_module.settings.cache_clear()
    (verdict,) = evaluation("wordy", nights[-1])
    assert outcome_of(verdict, "drift:question text") is Outcome.PASS
    assert outcome_of(verdict, "drift:answer text") is Outcome.FAIL
    statement = statement_of(verdict, "drift:answer text")
    assert statement.startswith("drift: answer text 100.0% [")
    assert "recognised as new, wholly beyond 5.0%; AUC 1.000" in statement
    assert "(n=150 units, baseline n=150)" in statement
    check_what_moved(config, verdict)
    with closing(Ledger(config.ledger)) as ledger:
        assert "drift:answer text" in {alert.monitor for alert in ledger.alerts("wordy")}
    kept = Lake(config.lake_dir).read("drift_nights", {"application": "wordy"})
    assert kept is not None
    assert kept["baseline"].to_pylist() == [digest]
    values = dict(json.loads(kept["night"][0].as_py())["values"])
    assert (values["failed share"], values["mean quality by support-1"]) == (0.0, pytest.approx(0.5, abs=0.5))
    check_pages_are_cared_for(config, lambda: evaluation("wordy", nights[-1]))


@pytest.mark.usefixtures("events")
def test_what_cannot_be_judged_is_never_a_silent_pass(config: settings_module.Settings) -> None:
    (config.state_dir / "evaluation.yaml").write_text(SCORERS)
    one, broken = register(config, "odd", "1"), register(config, "odd", "2", baseline="old")
    serve(config, (one,), (one, broken))
    log(config, [call(one, at, START, unit="ann" if at % 3 else f"u{at}", unit_kind="user") for at in range(N)])
    log(config, [call(broken, at, START, status=503, error_type="Overloaded", output_text=None) for at in range(N)])
    row = {"application": "odd", "name": "old", "digest": "0" * 64, "version": 1, "made": START, "content": "{}"}
    Lake(config.lake_dir).replace("baselines", {"name": "old"}, pa.Table.from_pylist([row], schema=BASELINES_SCHEMA))
    first, second = evaluation("odd", START)
    assert statement_of(first, "concentration").startswith("one user made 66.67 % of the calls >= limit 50 % (n=150")
    assert outcome_of(first, "concentration") is Outcome.INCONCLUSIVE
    errors = {check.monitor: check.statement for check in first.checks if check.outcome is Outcome.ERROR}
    assert errors == {f"scorer:{name}": f"{name}: none of 150 answers has a score: {why}" for name, why in WHY.items()}
    assert first.outcome is Outcome.ERROR
    assert statement_of(second, "errors") == "failed calls 100 % > limit 5 % (n=150)"
    assert second.outcome is Outcome.FAIL
    assert outcome_of(second, "drift") is Outcome.ERROR
    assert "drift: the baseline cannot be used: baseline.about" in statement_of(second, "drift")


@pytest.mark.usefixtures("events")
def test_an_alert_reaches_a_webhook_that_was_broken_and_resolves_itself(
    config: settings_module.Settings, webhook: Webhook
) -> None:
    block = CustomWebhookNotificationBlock(
        name="pager",
        url=f"{webhook.url}/{{{{token}}}}",
        json_data={"title": "{{subject}}", "text": "{{body}}"},
        secrets={"token": "s3cret"},
    )
    cast("Any", block).save("pager", overwrite=True)
    (config.state_dir / "alerts.yaml").write_text("channels: [{block: custom-webhook/pager}]\n")
    release = register(config, "paged", "1")
    serve(config, (release,))
    log(config, [call(release, at, START, wrong=True) for at in range(N)])
    webhook.status = 500
    evaluation("paged", START)
    state = alerts(return_state=True)
    assert state.name == "Failed"
    assert "custom-webhook/pager: HTTPStatusError, status 500" in str(state.message)
    assert "s3cret" not in str(state.message)
    webhook.status = 200
    make_due(config)
    assert alerts(return_state=True).name == "Delivered"
    assert webhook.seen[-1][0] == "/s3cret"
    assert webhook.seen[-1][1]["title"] == f"[fail] opened: paged, release {release.short}: quality"
    assert "mean quality 0 < limit 0.7 (n=150)" in webhook.seen[-1][1]["text"]
    asked = len(webhook.seen)
    evaluation("paged", START)
    assert len(webhook.seen) == asked, "the same night again is no news"
    log(config, [call(release, at, START + DAY) for at in range(N)])
    evaluation("paged", START + DAY)
    assert webhook.seen[-1][1]["title"] == f"[ok] resolved: paged, release {release.short}: quality"
    assert len(webhook.seen) == asked + 1


def statement_of(verdict: Verdict, monitor: str) -> str:
    return next(check.statement for check in verdict.checks if check.monitor == monitor)


def make_due(config: settings_module.Settings) -> None:
    with closing(Ledger(config.ledger)) as ledger:
        for notice in ledger.notices():
            ledger.notice_failed(notice.notice_id, notice.error, START)
