"""``delivery health``: every part of a server that says what it is told to, and parts that hang or break."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.commands import health_parts as parts
from deployments.commands.health import PREFECT_FILE, Check, Finding, Level, Look, as_json, look_at, worst
from tasks.errors import DeliveryError
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.stores.ledger.migrations import HEAD

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
DEPLOYED = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]


class Servers:
    """Prefect and MLflow on one port: each path has its answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/admin/version": version("prefect"),
            "/health": True,
            "/work_pools/local": {"is_paused": False},
            "/work_pools/local/workers/filter": [{"status": "ONLINE", "last_heartbeat_time": at(-5)}],
            "/flow_runs/filter": [],
            "planned": [{}],
            "/automations/filter": [
                {"name": trigger["name"], "enabled": True} for one in DEPLOYED for trigger in one.get("triggers", [])
            ],
            "/deployments/filter": [
                {
                    "name": one["name"],
                    "paused": False,
                    "created": at(-3600),
                    "schedules": [{"active": True} for _ in one.get("schedules", [])],
                }
                for one in DEPLOYED
            ],
            "/api/2.0/mlflow/experiments/search": {"experiments": []},
            "/version": "3.17.2",
        }
        self.status = 200
        self.seen: list[str | None] = []
        self.bodies: list[Any] = []
        servers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                servers.seen.append(self.headers.get("Authorization"))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                servers.bodies.append(json.loads(body or "{}"))
                key = "planned" if "SCHEDULED" in body else self.path.partition("?")[0]
                self.send_response(servers.status)
                self.end_headers()
                self.wfile.write(json.dumps(servers.answers[key]).encode())

            do_POST = do_GET  # noqa: N815 - the name http.server wants

            def log_message(self, *_: Any) -> None:
                pass

            def date_time_string(self, timestamp: float | None = None) -> str:
                del timestamp
                return NOW.strftime("%a, %d %b %Y %H:%M:%S GMT")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    thread = threading.Thread(target=servers.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield servers
    servers.server.shutdown()
    servers.server.server_close()
    thread.join()


@pytest.fixture
def look(servers: Servers, tmp_path: Path) -> Look:
    where = Settings(state_dir=tmp_path, mlflow_url=servers.url, data_url="http://127.0.0.1:1")
    return Look(where=where, environment={"PREFECT_API_URL": servers.url}, now=NOW)


FROM_SERVERS = (
    *(parts.check_prefect, parts.check_worker, parts.check_queue, parts.check_automations, parts.check_schedules),
    *(parts.check_night, parts.check_mlflow, parts.check_clock),
)


def test_all_is_well(look: Look) -> None:
    found = [check(look) for check in FROM_SERVERS]
    assert [finding for finding in found if finding.level != Level.OK] == []
    assert found[0].text == f"answers, version {version('prefect')}"
    assert found[1].text == "1 online in local, heard of 5 s ago"


@pytest.mark.parametrize(
    ("check", "path", "answer", "level", "text"),
    [
        (parts.check_prefect, "/admin/version", "3.0.0", Level.WARN, "server 3.0.0, this program"),
        (parts.check_worker, "/work_pools/local", {"is_paused": True}, Level.FAIL, "work pool local is paused"),
        (parts.check_worker, "/work_pools/local/workers/filter", [], Level.FAIL, "none is online in work pool local"),
        (
            parts.check_queue,
            "/flow_runs/filter",
            [{"expected_start_time": at(-60)}],
            Level.WARN,
            "1 runs are late, the",
        ),
        (
            parts.check_queue,
            "/flow_runs/filter",
            [{"expected_start_time": at(-6000)}],
            Level.FAIL,
            "the first by 1.7 h",
        ),
        (parts.check_automations, "/automations/filter", [], Level.FAIL, "missing: failed verdict -> rollback"),
        (parts.check_schedules, "/deployments/filter", [], Level.FAIL, "not deployed: "),
        (parts.check_schedules, "planned", [], Level.FAIL, "no run is planned: "),
        (parts.check_night, "/flow_runs/filter", [{"end_time": at(-27 * 3600)}], Level.FAIL, "27.0 h ago, limit 26 h"),
        (parts.check_night, "/flow_runs/filter", [{"end_time": at(-25 * 3600)}], Level.OK, "was judged 25.0 h ago"),
        (
            parts.check_night,
            "/deployments/filter",
            [{"created": at(-90000 * 2)}],
            Level.FAIL,
            "no night was ever judged",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(  # noqa: PLR0917
    look: Look, servers: Servers, check: Check, path: str, answer: Any, level: Level, text: str
) -> None:
    servers.answers[path] = answer
    finding = check(look)
    assert finding.level == level
    assert text in finding.text
    assert bool(finding.todo) == (level != Level.OK)


def test_an_automation_or_schedule_that_is_off_is_seen(look: Look, servers: Servers) -> None:
    servers.answers["/automations/filter"][0]["enabled"] = False
    assert parts.check_automations(look).text == "switched off: failed verdict -> rollback"
    nightly = next(one for one in servers.answers["/deployments/filter"] if one["name"] == "nightly")
    nightly["schedules"] = [{"active": False}]
    assert parts.check_schedules(look).text == "paused: nightly"


def test_a_clock_that_is_off_is_seen(look: Look) -> None:
    for seconds, level in ((4, Level.OK), (10, Level.WARN), (60, Level.FAIL)):
        other = Look(where=look.where, environment=look.environment, now=NOW + timedelta(seconds=seconds))
        assert parts.check_clock(other).level == level


def test_the_login_is_sent_and_a_missing_one_is_asked_for(look: Look, servers: Servers) -> None:
    login = {"PREFECT_API_AUTH_STRING": "a:b", "MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "b"}
    known = Look(where=look.where, environment={**look.environment, **login}, now=NOW)
    parts.check_prefect(known)
    parts.check_mlflow(known)
    assert set(servers.seen) == {"Basic YTpi"}
    servers.status = 401
    with pytest.raises(DeliveryError, match=r"asks for a login \(HTTP 401\); set PREFECT_API_AUTH_STRING"):
        parts.check_prefect(look)
    with pytest.raises(DeliveryError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        parts.check_mlflow(look)


def test_only_the_runs_of_our_work_pool_are_looked_at(look: Look, servers: Servers) -> None:
    parts.check_night(look)
    assert servers.bodies[0]["work_pools"] == {"name": {"any_": ["local"]}}
    assert servers.bodies[0]["deployments"] == {"name": {"any_": ["nightly"]}}


@pytest.mark.sqlite_file("its file is not there until somebody writes")
def test_the_ledger_is_told_by_its_level(look: Look) -> None:
    assert parts.check_ledger(look).text == f"has no tables of level {HEAD} yet"
    ledger = Ledger(look.where.ledger)
    ledger.applications()
    ledger.close()
    assert (parts.check_ledger(look).level, parts.check_ledger(look).text) == (Level.OK, f"can be read, level {HEAD}")


def test_lines_that_wait_too_long_are_seen(look: Look) -> None:
    import os

    assert parts.check_lake(look).text == "no interaction was ever logged"
    commit = look.where.lake_dir / "interactions" / "_delta_log" / "0.json"
    log = look.where.log_dir / "faq" / "2026-03-02" / "a.jsonl"
    for path in (commit, log):
        path.parent.mkdir(parents=True)
        path.touch()
    for commit_h, log_h, level in ((1, 0, Level.OK), (3, 0, Level.WARN), (30, 0, Level.FAIL), (30, 31, Level.OK)):
        for path, hours in ((commit, commit_h), (log, log_h)):
            stamp = (NOW - timedelta(hours=hours)).timestamp()
            os.utime(path, (stamp, stamp))
        assert parts.check_lake(look).level == level


def test_a_part_that_breaks_or_hangs_hides_no_other() -> None:
    def breaks(_: Look) -> Finding:
        raise ZeroDivisionError("secret")

    def hangs(_: Look) -> Finding:
        time.sleep(1)
        return Finding("b", Level.OK, "late")

    def refuses(_: Look) -> Finding:
        raise DeliveryError("it does not answer; start it")

    look = Look(where=Settings(), environment={}, now=NOW)
    found = look_at(
        look, [("a", breaks), ("b", hangs), ("c", refuses), ("d", lambda _: Finding("d", Level.OK, "ok"))], 0.2
    )
    assert [finding.line for finding in found] == [
        "FAIL a               the look at it failed: ZeroDivisionError; look at its log",
        "FAIL b               did not answer within 0.2 s; look whether it hangs; start it again",
        "FAIL c               it does not answer; start it",
        "OK   d               ok",
    ]
    assert worst(found) == 2
    assert json.loads(as_json(found))["level"] == "FAIL"
    assert worst(found[3:]) == 0


def test_without_a_server_every_part_says_so_at_once(tmp_path: Path) -> None:
    where = Settings(state_dir=tmp_path / "none", mlflow_url="http://127.0.0.1:1", data_url="http://127.0.0.1:1")
    found = look_at(Look(where=where, environment={}, now=NOW), parts.CHECKS)
    by_part = {finding.part: finding for finding in found}
    assert by_part["prefect"].text == "no server is known here; set PREFECT_API_URL, or start the stack: make up"
    assert by_part["mlflow"].text.startswith(
        "http://127.0.0.1:1/api/2.0/mlflow/experiments/search?max_results=1 does not"
    )
    assert by_part["disk"].level <= Level.WARN
    assert not (tmp_path / "none").exists()
