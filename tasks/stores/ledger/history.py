"""What people did, and all that happened to an application in one line of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Select, insert, select

from tasks.experiments.life import Turn as ExperimentTurn
from tasks.monitors.alerts import Turn
from tasks.release.history import AUTOMATIC, Act, Deed, Entry, History, Kind, find_prevented, in_order
from tasks.release.model import Release
from tasks.stores.ledger.database import Database
from tasks.stores.ledger.rows import as_plan, as_rollout, as_verdict
from tasks.stores.ledger.schema import (
    acts,
    alert_events,
    alerts,
    decisions,
    experiment_events,
    experiments,
    plans,
    quarantine,
    releases,
    rollout_events,
    rollouts,
    verdicts,
)

_BY_PEOPLE: Final = {Turn.ACKNOWLEDGE.value, Turn.SILENCE.value, Turn.RESOLVE.value}
_STOPPED_BY: Final = "stopped by "


class Histories(Database):
    """What happened, read from all tables of a database."""

    __slots__ = ()

    def record_act(self, act: Act) -> None:
        """Put on record what somebody did; it stays there."""
        values = {name: getattr(act, name) for name in ("application", "release_digest", "who", "reason", "time")}
        with self._write() as db:
            db.execute(insert(acts).values(deed=act.deed.value, flow_run_id=act.flow_run_id, **values))

    def acts(self, application: str) -> list[Act]:
        """Return what was done to an application, or to all of them, the latest first."""
        names = ("application", "release_digest", "who", "reason", "time", "flow_run_id")
        query = select(acts).where(acts.c.application.in_([application, ""])).order_by(acts.c.number.desc())
        with self._read() as db:
            rows = db.execute(query).all()
        return [Act(deed=Deed(row.deed), **{name: getattr(row, name) for name in names}) for row in rows]

    def history(self, application: str) -> History:
        """Return all that happened to an application; without how many users met what was stopped."""
        with self._read() as db:

            def rows(table: Any) -> list[Any]:
                return list(db.execute(select(table).where(table.c.application == application)))

            written = sorted((as_plan(row) for row in rows(plans)), key=lambda plan: plan.revision, reverse=True)
            begun = [as_rollout(row) for row in rows(rollouts)]
            judged = [as_verdict(row) for row in rows(verdicts)]
            known = [Release.model_validate_json(row.record) for row in rows(releases)]
            entries = in_order(_entries(db, application))
        return History(
            application=application,
            entries=entries,
            plans=tuple(written),
            prevented=find_prevented(written, begun, judged),
            labels={release.digest: release.label for release in known},
        )


def _entries(db: Connection, application: str) -> Iterator[Entry]:
    yield from _of_plans(db, application)
    yield from _of_verdicts(db, application)
    yield from _of_rollouts(db, application)
    yield from _of_quarantine(db, application)
    yield from _of_alerts(db, application)
    yield from _of_experiments(db, application)
    for row in db.execute(select(acts).where(acts.c.application.in_([application, ""]))):
        found = {
            "release_digest": row.release_digest,
            "who": row.who,
            "why": row.reason,
            "flow_run_id": row.flow_run_id,
        }
        yield Entry(time=row.time, kind=Kind.ACT, what=row.deed, is_manual=row.who not in AUTOMATIC, **found)


def _of_plans(db: Connection, application: str) -> Iterator[Entry]:
    for row in db.execute(select(plans).where(plans.c.application == application)):
        plan = as_plan(row)
        yield Entry(
            time=plan.time,
            kind=Kind.PLAN,
            what=f"plan {plan.revision}",
            who=plan.author,
            why=plan.reason,
            shares=plan.shares(),
            flow_run_id=plan.flow_run_id,
        )


def _of_verdicts(db: Connection, application: str) -> Iterator[Entry]:
    for row in db.execute(select(verdicts).where(verdicts.c.application == application)):
        found = as_verdict(row)
        yield Entry(
            time=found.recorded,
            kind=Kind.VERDICT,
            what=f"{found.kind}: {found.verdict.outcome}",
            release_digest=found.verdict.release_digest,
            why=found.verdict.reason,
            flow_run_id=row.flow_run_id,
        )


def _of_rollouts(db: Connection, application: str) -> Iterator[Entry]:
    columns = (rollouts.c.release_digest, rollouts.c.deployment_id)
    mine = rollouts.c.application == application
    for row in db.execute(select(rollouts).where(mine)):
        digest = row.release_digest
        yield Entry(
            time=row.started, kind=Kind.ROLLOUT, what="registered", release_digest=digest, why=row.deployment_id
        )
    for row in db.execute(_joined(rollout_events, rollouts, "rollout_id", *columns).where(mine)):
        what = row.event if row.event == row.state else f"{row.event}: {row.state}"
        yield Entry(time=row.time, kind=Kind.ROLLOUT, what=what, release_digest=row.release_digest, why=row.reason)
    for row in db.execute(_joined(decisions, rollouts, "rollout_id", *columns).where(mine)):
        found = {"release_digest": row.release_digest, "who": row.who, "why": row.reason}
        yield Entry(time=row.time, kind=Kind.DECISION, what=row.action, is_manual=True, **found)


def _of_quarantine(db: Connection, application: str) -> Iterator[Entry]:
    for row in db.execute(select(quarantine).where(quarantine.c.application == application)):
        digest = row.release_digest
        yield Entry(time=row.time, kind=Kind.QUARANTINE, what="quarantined", release_digest=digest, why=row.reason)
        if row.lifted_by is not None:
            lifted = {"release_digest": digest, "who": row.lifted_by, "why": row.lifted_reason}
            yield Entry(time=row.lifted_time, kind=Kind.QUARANTINE, what="quarantine lifted", is_manual=True, **lifted)


def _of_alerts(db: Connection, application: str) -> Iterator[Entry]:
    columns = (alerts.c.release_digest, alerts.c.monitor, alerts.c.segment)
    query = _joined(alert_events, alerts, "alert_id", *columns).where(alerts.c.application == application)
    for row in db.execute(query):
        of = f" of {row.segment}" if row.segment else ""
        yield Entry(
            time=row.time,
            kind=Kind.ALERT,
            what=f"{row.monitor}{of}: {row.turn}",
            release_digest=row.release_digest,
            who=row.who,
            why=row.reason,
            is_manual=row.turn in _BY_PEOPLE and row.who not in AUTOMATIC,
        )


def _of_experiments(db: Connection, application: str) -> Iterator[Entry]:
    columns = (experiments.c.name, experiments.c.control)
    query = _joined(experiment_events, experiments, "experiment_id", *columns)
    for row in db.execute(query.where(experiments.c.application == application)):
        is_stop = row.turn == ExperimentTurn.STOP.value and row.reason.startswith(_STOPPED_BY)
        who, _, why = row.reason.removeprefix(_STOPPED_BY).partition(": ") if is_stop else ("", "", row.reason)
        what = f"{row.name}: {row.turn}"
        yield Entry(time=row.time, kind=Kind.EXPERIMENT, what=what, who=who, why=why, is_manual=is_stop)


def _joined(events: Any, table: Any, key: str, *columns: Any) -> Select[Any]:
    return select(events, *columns).join(table, table.c[key] == events.c[key])
