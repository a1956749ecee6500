"""Alerts, their history, and the notices about them that wait to be delivered."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from tasks.errors import ConflictError, NotFoundError
from tasks.monitors.alerts import ROLLBACK, Alert, AlertState, News, Signal, Turn, apply_signal, rolled_back, turn
from tasks.monitors.notices import Message, Notice, Route
from tasks.monitors.verdict import Outcome
from tasks.stores.ledger.database import Database
from tasks.stores.ledger.rollouts import find_quarantined
from tasks.stores.ledger.schema import alert_events, alerts, notices, plans

CLAIM: Final = timedelta(minutes=2)
"""How long a notice is left to who took it on; after that it is tried again."""
_ATTEMPTS: Final = 5
Told = tuple[Alert, News]


class Alerts(Database):
    """The alerts of a database."""

    __slots__ = ()

    def signal_alerts(self, signals: Iterable[Signal], route: Route, now: datetime) -> tuple[Told, ...]:
        """Bring alerts up to what monitors said, and put the notices about it on record, all in one.

        Args:
            signals: What monitors said.
            route: Who is told what.
            now: The time, UTC.

        Returns:
            The alerts of which there is something to tell.

        Raises:
            ConflictError: Others opened the same alerts at the same moment every time.
        """
        wanted = tuple(signals)
        for _ in range(_ATTEMPTS):
            try:
                return self._signal(wanted, route, now)
            except IntegrityError:  # somebody opened one of them between our look and our write
                continue
        raise ConflictError("alerts: others wrote the same ones at the same moment; run it again")

    def turn_alert(
        self,
        alert_id: str,
        happened: Turn,
        route: Route,
        now: datetime,
        *,
        who: str,
        reason: str,
        until: datetime | None = None,
    ) -> Alert:
        """Put what a person decided about an alert on record.

        Args:
            alert_id: Its id, or the first digits of it.
            happened: ``acknowledge``, ``silence`` or ``resolve``.
            route: Who is told what.
            now: The time, UTC.
            who: The person.
            reason: Why.
            until: Until when, with ``silence``.

        Raises:
            NotFoundError: No alert, or several, have such an id.
            InputError: It cannot be done to an alert where it stands.
        """
        with self._write() as db:
            found = _one(db, alert_id)
            after = turn(found, happened, now, reason=reason, who=who, until=until)
            _put(db, after, happened, route, now, said=reason)
        return after[0]

    def wake_alerts(self, route: Route, now: datetime) -> tuple[Told, ...]:
        """Open the alerts whose silence is over, and put the notices about it on record."""
        over = (alerts.c.state == AlertState.SILENCED.value) & (alerts.c.silenced_until <= now)
        woken = []
        with self._write() as db:
            for row in db.execute(select(alerts).where(over).order_by(alerts.c.alert_id).with_for_update()).all():
                found = _as_alert(row)
                changed, news = turn(found, Turn.EXPIRE, now, reason=found.reason)
                _put(db, (changed, news), Turn.EXPIRE, route, now)
                woken.append((changed, news or News.STILL))
        return tuple(woken)

    def report_rollback(self, done: Alert, route: Route) -> tuple[Told, ...]:
        """Resolve every alert of a release that was taken out, and put the notice about it on record, all in one.

        Doing it again after a crash changes nothing, and nobody is told twice.

        Args:
            done: The ``ROLLBACK`` alert of the release, resolved, with the moment it failed as its ``window_end``.
            route: Who is told what.
        """
        told = []
        with self._write() as db:
            known = _of_release(db, done.application, done.release_digest)
            for found in known:
                if found.monitor != ROLLBACK and found.state is not AlertState.RESOLVED:
                    closed, news = turn(found, Turn.RESOLVE, done.changed, reason=done.reason, who=ROLLBACK)
                    _put(db, (closed, news), Turn.RESOLVE, route, done.changed)
                    told.append((closed, news or News.RESOLVED))
            after = rolled_back(next((found for found in known if found.monitor == ROLLBACK), None), done)
            if after is not None:
                _put(db, after, Turn.RESOLVE, route, done.changed)
                told.append(after)
        return tuple(told)

    def close_rollback_alerts(self, application: str, reason: str, route: Route, now: datetime) -> tuple[Told, ...]:
        """Resolve the ``ROLLBACK`` alerts of releases that serve nobody any more: something else was done."""
        told = []
        with self._write() as db:
            mine = (alerts.c.application == application) & (alerts.c.monitor == ROLLBACK)
            for row in db.execute(select(alerts).where(mine).with_for_update()).all():
                found = _as_alert(row)
                if found.state is not AlertState.RESOLVED and found.release_digest not in _serving(db, application):
                    closed, news = turn(found, Turn.RESOLVE, now, reason=reason, who="reconcile")
                    _put(db, (closed, news), Turn.RESOLVE, route, now)
                    told.append((closed, news or News.RESOLVED))
        return tuple(told)

    def alerts(self, application: str | None = None, *, every: bool = False) -> list[Alert]:
        """Return the alerts of an application, or of all of them, the latest changed first; all that are not resolved.

        Args:
            application: What users call; None is every application.
            every: Also those that are resolved.
        """
        query = select(alerts)
        if application is not None:
            query = query.where(alerts.c.application == application)
        if not every:
            query = query.where(alerts.c.state != AlertState.RESOLVED.value)
        with self._read() as db:
            found = [_as_alert(row) for row in db.execute(query)]
        return sorted(found, key=lambda alert: (alert.changed, alert.alert_id), reverse=True)

    def alert_history(self, alert_id: str) -> list[tuple[datetime, str, str, str]]:
        """Return what happened to an alert, the oldest first: time, turn, who, and why.

        Raises:
            NotFoundError: No alert, or several, have an id that begins so.
        """
        with self._read() as db:
            found = _one(db, alert_id)
            query = select(alert_events).where(alert_events.c.alert_id == found.alert_id)
            rows = db.execute(query.order_by(alert_events.c.number)).all()
        return [(row.time, row.turn, row.who, row.reason) for row in rows]

    def claim_notices(self, now: datetime, limit: int = 100) -> list[Notice]:
        """Take on notices that are due: nobody else tries them for the next two minutes.

        Args:
            now: The time, UTC.
            limit: How many at most.
        """
        due = _waiting() & (notices.c.next_attempt <= now)
        query = select(notices).where(due).order_by(notices.c.created, notices.c.notice_id).limit(limit)
        with self._write() as db:
            rows = db.execute(query.with_for_update(skip_locked=True)).all()
            mine = [row.notice_id for row in rows]
            taken = update(notices).where(notices.c.notice_id.in_(mine))
            db.execute(taken.values(next_attempt=now + CLAIM, attempts=notices.c.attempts + 1))
            again = select(notices).where(notices.c.notice_id.in_(mine))
            found = [_as_notice(row) for row in db.execute(again)]
        return sorted(found, key=lambda notice: (notice.created, notice.notice_id))

    def notice_delivered(self, notice_id: str, now: datetime) -> None:
        """Put on record that a notice has arrived."""
        with self._write() as db:
            db.execute(update(notices).where(notices.c.notice_id == notice_id).values(delivered=now, error=""))

    def notice_failed(self, notice_id: str, error: str, again: datetime) -> None:
        """Put on record that a notice has not arrived, and when it is tried again."""
        with self._write() as db:
            here = notices.c.notice_id == notice_id
            db.execute(update(notices).where(here).values(error=error[:1000], next_attempt=again))

    def drop_notices(self, blocks: Collection[str]) -> int:
        """Drop what waits for any channel but these, because the policy no longer names it; return how many."""
        with self._write() as db:
            gone = _waiting() & notices.c.block.not_in(list(blocks))
            done = db.execute(update(notices).where(gone).values(dropped="the policy no longer names its channel"))
        return int(done.rowcount)

    def notices(self, alert_id: str | None = None) -> list[Notice]:
        """Return the notices of an alert, or all that wait, the oldest first."""
        where = _waiting() if alert_id is None else notices.c.alert_id == alert_id
        with self._read() as db:
            query = select(notices).where(where).order_by(notices.c.created, notices.c.notice_id)
            return [_as_notice(row) for row in db.execute(query)]

    def _signal(self, signals: tuple[Signal, ...], route: Route, now: datetime) -> tuple[Told, ...]:
        told = []
        with self._write() as db:
            for signal in signals:
                if signal.outcome is not Outcome.PASS and _is_out(db, signal):
                    continue  # calls of the time before its rollback are no news
                outcome = apply_signal(_find(db, signal), signal, now, uuid.uuid4().hex)
                if outcome is None:
                    continue
                _put(db, outcome, Turn.PASS if signal.outcome is Outcome.PASS else Turn.FAIL, route, now)
                if (news := outcome[1]) is not None:
                    told.append((outcome[0], news))
        return tuple(told)


def _put(  # noqa: PLR0917 - a row of each of three tables
    db: Connection, after: tuple[Alert, News | None], happened: Turn, route: Route, now: datetime, said: str = ""
) -> None:
    """Write an alert, what happened to it, and who is told."""
    alert, news = after
    values = _alert_values(alert)
    here = alerts.c.alert_id == alert.alert_id
    if db.execute(update(alerts).where(here).values(**values)).rowcount == 0:
        db.execute(insert(alerts).values(**values))
    event = {"alert_id": alert.alert_id, "turn": happened.value, "state": alert.state.value, "who": alert.who}
    db.execute(insert(alert_events).values(reason=said or alert.reason, time=now, **event))
    if news is None:
        return
    for message in route(alert, news):
        older = _waiting() & (notices.c.alert_id == alert.alert_id) & (notices.c.block == message.block)
        db.execute(update(notices).where(older).values(dropped=f"{news} says more"))
        row = {"notice_id": uuid.uuid4().hex, "alert_id": alert.alert_id, "created": now, "next_attempt": now}
        text = {"block": message.block, "subject": message.subject, "body": message.body}
        db.execute(insert(notices).values(attempts=0, dropped="", error="", **row, **text))


def _find(db: Connection, signal: Signal) -> Alert | None:
    names = ("application", "release_digest", "monitor", "segment")
    query = select(alerts).where(*(alerts.c[name] == getattr(signal, name) for name in names))
    row = db.execute(query.with_for_update()).first()
    return None if row is None else _as_alert(row)


def _is_out(db: Connection, signal: Signal) -> bool:
    """Return whether a signal is about a release that was rolled back and has no users any more."""
    out = find_quarantined(db, signal.application, signal.release_digest) is not None
    return out and signal.release_digest not in _serving(db, signal.application)


def _serving(db: Connection, application: str) -> str:
    """Return the digests of the plan in force, as one text."""
    query = select(plans.c.releases).where(plans.c.application == application)
    return str(db.execute(query.order_by(plans.c.revision.desc()).limit(1)).scalar() or "")


def _of_release(db: Connection, application: str, digest: str) -> list[Alert]:
    mine = (alerts.c.application == application) & (alerts.c.release_digest == digest)
    return [_as_alert(row) for row in db.execute(select(alerts).where(mine).with_for_update())]


def _one(db: Connection, alert_id: str) -> Alert:
    prefix = alerts.c.alert_id.startswith(alert_id, autoescape=True)
    rows = db.execute(select(alerts).where(prefix).limit(2)).all() if alert_id else []
    if len(rows) != 1:
        problem = "several alerts begin" if rows else "no alert begins"
        raise NotFoundError(f"{problem} with {alert_id!r}; list them: delivery alerts list --all")
    return _as_alert(rows[0])


def _waiting() -> Any:
    return notices.c.delivered.is_(None) & or_(notices.c.dropped == "", notices.c.dropped.is_(None))


_PLAIN: Final = (
    "alert_id", "application", "release_digest", "monitor", "segment", "reason", "opened", "changed", "window_end",
    "failures", "who", "silenced_until",
)  # fmt: skip


def _alert_values(alert: Alert) -> dict[str, Any]:
    plain = {name: getattr(alert, name) for name in _PLAIN}
    return plain | {"state": alert.state.value, "outcome": alert.outcome.value}


def _as_alert(row: Row[Any]) -> Alert:
    plain = {name: getattr(row, name) for name in _PLAIN}
    return Alert(state=AlertState(row.state), outcome=Outcome(row.outcome), **plain)


def _as_notice(row: Row[Any]) -> Notice:
    names = ("notice_id", "alert_id", "created", "attempts", "next_attempt", "delivered", "dropped", "error")
    message = Message(block=row.block, subject=row.subject, body=row.body)
    return Notice(message=message, **{name: getattr(row, name) for name in names})
