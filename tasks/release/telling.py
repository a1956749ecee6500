"""What flows that change an application tell people: artifacts, events, alerts and notices, and how a run ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State as FlowState
from prefect.events import emit_event
from prefect.states import Completed, Failed

from tasks.errors import DeliveryError
from tasks.events import event_resource
from tasks.monitors.alerts import ROLLBACK, Alert, AlertState, News
from tasks.monitors.notices import AlertPolicy, Route, alert_event, read_alert_policy, route_by
from tasks.monitors.steps import deliver
from tasks.monitors.verdict import Outcome
from tasks.release.model import Release
from tasks.release.rollout import Ending
from tasks.settings import Settings
from tasks.stores.ledger import Ledger


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
        resource=event_resource(application, ending.release_digest),
        payload={
            "application": application,
            "release_digest": ending.release_digest,
            "message": ending.message,
        },
    )


def route_of(where: Settings) -> Route:
    """Return who is told what about alerts; a policy that cannot be read keeps nobody from a rollback."""
    try:
        return route_by(read_alert_policy(where.state_dir))
    except DeliveryError as error:
        get_run_logger().warning(f"nobody is told: {error}")
        return route_by(AlertPolicy())


def announce_alerts(told: Iterable[tuple[Alert, News]]) -> None:
    """Emit the events of alerts."""
    for alert, news in told:
        emit_event(**alert_event(alert, news))


def report_out(where: Settings, bad: Release, who: str, message: str) -> None:
    """Resolve the alerts of a release that is out; the notices about it wait in the ledger from then on.

    Before its failure is called undone: done again after a crash it tells nobody twice.
    """
    ledger, time = Ledger(where.ledger), datetime.now(UTC)
    undone = [found.changed for found in ledger.experiments(bad.application) if found.is_undoing]
    mine = (found for found in ledger.rollouts(bad.application) if found.release_digest == bad.digest)
    undone.extend(found.changed for found in mine if found.is_undoing)
    done = Alert(
        alert_id=uuid4().hex,
        application=bad.application,
        release_digest=bad.digest,
        monitor=ROLLBACK,
        segment="",
        state=AlertState.RESOLVED,
        outcome=Outcome.FAIL,
        reason=message,
        opened=time,
        changed=time,
        window_end=max(undone, default=time),
        who=who,
    )
    announce_alerts(ledger.report_rollback(done, route_of(where)))


@task(cache_policy=NO_CACHE)
def tell(where: Settings) -> None:
    """Send the notices about the rollback; what does not arrive is tried again by the flow ``alerts``."""
    try:
        deliver(where)
    except DeliveryError as error:
        get_run_logger().warning(f"nobody is told: {error}")


def as_state(ending: Ending) -> FlowState[str]:
    """Return the state the flow run ends in, named after the ending."""
    kind = Failed if ending.is_failure else Completed
    return kind(name=ending.name, message=ending.message, data=ending.release_digest)


def ending_of(state: FlowState[Any]) -> Ending:
    """Return how a flow ended that another flow called."""
    return Ending(
        name=state.name or "", message=state.message or "", is_failure=not state.is_completed(), release_digest=""
    )
