"""The deployments: every one names a flow that exists, and gives it what it takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import Posture
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import render_user_template_sync
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from sample_release import release_of

from tasks.evaluation import steps as evaluation_steps
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.report import Judged
from tasks.evaluation.summary import Summary
from tasks.monitors.verdict import NEWS, Check, Outcome, Verdict
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILE = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: dict[str, dict[str, Any]] = {deployment["name"]: deployment for deployment in FILE["deployments"]}
FLOWS = sorted({deployment["entrypoint"] for deployment in DEPLOYMENTS.values()})
REASON = "p95 latency 1340 ms > limit 1000 ms (n=812)"
EXAMPLES = {"application": "faq", "reason": REASON, "release": "a" * 64, "who": "automation"}

every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


def flow_of(name: str) -> Flow[..., Any]:
    return load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])


def check_parameters(flow: Flow[..., Any], given: dict[str, Any]) -> None:
    """Hold values against the flow twice: as the server does when it is asked for a run, and as the run does."""
    schema = parameter_schema(flow.fn).model_dump_for_openapi()
    assert set(given) <= set(schema["properties"])
    validate(given, schema, raise_on_error=True)
    flow.validate_parameters(given)


def test_every_flow_has_a_deployment_and_no_two_share_a_name() -> None:
    files = {f"flows.{path.stem}.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"}
    assert set(FLOWS) == files
    assert len(DEPLOYMENTS) == len(FILE["deployments"])


@every_deployment
def test_an_entrypoint_leads_to_a_flow(name: str) -> None:
    flow = flow_of(name)
    assert isinstance(flow, Flow)
    assert flow.name == DEPLOYMENTS[name]["entrypoint"].split(".")[1]


@every_deployment
def test_a_deployment_runs_in_the_pool_of_the_stack_says_what_it_does_and_sends_nothing_home(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    assert deployment["work_pool"]["name"] == "{{ $DELIVERY_WORK_POOL }}"
    assert deployment["work_pool"]["job_variables"]["env"]["DO_NOT_TRACK"] == "1"
    assert deployment["description"].strip().endswith(".")
    assert "delivery" in deployment["tags"]


@every_deployment
def test_the_parameters_given_are_accepted_and_those_left_out_have_defaults(name: str) -> None:
    deployment, flow = DEPLOYMENTS[name], flow_of(name)
    given = deployment.get("parameters", {})
    runs_by_itself = bool(deployment.get("schedules"))
    if given or runs_by_itself:
        check_parameters(flow, given)
    required = parameter_schema(flow.fn).required or []
    assert not runs_by_itself or set(required) <= set(given)


def test_what_has_to_happen_every_night_and_day_is_scheduled() -> None:
    due = {name: [s["cron"] for s in d["schedules"]] for name, d in DEPLOYMENTS.items() if d.get("schedules")}
    assert set(due) == {"nightly", "daily", "hourly", "reconcile", "watch", "maintenance", "alerts"}


def test_the_night_is_for_every_application() -> None:
    assert "parameters" not in DEPLOYMENTS["nightly"]
    assert flow_of("nightly").validate_parameters({}) == {
        "application": None,
        "start": None,
        "end": None,
        "nights": None,
    }


@every_deployment
def test_a_schedule_has_a_time_zone_and_a_name(name: str) -> None:
    for schedule in DEPLOYMENTS[name].get("schedules", []):
        assert set(schedule) == {"cron", "timezone", "slug", "active"}
        assert ZoneInfo(schedule["timezone"]).key == "UTC"  # the flows work on UTC days
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).timezone == "UTC"
        assert schedule["active"] is True
        assert schedule["slug"] == name


@pytest.mark.parametrize("entrypoint", FLOWS)
def test_every_parameter_of_a_form_is_described(entrypoint: str) -> None:
    schema = parameter_schema(load_flow_from_entrypoint(entrypoint).fn)
    undescribed = [name for name, field in schema.properties.items() if not field.get("description", "").strip()]
    assert undescribed == []
    assert all(field["description"].rstrip()[-1] in ".;" for field in schema.properties.values())


# --- the trigger of the rollback ---

(TRIGGER,) = DEPLOYMENTS["rollback"]["triggers"]


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


def announced(
    config: Settings, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, ago: timedelta = timedelta()
) -> ReceivedEvent:
    """Return the event that the evaluation emits about a verdict, as the server receives it."""
    release = release_of()
    moment = datetime.now(UTC) - ago
    check = Check(monitor="latency", outcome=outcome, statement=REASON, value=1340.0, limit=1000.0, n=812)
    verdict = Verdict(
        application="faq", release_digest=release.digest, window_start=moment, window_end=moment, checks=(check,)
    )
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluation_steps, "emit_event", lambda **event: emitted.append(event))
    judged = Judged(release=release, evidence=Evidence(summary=Summary()), verdict=verdict)
    evaluation_steps.announce_verdict.fn(config, judged, "v1")
    (event,) = emitted
    return ReceivedEvent(**{**event, "id": "00000000-0000-4000-8000-000000000001"}, occurred=moment)


def test_the_trigger_is_one_prefect_understands_and_acts_at_the_first_event() -> None:
    trigger = DeploymentEventTrigger.model_validate(TRIGGER)
    assert (trigger.enabled, trigger.posture, trigger.threshold) == (True, Posture.Reactive, 1)
    assert trigger.within.total_seconds() == 0


def test_the_trigger_acts_on_the_event_of_a_failed_verdict_and_on_no_other(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = EventTrigger(**{name: TRIGGER[name] for name in ("expect", "match", "for_each", "posture", "threshold")})
    failed = announced(config, monkeypatch, Outcome.FAIL)
    assert trigger.covers(failed)
    assert all(failed.resource.get(label) for label in trigger.for_each)
    for outcome in (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.ERROR):
        assert not trigger.covers(announced(config, monkeypatch, outcome))
    assert not trigger.covers(announced(config, monkeypatch, Outcome.FAIL, NEWS))  # of days long past


def test_what_the_trigger_makes_of_the_event_is_what_the_rollback_takes(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = announced(config, monkeypatch, Outcome.FAIL)
    given = {name: render_user_template_sync(text, {"event": event}) for name, text in TRIGGER["parameters"].items()}
    assert given == {**EXAMPLES, "release": event.resource["delivery.release"]}
    check_parameters(flow_of("rollback"), given)


@pytest.mark.parametrize(
    "wrong", [{"application": "f q"}, {"application": ""}, {"reason": ""}, {"reason": None}, {"why": "x"}]
)
def test_the_rollback_does_not_take_anything(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - the server and the run each have their own
        check_parameters(flow_of("rollback"), {**EXAMPLES, **wrong})
