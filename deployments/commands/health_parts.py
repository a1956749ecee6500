"""The checks of ``delivery health``, one a part."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

from deployments.commands.health import PREFECT_FILE, Check, Finding, Level, Look, fetch
from tasks.errors import DeliveryError

NIGHT_H: Final = 26.0
"""So long ago the last nightly evaluation may have ended, hours: a day, and two hours for the work itself."""
_LATE_FAIL: Final = timedelta(minutes=10)
_UNREAD_WARN: Final = timedelta(hours=2)
_UNREAD_FAIL: Final = timedelta(hours=26)
_CLOCK_WARN_S: Final = 5.0
_CLOCK_FAIL_S: Final = 30.0
_FREE_WARN: Final = 0.10
_FREE_FAIL: Final = 0.02
_MIB: Final = 2**20


def check_prefect(look: Look) -> Finding:
    """Whether the API answers, and is of the version this project is installed with."""
    theirs, ours = str(look.prefect("GET", "/admin/version").json()), version("prefect")
    if theirs == ours:
        return Finding("prefect", Level.OK, f"answers, version {theirs}")
    return Finding("prefect", Level.WARN, f"server {theirs}, this program {ours}", "install the same version on both")


def check_worker(look: Look) -> Finding:
    """Whether somebody takes the runs of the work pool."""
    if look.prefect("GET", f"/work_pools/{look.pool}").json()["is_paused"]:
        todo = f"prefect work-pool resume {look.pool}"
        return Finding("worker", Level.FAIL, f"work pool {look.pool} is paused", todo)
    found = look.prefect("POST", f"/work_pools/{look.pool}/workers/filter", {}).json()
    online = [worker for worker in found if worker["status"] == "ONLINE" and worker["last_heartbeat_time"]]
    if not online:
        todo = f"start one: prefect worker start --pool {look.pool}"
        return Finding("worker", Level.FAIL, f"none is online in work pool {look.pool}", todo)
    age_s = min((look.now - _moment(worker["last_heartbeat_time"])).total_seconds() for worker in online)
    return Finding("worker", Level.OK, f"{len(online)} online in {look.pool}, heard of {max(age_s, 0):.0f} s ago")


def check_queue(look: Look) -> Finding:
    """Whether runs wait that ought to have begun."""
    late = _runs(look, {"state": {"name": {"any_": ["Late"]}}}, "EXPECTED_START_TIME_ASC", 200)
    if not late:
        return Finding("queue", Level.OK, "no run is late")
    since = look.now - _moment(late[0]["expected_start_time"])
    level = Level.FAIL if since > _LATE_FAIL else Level.WARN
    todo = "see whether the worker is at its limit, or the work queue paused"
    return Finding("queue", level, f"{len(late)} runs are late, the first by {_span(since)}", todo)


def check_automations(look: Look) -> Finding:
    """Whether every automation is there and switched on."""
    wanted = {trigger["name"] for one in _deployments() for trigger in one.get("triggers", [])}
    found = {one["name"]: one["enabled"] for one in look.prefect("POST", "/automations/filter", {"limit": 200}).json()}
    if missing := sorted(wanted - found.keys()):
        return Finding("automations", Level.FAIL, f"missing: {', '.join(missing)}", _DEPLOY)
    if off := sorted(name for name in wanted if not found[name]):
        return Finding("automations", Level.FAIL, f"switched off: {', '.join(off)}", "switch on in the UI: Automations")
    return Finding("automations", Level.OK, f"{len(wanted)} of {len(wanted)} on: {', '.join(sorted(wanted))}")


def check_schedules(look: Look) -> Finding:
    """Whether every flow is deployed, every schedule active, and runs are planned by them."""
    found = {one["name"]: one for one in look.prefect("POST", "/deployments/filter", {"limit": 200}).json()}
    wanted = {one["name"]: one.get("schedules", []) for one in _deployments()}
    if missing := sorted(wanted.keys() - found.keys()):
        return Finding("schedules", Level.FAIL, f"not deployed: {', '.join(missing)}", _DEPLOY)
    off = sorted(
        name
        for name, schedules in wanted.items()
        if found[name]["paused"] or sum(one["active"] for one in found[name]["schedules"]) < len(schedules)
    )
    if off:
        return Finding("schedules", Level.WARN, f"paused: {', '.join(off)}", "resume in the UI: Deployments")
    active = sum(1 for schedules in wanted.values() if schedules)
    due = _runs(look, {"state": {"type": {"any_": ["SCHEDULED"]}}}, "EXPECTED_START_TIME_ASC", 1)
    if active and not due:
        text = "no run is planned: the scheduler of the Prefect server plans nothing"
        todo = "a minute after the start that is so; later see the server's log, and start it again"
        return Finding("schedules", Level.FAIL, text, todo)
    return Finding("schedules", Level.OK, f"{len(wanted)} flows deployed, {active} of them by schedule")


def check_night(look: Look) -> Finding:
    """Whether the nightly evaluation completed in the last 26 hours."""
    done = _runs(look, {"state": {"type": {"any_": ["COMPLETED"]}}}, "END_TIME_DESC", 1, deployment="nightly")
    if done:
        age = look.now - _moment(done[0]["end_time"])
        if age <= timedelta(hours=NIGHT_H):
            return Finding("evaluation", Level.OK, f"the last night was judged {_span(age)} ago")
        text = f"the last night was judged {_span(age)} ago, limit {NIGHT_H:.0f} h"
    else:
        named = {"deployments": {"name": {"any_": ["nightly"]}}}
        known = look.prefect("POST", "/deployments/filter", named).json()
        age = look.now - _moment(known[0]["created"]) if known else timedelta.max
        if age <= timedelta(hours=NIGHT_H):
            return Finding("evaluation", Level.OK, f"none yet; deployed {_span(age)} ago")
        text = "no night was ever judged"
    return Finding("evaluation", Level.FAIL, text, "run it: prefect deployment run evaluation/nightly")


def check_mlflow(look: Look) -> Finding:
    """Whether the registry answers this login."""
    look.mlflow("/api/2.0/mlflow/experiments/search?max_results=1")
    return Finding("mlflow", Level.OK, f"answers, version {look.mlflow('/version').text}")


def check_ledger(look: Look) -> Finding:
    """Whether the ledger can be read, and its tables are those of this program."""
    from tasks.stores.ledger.migrate import look_up_level
    from tasks.stores.ledger.migrations import HEAD

    level = look_up_level(look.where.ledger)
    if level == HEAD:
        return Finding("ledger", Level.OK, f"can be read, level {level}")
    if level is None:
        todo = "the first flow makes it, or: delivery migrate"
        return Finding("ledger", Level.WARN, f"has no tables of level {HEAD} yet", todo)
    todo = "upgrade this program" if level > HEAD else "back it up, then: delivery migrate"
    return Finding("ledger", Level.WARN, f"is at level {level}, this program is of level {HEAD}", todo)


def check_lake(look: Look) -> Finding:
    """Whether lines wait in the logs that ought to be in the lake by now."""
    table = look.where.lake_dir / "interactions" / "_delta_log"
    commits = [path.stat().st_mtime for path in table.glob("*.json")]
    logs = [path.stat().st_mtime for path in look.where.log_dir.rglob("*.jsonl")]
    if not commits and not logs:
        return Finding("lake", Level.OK, "no interaction was ever logged")
    last, written = max(commits, default=0.0), max(logs, default=0.0)
    age = look.now - datetime.fromtimestamp(last or min(logs), UTC)
    if written <= last or age <= _UNREAD_WARN:
        return Finding("lake", Level.OK, f"{len(commits)} commits, the last one {_span(age)} ago")
    level = Level.FAIL if age > _UNREAD_FAIL else Level.WARN
    todo = "see why it does not run: prefect deployment run ingestion/hourly"
    return Finding("lake", level, f"lines wait, the last ingestion was {_span(age)} ago", todo)


def check_data_path(look: Look) -> Finding:
    """Whether the plans on record are those in effect."""
    from tasks.stores.ledger import Ledger
    from tasks.stores.ledger.migrate import look_up_level
    from tasks.traffic.choose import choose_driver
    from tasks.traffic.nodes.behind import find_behind

    if look.where.driver == "haproxy":
        fetch("GET", f"{look.where.data_url}/health", "")
    if look_up_level(look.where.ledger) is None:
        return Finding("data path", Level.OK, "up; no plan is on record")
    driver, ledger = choose_driver(look.where), Ledger(look.where.ledger)
    seen, behind = list[str](), list[str]()
    for application in ledger.applications():
        for wait_s in (0.0, 0.5):  # a rollout may be between writing a plan and applying it
            time.sleep(wait_s)
            plan = ledger.plan(application)
            in_effect = driver.observe(application)
            if plan is not None and in_effect == plan.buckets:
                seen.append(f"{application} revision {plan.revision}")
                behind += find_behind(driver, plan)
                break
        else:
            revision = plan.revision if plan is not None else 0
            todo = "put it in effect: prefect deployment run reconcile/reconcile"
            return Finding("data path", Level.FAIL, f"revision {revision} of {application} is not in effect", todo)
    if behind:
        return Finding("data path", Level.FAIL, "; ".join(behind), "docs/nodes.md")
    return Finding("data path", Level.OK, f"up; in effect: {', '.join(seen) or 'no plan yet'}")


def check_releases(look: Look) -> Finding:
    """Whether the release servers of this machine answer."""
    from tasks.traffic.servers import read_servers

    if look.where.driver != "haproxy" or look.where.nodes:
        who = "the nodes run" if look.where.nodes else f"the driver {look.where.driver} runs"
        return Finding("releases", Level.OK, f"not looked at: {who} them elsewhere")
    servers, silent = read_servers(look.where.servers_dir), []
    for server in servers:
        for number, url in enumerate(server.urls, 1):
            try:
                fetch("GET", f"{url}/health", "")
            except DeliveryError:
                silent.append(f"release-{server.short}-{number} of {server.application}")
    if silent:
        return Finding("releases", Level.FAIL, f"silent: {', '.join(silent)}", "see its log in the state's logs/")
    return Finding("releases", Level.OK, f"{sum(server.replicas for server in servers)} servers answer")


def check_disk(look: Look) -> Finding:
    """Whether there is room for logs, lake and databases."""
    folder = look.where.state_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    share, text = usage.free / usage.total, f"{usage.free / _MIB:,.0f} MiB free ({usage.free / usage.total:.0%})"
    if share >= _FREE_WARN:
        return Finding("disk", Level.OK, text)
    level = Level.FAIL if share < _FREE_FAIL else Level.WARN
    return Finding("disk", level, text, "delete old days and logs (maintenance), or give it a larger disk")


def check_clock(look: Look) -> Finding:
    """Whether this machine's clock goes with the server's."""
    theirs = look.prefect("GET", "/health").headers.get("date")
    if theirs is None:
        return Finding("clock", Level.OK, "not compared: the server gives no date")
    off_s = abs((look.now - parsedate_to_datetime(theirs)).total_seconds())
    if off_s <= _CLOCK_WARN_S:
        return Finding("clock", Level.OK, f"within {_CLOCK_WARN_S:.0f} s of the Prefect server's")
    level = Level.FAIL if off_s > _CLOCK_FAIL_S else Level.WARN
    return Finding("clock", level, f"{off_s:.0f} s off the Prefect server's", "let both follow a time server")


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("prefect", check_prefect),
    ("worker", check_worker),
    ("queue", check_queue),
    ("automations", check_automations),
    ("schedules", check_schedules),
    ("evaluation", check_night),
    ("mlflow", check_mlflow),
    ("ledger", check_ledger),
    ("lake", check_lake),
    ("data path", check_data_path),
    ("releases", check_releases),
    ("disk", check_disk),
    ("clock", check_clock),
)

_DEPLOY: Final = "deploy: prefect deploy --all --prefect-file deployments/prefect.yaml"


def _deployments(path: Path = PREFECT_FILE) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]


def _runs(
    look: Look, flow_runs: dict[str, Any], sort: str, limit: int, deployment: str | None = None
) -> list[dict[str, Any]]:
    body: dict[str, Any] = {"flow_runs": flow_runs, "sort": sort, "limit": limit}
    body["work_pools"] = {"name": {"any_": [look.pool]}}
    if deployment is not None:
        body["deployments"] = {"name": {"any_": [deployment]}}
    found: list[dict[str, Any]] = look.prefect("POST", "/flow_runs/filter", body).json()
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _span(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
