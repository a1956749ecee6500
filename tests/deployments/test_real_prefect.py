"""What only a real Prefect server shows: automations that act, artifacts that are there, runs that are followed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from deployments.commands import nights
from deployments.commands.kick import EXIT_CODES, follow_run
from deployments.commands.nights import watch_nights
from flows import history as history_flow
from tasks.errors import DeliveryError
from tasks.events import event_resource
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan
from tasks.traffic.servers import free_port

pytestmark = pytest.mark.stack
ROOT = Path(__file__).resolve().parents[2]
FILE = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {one["name"]: one for one in FILE["deployments"]}
DIGEST = "d" * 64
WITHIN_S = 10
"""The shortest a proactive trigger of Prefect may wait."""
PATIENCE_S = 60


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Yield a client of a Prefect server of its own that looks at proactive triggers every second."""
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    mine = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "DO_NOT_TRACK": "1",
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**inherited, **mine}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", trust_env=False, timeout=30) as client:
            await_health(client, process, folder / "log")
            yield client
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def await_health(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            if client.get("/health").is_success:
                return
        time.sleep(0.1)
    pytest.fail(f"the Prefect server did not start; its log ends: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def pager() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a web hook and what it was told."""
    told = list[str]()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/told", told
    server.shutdown()
    server.server_close()


def say(prefect: httpx.Client, path: str, **body: Any) -> Any:
    until = time.monotonic() + PATIENCE_S
    while (answer := prefect.post(path, json=body)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        assert time.monotonic() < until, answer.text  # SQLite is busy where the server has just begun
        time.sleep(0.2)
    assert answer.is_success, (path, answer.text)
    return answer.json()


def deploy(prefect: httpx.Client, flow: str = "evaluation", name: str = "nightly") -> str:
    made = say(prefect, "/flows/", name=flow)
    schema = {"type": "object", "properties": {}}
    body = {"name": name, "flow_id": made["id"], "parameter_openapi_schema": schema, "enforce_parameter_schema": False}
    return str(say(prefect, "/deployments/", **body)["id"])


def automate(prefect: httpx.Client, deployment: str, trigger: dict[str, Any]) -> None:
    """Have a trigger of prefect.yaml start a deployment, as `prefect deploy` does."""
    apart = {"name", "enabled", "parameters"}
    action = {"type": "run-deployment", "deployment_id": deployment, "parameters": trigger.get("parameters")}
    plain = {name: value for name, value in trigger.items() if name not in apart}
    say(prefect, "/automations/", name=trigger["name"], description="", enabled=True, trigger=plain, actions=[action])


def judge_a_night(prefect: httpx.Client, deployment: str) -> None:
    """End a run of the deployment as the flow does, in a state it names itself."""
    run = say(prefect, f"/deployments/{deployment}/create_flow_run")
    state = {"type": "COMPLETED", "name": "Verdict pass"}
    say(prefect, f"/flow_runs/{run['id']}/set_state", state=state, force=True)


def runs(prefect: httpx.Client, deployment: str) -> list[dict[str, Any]]:
    mine = {"deployments": {"id": {"any_": [deployment]}}}
    return list(say(prefect, "/flow_runs/filter", **mine))


def make_block(prefect: httpx.Client, kind: str, name: str, data: dict[str, Any]) -> None:
    known = prefect.get(f"/block_types/slug/{kind}").raise_for_status().json()
    schemas = say(prefect, "/block_schemas/filter", block_schemas={"block_type_id": {"any_": [known["id"]]}})
    ids = {"block_type_id": known["id"], "block_schema_id": schemas[0]["id"]}
    say(prefect, "/block_documents/", name=name, data=data, **ids)


def hook_block(prefect: httpx.Client, url: str) -> None:
    told = {"text": "{{body}}", "title": "{{subject}}"}
    make_block(prefect, "custom-webhook", "pager", {"name": "p", "url": url, "method": "POST", "json_data": told})


@pytest.fixture(autouse=True)
def _no_automation_left(prefect: httpx.Client) -> Iterator[None]:
    """Delete the automations of a test: one that goes on firing keeps the server from the work of the next."""
    yield
    for one in automations(prefect):
        prefect.delete(f"/automations/{one['id']}")


@pytest.fixture
def _reached(prefect: httpx.Client) -> Iterator[None]:
    """Point Prefect's client at the server."""
    mine = {PREFECT_API_URL: str(prefect.base_url).rstrip("/"), PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(mine):
        yield


def automations(prefect: httpx.Client) -> list[dict[str, Any]]:
    return list(say(prefect, "/automations/filter"))


def test_a_schedule_plans_runs(prefect: httpx.Client) -> None:
    schedule = {"schedule": {"cron": "0 1 * * *", "timezone": "UTC"}, "active": True}
    flow_id = say(prefect, "/flows/", name="planned")["id"]
    made = say(prefect, "/deployments/", name="planned", flow_id=flow_id, schedules=[schedule])["id"]
    until = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < until and not runs(prefect, made):
        time.sleep(0.2)
    planned = runs(prefect, made)
    assert {(run["auto_scheduled"], run["state_type"]) for run in planned} == {(True, "SCHEDULED")}
    prefect.delete(f"/deployments/{made}")


@pytest.mark.usefixtures("_reached")
def test_a_missed_night_is_told_and_judged_again_and_a_judged_one_puts_it_off(
    prefect: httpx.Client, pager: tuple[str, list[str]]
) -> None:
    url, told = pager
    deployment = deploy(prefect)
    hook_block(prefect, url)
    for done in ("was made", "was brought up"):
        said = watch_nights("custom-webhook/pager", within_s=WITHIN_S)
        assert said == f"automation 'no night was judged in 26 hours' {done}: it tells custom-webhook/pager"
    (mine,) = automations(prefect)
    assert (mine["enabled"], mine["trigger"]["within"], mine["actions"][0]["type"]) == (True, 10.0, "send-notification")
    (again,) = DEPLOYMENTS["nightly"]["triggers"]
    automate(prefect, deployment, again | {"within": WITHIN_S})
    for pause_s in (4, 0):
        judge_a_night(prefect, deployment)
        judged = time.monotonic()
        time.sleep(pause_s)
    until = judged + PATIENCE_S
    while not told or len(runs(prefect, deployment)) < 3:
        assert time.monotonic() < until, (told, runs(prefect, deployment))
        time.sleep(0.1)
    assert time.monotonic() - judged > WITHIN_S - 2  # else the first night would have set it off, and not the second
    assert json.loads(told[0]) == {"text": nights.BODY, "title": nights.SUBJECT}
    anew = [run for run in runs(prefect, deployment) if run["state_type"] == "SCHEDULED"]
    assert [run["created_by"]["type"] for run in anew] == ["AUTOMATION"]


@pytest.mark.usefixtures("_reached")
@pytest.mark.parametrize(
    ("block", "because"),
    [
        ("pager", "BLOCK: 'pager' is not allowed; allowed: type/name of a notification block"),
        ("custom-webhook/nobody", "there is no block custom-webhook/nobody; list them: prefect block ls"),
        ("secret/login", "BLOCK: 'secret/login' is not allowed; allowed: a notification block"),
    ],
)
def test_a_block_that_cannot_tell_anybody_is_refused(prefect: httpx.Client, block: str, because: str) -> None:
    if block.startswith("secret/"):
        make_block(prefect, "secret", "login", {"value": "x"})
    with pytest.raises(DeliveryError, match=re.escape(because)):
        watch_nights(block)


def emit(prefect: httpx.Client, event: str, digest: str, **payload: str) -> None:
    event_id, occurred = str(uuid4()), datetime.now(UTC).isoformat()
    body = {"id": event_id, "occurred": occurred, "event": event, "resource": event_resource("faq", digest)}
    answer = prefect.post("/events", json=[body | {"payload": {"application": "faq", **payload}}])
    assert answer.is_success, answer.text


def await_runs(prefect: httpx.Client, deployment: str, count: int) -> list[dict[str, Any]]:
    until = time.monotonic() + PATIENCE_S
    while len(found := runs(prefect, deployment)) < count:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found


def test_a_failed_verdict_starts_a_rollback_and_what_changes_traffic_tells_the_history_anew(
    prefect: httpx.Client,
) -> None:
    back, told = deploy(prefect, "rollback", "rollback"), deploy(prefect, "history", "history")
    for deployment, name in ((back, "rollback"), (told, "history")):
        automate(prefect, deployment, DEPLOYMENTS[name]["triggers"][0])
    emit(prefect, "delivery.verdict.pass", DIGEST, release_digest=DIGEST, reason="fine")
    emit(prefect, "delivery.verdict.fail", DIGEST, release_digest=DIGEST, reason="p95 1340 ms > 1000 ms")
    emit(prefect, "delivery.rollback.rolledback", DIGEST, release_digest=DIGEST, message="back")
    (run,) = await_runs(prefect, back, 1)
    reason = "p95 1340 ms > 1000 ms"
    assert run["parameters"] == {"application": "faq", "release": DIGEST, "reason": reason, "who": "automation"}
    assert [one["parameters"] for one in await_runs(prefect, told, 1)] == [{"application": "faq"}]


@pytest.mark.usefixtures("_reached")
def test_the_history_is_an_artifact_with_its_chart(
    prefect: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Settings(state_dir=tmp_path)
    monkeypatch.setattr(history_flow, "settings", lambda: where)
    ledger = Ledger(where.ledger)
    lease = ledger.acquire("faq", "me", datetime.now(UTC))
    plan = Plan(
        application="faq",
        revision=1,
        salt="s",
        buckets=(DIGEST,) * BUCKETS,
        author="ann",
        reason="first",
        time=datetime.now(UTC),
    )
    ledger.write_plan(plan, lease)
    state = history_flow.history("faq", return_state=True)
    assert (state.name, state.message) == ("Told", "1 entries; No release was stopped before it had every user.")
    (found,) = say(prefect, "/artifacts/filter", artifacts={"key": {"any_": ["history-faq"]}})
    assert "![who had which share of the users](data:image/svg+xml;base64," in found["data"]
    assert f"| plan 1 | 100.0% {DIGEST[:12]} | ann | first |" in found["data"]
    ledger.close()


@pytest.fixture
def flaky(prefect: httpx.Client) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that hangs up twice and then hands over to the real one, and what it did."""
    did = list[str]()

    class Between(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/flow_runs/" in self.path and did.count("hung up") < 2:
                did.append("hung up")
                return
            answer = prefect.get(self.path.removeprefix("/api"))
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Between)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api", did
    server.shutdown()
    server.server_close()


def test_a_pipeline_waits_through_an_outage_of_the_server_and_prints_the_verdict(
    prefect: httpx.Client, flaky: tuple[str, list[str]]
) -> None:
    url, did = flaky
    deployment = deploy(prefect, "rollout", "rollout")
    run = say(prefect, f"/deployments/{deployment}/create_flow_run")["id"]
    state = {"type": "COMPLETED", "name": "Held", "message": "errors 1.2 % < 2 %, but chance allows 2.4 %"}
    say(prefect, f"/flow_runs/{run}/set_state", state=state, force=True)
    said = list[str]()
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        ended = follow_run(run, timeout_s=PATIENCE_S, say=said.append)
    assert (ended.state, ended.message, EXIT_CODES[ended.state]) == ("Held", state["message"], 3)
    assert said[1] == "the Prefect server does not answer; the run goes on, and is waited for"
    assert did == ["hung up", "hung up"]
