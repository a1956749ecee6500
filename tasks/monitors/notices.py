"""Who is told about an alert, in which words, and when it is tried again.

A notice is tried until it is delivered: after a failure a minute later, then twice as long each time, an hour at the
most. Nothing ever turns a channel off but the policy file. Of several notices of one alert that wait, the last counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import NAMESPACE_OID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from tasks.documents import read_document
from tasks.events import event_resource
from tasks.monitors.alerts import ROLLBACK, Alert, AlertState, News
from tasks.monitors.verdict import Outcome

POLICY_FILE: Final = "alerts.yaml"
"""In the state folder."""
FIRST_DELAY: Final = timedelta(minutes=1)
LONGEST_DELAY: Final = timedelta(hours=1)
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class Channel(BaseModel):
    """One notification block of Prefect, and what it is told.

    Attributes:
        block: ``type/name`` of a notification block, such as ``slack-webhook/oncall``; it holds the secrets.
        applications: Whose alerts; none is every application's.
        monitors: Which monitors; none is every one.
        outcomes: Which outcomes are told.
        resolved: Whether it is told that an alert is over.
        segments: Whether it is told of alerts of single segments.
    """

    model_config = _STRICT

    block: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*$", max_length=200)]
    applications: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = (Outcome.FAIL, Outcome.ERROR)
    resolved: bool = True
    segments: bool = True

    def wants(self, alert: Alert, news: News) -> bool:
        """Return whether it is told about this."""
        return (
            (not self.applications or alert.application in self.applications)
            and (not self.monitors or alert.monitor in self.monitors)
            and alert.outcome in self.outcomes
            and (self.resolved or news is not News.RESOLVED)
            and (self.segments or not alert.segment)
        )


class AlertPolicy(BaseModel):
    """Who is told about alerts.

    Attributes:
        channels: The notification blocks; without one, alerts are on record and events, and nobody is told.
    """

    model_config = _STRICT

    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one channel is to be told."""

    block: str
    subject: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message on its way, as the ledger keeps it.

    Attributes:
        notice_id: 32 hex digits.
        alert_id: The alert it is about.
        message: What is told, and to whom.
        created: When it was due first, UTC.
        attempts: How often it was tried.
        next_attempt: When it is tried next, UTC.
        delivered: When it arrived, UTC; None: not yet.
        dropped: Why it is not sent any more; empty: it is.
        error: What went wrong the last time, without any address.
    """

    notice_id: str
    alert_id: str
    message: Message
    created: datetime
    attempts: int = 0
    next_attempt: datetime
    delivered: datetime | None = None
    dropped: str = ""
    error: str = ""


Route = Callable[[Alert, News], tuple[Message, ...]]
"""Says who is told what about an alert."""


def read_alert_policy(folder: Path) -> AlertPolicy:
    """Return who is told, from ``POLICY_FILE`` of a folder; without the file nobody is.

    Raises:
        InputError: The file says something that is not allowed.
    """
    path = folder / POLICY_FILE
    return read_document(path, AlertPolicy) if path.exists() else AlertPolicy()


def route_by(policy: AlertPolicy) -> Route:
    """Return what says who is told what, by a policy; a block that stands twice is told once."""

    def route(alert: Alert, news: News) -> tuple[Message, ...]:
        blocks = dict.fromkeys(channel.block for channel in policy.channels if channel.wants(alert, news))
        return tuple(Message(block=block, subject=_subject(alert, news), body=_body(alert)) for block in blocks)

    return route


def next_delay(attempts: int) -> timedelta:
    """Return how long to wait after so many failed attempts, from 1."""
    doublings = min(attempts - 1, 10)
    return min(FIRST_DELAY * int(2**doublings), LONGEST_DELAY)


def describe_failure(error: BaseException) -> str:
    """Return what went wrong without any address: the text of such errors may hold the secret of a webhook."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"{type(error).__name__}, status {status}" if status is not None else type(error).__name__


def alert_event(alert: Alert, news: News) -> dict[str, Any]:
    """Return the event of an alert; the same turn of it is the same event however often it is emitted."""
    return {
        "event": f"delivery.alert.{news.name.lower()}",
        "resource": event_resource(alert.application, alert.release_digest),
        "payload": {
            "alert_id": alert.alert_id,
            "application": alert.application,
            "release_digest": alert.release_digest,
            "monitor": alert.monitor,
            "segment": alert.segment,
            "state": alert.state.value,
            "reason": alert.reason,
        },
        "id": uuid5(NAMESPACE_OID, f"{alert.alert_id}{news}{alert.window_end.isoformat()}{alert.changed.isoformat()}"),
    }


def _subject(alert: Alert, news: News) -> str:
    return f"[{alert.outcome if news is not News.RESOLVED else 'ok'}] {news}: {alert.label}"


def _body(alert: Alert) -> str:
    when = "failed at" if alert.monitor == ROLLBACK else "window until"
    lines = [alert.reason, f"{when} {alert.window_end:%Y-%m-%d %H:%M} UTC"]
    if alert.state is not AlertState.RESOLVED:
        lines += [
            f"open since {alert.opened:%Y-%m-%d %H:%M} UTC, {alert.failures} windows",
            f"delivery alerts ack {alert.alert_id[:12]}",
        ]
    elif alert.who:
        lines.append(f"resolved by {alert.who}")
    return "\n".join(lines)
