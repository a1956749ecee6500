"""What the steps of a rollout and of a rollback share: write a plan, put it into effect, smoke-test, tell people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.monitors.verdict import Verdict
from tasks.release.lease import holding
from tasks.release.model import Release
from tasks.release.rollout import Ending, Lease
from tasks.release.smoke import SmokeSuite, judge_smoke
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.driver import Driver
from tasks.traffic.haproxy import HaproxyDriver
from tasks.traffic.plan import BUCKETS, Plan, reassign

PROBE_TIMEOUT_S = 30.0
_SMOKE_AT_ONCE = 4


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


def driver(where: Settings) -> Driver:
    """Return the data path."""
    return HaproxyDriver(folder=where.haproxy_dir, servers=where.servers_dir, url=where.data_url)


@contextmanager
def change(where: Settings, application: str, *, seize: bool = False) -> Iterator[Lease]:
    """Hold an application while a flow changes it; a rollback seizes it from a rollout.

    Raises:
        LeaseError: Somebody else changes it.
    """
    # The id tells two runs of the same release apart; they would take each other for themselves.
    holder = f"{flow_run.get_flow_name()} {flow_run.get_name()} ({(flow_run.get_id() or 'by hand')[:8]})"
    with holding(Ledger(where.ledger), application, holder, seize=seize) as lease:
        yield lease


def write_plan(ledger: Ledger, lease: Lease, wanted: Mapping[str, int], reason: str) -> Plan:
    """Write the next plan by compare-and-swap; one that would change nothing is not written.

    Returns:
        The plan in force.
    """
    old = ledger.plan(lease.application)
    salt = old.salt if old else lease.application
    buckets = reassign(old.buckets if old else (), wanted, salt)
    if old is not None and old.buckets == buckets:
        return old
    plan = Plan(
        application=lease.application,
        revision=old.revision + 1 if old else 1,
        salt=salt,
        buckets=buckets,
        author=lease.holder,
        flow_run_id=flow_run.get_id(),
        reason=reason,
        time=now(),
    )
    ledger.write_plan(plan, lease)
    return plan


def stable_beside(ledger: Ledger, release: Release) -> str | None:
    """Return the digest of the release that serves beside this one, None where this one is alone."""
    plan = ledger.plan(release.application)
    return next((digest for digest in plan.counts() if digest != release.digest), None) if plan else None


def take_users_back(where: Settings, lease: Lease, release: Release, reason: str) -> None:
    """Give the users of a release back to the one beside it; without one there is nobody to take them."""
    ledger = Ledger(where.ledger)
    plan, stable = ledger.plan(lease.application), stable_beside(ledger, release)
    if plan is not None and stable is not None and release.digest in plan.counts():
        driver(where).apply(write_plan(ledger, lease, {stable: BUCKETS}, f"{release.label} taken back: {reason}"))


def run_smoke(path: Driver, release: Release, suite: SmokeSuite) -> Verdict:
    """Ask the questions of a suite side by side and judge the answers."""
    started = now()
    with ThreadPoolExecutor(max_workers=_SMOKE_AT_ONCE) as pool:
        answers = pool.map(lambda case: path.probe(release, case.question, PROBE_TIMEOUT_S), suite.cases)
        pairs = list(zip(suite.cases, answers, strict=True))
    return judge_smoke(release, pairs, started, now())


def log_verdict(verdict: Verdict, what: str) -> None:
    """Write the inequality of every check into the log of the run."""
    for check in verdict.checks:
        get_run_logger().info("%s: %s (%s)", what, check.statement, check.outcome.value)


def publish(application: str, topic: str, ending: Ending, markdown: str) -> Ending:
    """Tell people and automations how a flow ended: an artifact and an event, without any prompt or answer."""
    key = re.sub(r"[^a-z0-9-]+", "-", f"{topic}-{application}".lower()).strip("-")
    create_markdown_artifact(key=key, markdown=markdown, description=ending.message[:200])
    announce(application, f"delivery.{topic}.{ending.name.lower()}", ending)
    return ending


def announce(application: str, event: str, ending: Ending) -> None:
    """Emit an event about an application."""
    emit_event(
        event=event,
        resource={
            "prefect.resource.id": f"delivery.application.{application}",
            "prefect.resource.name": application,
            "delivery.release": ending.release_digest,
        },
        payload={
            "application": application,
            "release_digest": ending.release_digest,
            "message": ending.message,
        },
    )


def as_state(ending: Ending) -> State[str]:
    """Return the state the flow run ends in, named after the ending."""
    kind = Failed if ending.is_failure else Completed
    return kind(name=ending.name, message=ending.message, data=ending.release_digest)
