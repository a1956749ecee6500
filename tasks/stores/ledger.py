"""The ledger: traffic plans, rollouts, verdicts, quarantine and leases, in SQL (SQLite or PostgreSQL).

Two rules make it safe to be killed at any moment. A traffic plan is written by compare-and-swap: its revision is
the next one, or nothing is written. And a rollout writes only while it holds the lease of its application: every
lease has a token that grows, and a write with an older token is refused.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tasks.errors import ConflictError, LeaseError, NotFoundError
from tasks.monitors.verdict import RecordedVerdict, Verdict
from tasks.release.lifecycle import FINISHED, Event, State, after
from tasks.release.rollout import Lease, Quarantined, Rollout
from tasks.stores.ledger_rows import (
    as_plan,
    as_rollout,
    as_verdict,
    find_quarantined,
    plan_values,
    rollout_values,
    verdict_values,
)
from tasks.stores.ledger_schema import leases, metadata, plans, quarantine, rollout_events, rollouts, verdicts
from tasks.traffic.plan import Plan

LEASE_S = 30.0
"""How long a lease lives without a heartbeat, seconds."""
_READS = "ledger_reads"
_SCHEMA_LOCK = 7_205_759
_CONNECTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was decided, and what is in force.

    Args:
        url: SQLAlchemy URL of the database; its tables are created where they are missing.
    """

    url: str

    @property
    def _engine(self) -> Engine:
        with _CONNECTING:  # threads that come first together would each make an engine
            return _connect(self.url)

    def _write(self) -> AbstractContextManager[Connection]:
        return self._engine.begin()

    def _read(self) -> Connection:
        return self._engine.connect().execution_options(**{_READS: True})

    def close(self) -> None:
        """Close the connections this process has; the next call opens new ones."""
        self._engine.dispose()

    # --- traffic plans ---

    def plan(self, application: str) -> Plan | None:
        """Return the plan in force, or None where the application has none yet."""
        history = self.plans(application, limit=1)
        return history[0] if history else None

    def plans(self, application: str, limit: int = 1000) -> list[Plan]:
        """Return the plans of an application, the newest first."""
        query = select(plans).where(plans.c.application == application).order_by(plans.c.revision.desc()).limit(limit)
        with self._read() as db:
            return [as_plan(row) for row in db.execute(query)]

    def applications(self) -> list[str]:
        """Return the applications that have a plan, in alphabetical order."""
        with self._read() as db:
            return list(db.execute(select(plans.c.application).distinct().order_by(plans.c.application)).scalars())

    def write_plan(self, plan: Plan, lease: Lease) -> None:
        """Put a plan on record as the one in force: compare-and-swap on the revision, fenced by the lease.

        Raises:
            ConflictError: Another plan of this revision exists; nothing was written.
            LeaseError: The lease was lost; nothing was written.
        """
        with self._write() as db:
            self._fence(db, lease)
            newest = db.execute(
                select(func.max(plans.c.revision)).where(plans.c.application == plan.application)
            ).scalar()
            if (newest or 0) + 1 != plan.revision:
                raise ConflictError(_conflict(plan, newest or 0))
            try:
                db.execute(insert(plans).values(**plan_values(plan)))
            except IntegrityError as error:
                raise ConflictError(_conflict(plan, plan.revision)) from error

    def predecessor(self, application: str, digest: str) -> str | None:
        """Return the digest of the release that held most traffic before another one first got any."""
        history = self.plans(application)[::-1]
        first = next((index for index, plan in enumerate(history) if digest in plan.counts()), None)
        return next(iter(history[first - 1].counts())) if first else None

    # --- leases ---

    def acquire(self, application: str, holder: str, now: datetime, *, seize: bool = False) -> Lease:
        """Take the lease of an application.

        Args:
            application: What is to be changed.
            holder: Who asks, for the message others get; the same holder may take its own lease again.
            now: The time, UTC.
            seize: Take it even from a living holder, whose writes are refused from then on. Only a rollback does.

        Raises:
            LeaseError: Somebody else holds it; the message says who and until when.
        """
        with self._write() as db:
            row = db.execute(select(leases).where(leases.c.application == application).with_for_update()).first()
            if row is not None and not seize and row.holder != holder and row.expires > now:
                raise LeaseError(
                    f"{application} is being changed by {row.holder}; wait until it ends, or roll it back "
                    f"(its lease runs until {row.expires:%H:%M:%S} UTC)"
                )
            token = (row.token if row is not None else 0) + 1
            values = {"holder": holder, "token": token, "expires": now + timedelta(seconds=LEASE_S)}
            if row is None:
                try:
                    db.execute(insert(leases).values(application=application, **values))
                except IntegrityError as error:
                    raise LeaseError(f"somebody else began to change {application} at this moment") from error
            else:
                db.execute(update(leases).where(leases.c.application == application).values(**values))
        return Lease(application=application, holder=holder, token=token)

    def lease_expiry(self, application: str) -> datetime | None:
        """Return when the lease of an application runs out, None where nobody ever held it."""
        with self._read() as db:
            return db.execute(select(leases.c.expires).where(leases.c.application == application)).scalar()

    def renew(self, lease: Lease, now: datetime) -> None:
        """Prolong a lease.

        Raises:
            LeaseError: It was lost meanwhile.
        """
        with self._write() as db:
            self._fence(db, lease)
            expires = now + timedelta(seconds=LEASE_S)
            db.execute(update(leases).where(leases.c.application == lease.application).values(expires=expires))

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back; one that was lost meanwhile stays with its new holder."""
        with self._write() as db:
            mine = (leases.c.application == lease.application) & (leases.c.token == lease.token)
            db.execute(update(leases).where(mine).values(expires=datetime(1970, 1, 1, tzinfo=UTC)))

    def _fence(self, db: Connection, lease: Lease) -> None:
        row = db.execute(select(leases).where(leases.c.application == lease.application).with_for_update()).first()
        if row is None or row.token != lease.token:
            who = row.holder if row is not None else "nobody"
            raise LeaseError(f"{lease.holder} no longer holds {lease.application}: {who} does; nothing was written")

    # --- rollouts ---

    def begin_rollout(self, lease: Lease, digest: str, deployment_id: str, now: datetime) -> Rollout:
        """Start a rollout, or take up the unfinished one of the same release.

        Raises:
            LeaseError: The lease was lost, or a rollout of another release is unfinished.
        """
        with self._write() as db:
            self._fence(db, lease)
            open_one = db.execute(
                select(rollouts)
                .where(rollouts.c.application == lease.application)
                .where(rollouts.c.state.not_in([state.value for state in FINISHED]))
            ).first()
            if open_one is not None:
                found = as_rollout(open_one)
                if found.release_digest == digest:
                    return found
                raise LeaseError(
                    f"the rollout of release {found.release_digest[:12]} of {lease.application} is {found.state} and "
                    f"unfinished; start it again to continue, or roll it back first"
                )
            started = Rollout(
                rollout_id=uuid.uuid4().hex, application=lease.application, release_digest=digest,
                deployment_id=deployment_id, state=State.REGISTERED, started=now, changed=now, reason="",
            )  # fmt: skip
            db.execute(insert(rollouts).values(**rollout_values(started)))
        return started

    def advance(self, lease: Lease, rollout_id: str, happened: Event, reason: str, now: datetime) -> Rollout:
        """Put an event of a rollout on record and return the rollout in its new state.

        Raises:
            LeaseError: The lease was lost; nothing was written.
            DeliveryError: The event cannot happen in the state the rollout is in.
        """
        with self._write() as db:
            self._fence(db, lease)
            row = db.execute(select(rollouts).where(rollouts.c.rollout_id == rollout_id)).first()
            if row is None:
                raise NotFoundError(f"there is no rollout {rollout_id}")
            state = after(State(row.state), happened)
            values = {"state": state.value, "changed": now, "reason": reason}
            db.execute(update(rollouts).where(rollouts.c.rollout_id == rollout_id).values(**values))
            db.execute(
                insert(rollout_events).values(
                    rollout_id=rollout_id, event=happened.value, state=state.value, reason=reason, time=now
                )
            )
            row = db.execute(select(rollouts).where(rollouts.c.rollout_id == rollout_id)).one()
        return as_rollout(row)

    def rollouts(self, application: str) -> list[Rollout]:
        """Return the rollouts of an application, the latest started first."""
        query = select(rollouts).where(rollouts.c.application == application)
        with self._read() as db:
            found = [as_rollout(row) for row in db.execute(query)]
        return sorted(found, key=lambda rollout: (rollout.started, rollout.rollout_id), reverse=True)

    # --- verdicts ---

    def record_verdict(
        self, verdict: Verdict, *, kind: str, flow_run_id: str | None = None, recorded: datetime | None = None
    ) -> str:
        """Put a verdict on record; the same release, window and kind again replaces it.

        Args:
            verdict: What was judged.
            kind: What judged: ``smoke``, ``ramp``, ``evaluation`` or ``costs``.
            flow_run_id: The Prefect flow run that judged, where one did.
            recorded: When, UTC; the default is the present.

        Returns:
            The id of the verdict.
        """
        same = (
            (verdicts.c.application == verdict.application)
            & (verdicts.c.release_digest == verdict.release_digest)
            & (verdicts.c.window_start == verdict.window_start)
            & (verdicts.c.window_end == verdict.window_end)
            & (verdicts.c.kind == kind)
        )
        values = verdict_values(verdict) | {"kind": kind, "flow_run_id": flow_run_id}
        values["recorded"] = recorded or datetime.now(UTC)
        with self._write() as db:
            found = db.execute(select(verdicts.c.verdict_id).where(same)).scalar()
            verdict_id = str(found or uuid.uuid4().hex)
            db.execute(delete(verdicts).where(same))
            db.execute(insert(verdicts).values(verdict_id=verdict_id, **values))
        return verdict_id

    def verdicts(self, application: str) -> list[RecordedVerdict]:
        """Return the verdicts of an application, the latest recorded first."""
        query = select(verdicts).where(verdicts.c.application == application)
        with self._read() as db:
            found = [as_verdict(row) for row in db.execute(query)]
        return sorted(found, key=lambda row: (row.recorded, row.verdict_id), reverse=True)

    def verdict(self, verdict_id: str) -> RecordedVerdict:
        """Return one verdict.

        Raises:
            NotFoundError: There is none of this id.
        """
        with self._read() as db:
            row = db.execute(select(verdicts).where(verdicts.c.verdict_id == verdict_id)).first()
        if row is None:
            raise NotFoundError(f"there is no verdict {verdict_id}")
        return as_verdict(row)

    # --- quarantine ---

    def put_in_quarantine(self, lease: Lease, digest: str, reason: str, now: datetime) -> None:
        """Keep a release from being promoted or rolled back to; doing it twice keeps the first reason."""
        with self._write() as db:
            self._fence(db, lease)
            if find_quarantined(db, lease.application, digest) is None:
                db.execute(
                    insert(quarantine).values(
                        application=lease.application, release_digest=digest, reason=reason, time=now
                    )
                )

    def lift_quarantine(self, lease: Lease, digest: str, who: str, why: str, now: datetime) -> None:
        """End the quarantine of a release by a named override; the entry stays on record with who and why."""
        with self._write() as db:
            self._fence(db, lease)
            mine = (quarantine.c.application == lease.application) & (quarantine.c.release_digest == digest)
            db.execute(
                update(quarantine)
                .where(mine & quarantine.c.lifted_by.is_(None))
                .values(lifted_by=who, lifted_reason=why, lifted_time=now)
            )

    def quarantined(self, application: str, digest: str) -> Quarantined | None:
        """Return why a release is in quarantine, or None where it is not."""
        with self._read() as db:
            return find_quarantined(db, application, digest)


@cache
def _connect(url: str) -> Engine:
    """Return the one engine a process has for a database, with its tables made."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        _serialise_writers(engine)
    with engine.begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))  # two flows may start side by side
        metadata.create_all(db)
    return engine


def _serialise_writers(engine: Engine) -> None:
    """Make SQLite wait for other writers instead of failing, and take the write lock at once."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late and be deferred
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(_READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _conflict(plan: Plan, newest: int) -> str:
    return (
        f"the traffic plan of {plan.application} is at revision {newest}, revision {plan.revision} cannot follow: "
        f"somebody changed it meanwhile; read it and decide again"
    )
