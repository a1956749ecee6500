from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.evaluation import evaluation
from tasks import settings as settings_module
from tasks.errors import DeliveryError
from tasks.evaluation import steps
from tasks.evaluation.summary import Summary
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.model import PromptRef, Release, ReleaseSpec
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import Plan

START = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
CITIES = ["Delhi", "Lisbon", "Hanoi", "Quito", "Accra", "Oslo", "Lima", "Tunis", "Minsk", "Dhaka", "Seoul"]
N = 150


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    """Run the flows of this file against a temporary Prefect server that sends nothing anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        with prefect_test_harness(server_startup_timeout=120):
            yield


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


def register(config: settings_module.Settings, application: str, version: str) -> Release:
    spec = ReleaseSpec(
        application=application,
        model_id="bot",
        version=version,
        endpoint="http://127.0.0.1:9/v1",
        prompt=PromptRef(name=f"{application}-prompt", text="Answer from the context."),
    )
    return Registry(config.mlflow_url).register(spec)[0]


def serve(config: settings_module.Settings, *plans: tuple[Release, ...]) -> None:
    with closing(Ledger(config.ledger)) as ledger:
        application = plans[0][0].application
        lease = ledger.acquire(application, "test", datetime.now(UTC))
        for revision, releases in enumerate(plans, start=1):
            buckets = tuple(releases[at % len(releases)].digest for at in range(1000))
            plan = Plan(
                application=application,
                revision=revision,
                salt="s",
                buckets=buckets,
                author="test",
                reason="test",
                time=START,
            )
            if revision > 1:
                ledger.begin_rollout(lease, releases[-1].digest, "by the test", START)
            ledger.write_plan(plan, lease)


def call(release: Release, at: int, day: datetime, *, wrong: bool = False) -> Interaction:
    city, other = CITIES[at % len(CITIES)], CITIES[(at + 1) % len(CITIES)]
    return Interaction(
        interaction_id=f"{release.short}-{day:%d}-{at}",
        application=release.application,
        release_digest=release.digest,
        time=day + timedelta(minutes=at),
        model="bot",
        input_text=f"In what city does company {at} have its head office?",
        context_text=f"Company {at} is a hotel company with its head office in {city}.",
        output_text=other if wrong else city,
        input_tokens=12,
        output_tokens=2,
        latency_ms=100.0 + at,
        status=200,
        finish_reason="stop",
    )


def log(config: settings_module.Settings, calls: list[Interaction]) -> None:
    Lake(config.lake_dir).append(
        calls[0].interaction_id,
        expected=0,
        offset=1,
        interactions=as_table(calls),
        rejected=rejected_table("none", [], START),
    )


def outcome_of(verdict: Verdict, monitor: str) -> Outcome:
    return next(check.outcome for check in verdict.checks if check.monitor == monitor)


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
    assert {check.monitor for check in verdicts[0].checks} == {"data", "latency", "errors", "toxicity", "quality"}
    assert f"predecessor {good.short} n=150" in next(
        check.statement for check in verdicts[1].checks if check.monitor == "drift"
    )
    check_events(events, verdicts)
    check_records(config, verdicts)


def check_events(events: list[dict[str, Any]], verdicts: list[Verdict]) -> None:
    assert [event["event"] for event in events] == ["delivery.verdict.pass", "delivery.verdict.fail"]
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
    assert len({event["payload"]["verdict_id"] for event in events}) == 2
    scores = Lake(config.lake_dir).read("scores", {"application": "again"})
    assert scores is not None
    assert scores.num_rows == 2 * N


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
    assert events[0]["event"] == "delivery.verdict.inconclusive"
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
    assert list(properties) == ["application", "start", "end"]
    assert all(field["description"] for field in properties.values())
