"""Rollouts, the releases they roll out, and quarantine."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tasks.errors import LeaseError, NotFoundError
from tasks.experiments.life import OVER
from tasks.release.lifecycle import FINISHED, Event, State, after
from tasks.release.model import Release
from tasks.release.proven import promoted_digests, proven_digests
from tasks.release.rollout import Action, Decision, Lease, Quarantined, Rollout
from tasks.stores.ledger.database import fence
from tasks.stores.ledger.plans import Plans
from tasks.stores.ledger.rows import as_rollout, rollout_values
from tasks.stores.ledger.schema import decisions, experiments, quarantine, releases, rollout_events, rollouts

_SHORTEST_PREFIX = 12


class Rollouts(Plans):
    """The rollouts of a database."""

    __slots__ = ()

    # --- releases: what a rollback must know even when the registry is away ---

    def remember(self, release: Release) -> None:
        """Keep a copy of a release; it is immutable, so keeping it twice changes nothing."""
        # Who comes second at the same moment finds it kept as well.
        with suppress(IntegrityError), self._write() as db:
            mine = (releases.c.application == release.application) & (releases.c.release_digest == release.digest)
            if db.execute(select(releases.c.release_digest).where(mine)).first() is None:
                values = {"application": release.application, "release_digest": release.digest}
                db.execute(insert(releases).values(record=release.model_dump_json(), **values))

    def recall(self, application: str, digest: str) -> Release:
        """Return a release that was rolled out before.

        Raises:
            NotFoundError: None of this digest was.
        """
        with self._read() as db:
            mine = (releases.c.application == application) & (releases.c.release_digest == digest)
            record = db.execute(select(releases.c.record).where(mine)).scalar()
        if record is None:
            raise NotFoundError(f"no release {digest[:12]} of {application} was ever rolled out here")
        return Release.model_validate_json(record)

    def resolve(self, application: str, name: str) -> str:
        """Return the digest of the release that people call ``name``: a digest, its first 12 digits, or a version.

        Raises:
            NotFoundError: No release of the application is called that, or several are.
        """
        with self._read() as db:
            rows = db.execute(select(releases.c.record).where(releases.c.application == application)).scalars().all()
        known = [Release.model_validate_json(row) for row in rows]
        found = {
            release.digest
            for release in known
            if (len(name) >= _SHORTEST_PREFIX and release.digest.startswith(name)) or release.spec.version == name
        }
        if len(found) == 1:
            return found.pop()
        names = ", ".join(f"{release.short} (version {release.spec.version})" for release in known) or "none"
        problem = "several releases" if found else "no release"
        raise NotFoundError(f"{problem} of {application} called {name!r}; rolled out here were: {names}")

    # --- rollouts ---

    def begin_rollout(self, lease: Lease, digest: str, deployment_id: str, now: datetime) -> Rollout:
        """Start a rollout, or take up the unfinished one of the same release.

        An unfinished rollout of another release that no user is given to is superseded.

        Raises:
            LeaseError: The lease was lost, another release is in the middle of its ramp, or an experiment is open.
        """
        plan = self.plan(lease.application)
        serving = plan.counts() if plan else {}
        with self._write() as db:
            fence(db, lease)
            _refuse_over_experiment(db, lease.application)
            for found in open_rollouts(db, lease.application):
                if found.release_digest == digest:
                    return found
                if found.release_digest in serving:
                    raise LeaseError(
                        f"release {found.release_digest[:12]} of {lease.application} is {found.state} and has users; "
                        f"start its rollout again to continue it, or end it: delivery abort {lease.application}"
                    )
                _set_aside(db, found, f"superseded by release {digest[:12]}", now)
            # Their order decides who comes back, so a clock that was set back must not change it.
            last = db.execute(select(func.max(rollouts.c.started)).where(rollouts.c.application == lease.application))
            latest = last.scalar()
            started = Rollout(
                rollout_id=uuid.uuid4().hex,
                application=lease.application,
                release_digest=digest,
                stable_digest=next((other for other in serving if other != digest), ""),
                deployment_id=deployment_id,
                state=State.REGISTERED,
                started=now if latest is None else max(now, latest + timedelta(microseconds=1)),
                changed=now,
                reason="",
            )
            db.execute(insert(rollouts).values(**rollout_values(started)))
        return started

    def advance(self, lease: Lease, rollout_id: str, happened: Event, reason: str, now: datetime) -> Rollout:
        """Put an event of a rollout on record and return the rollout in its new state.

        Raises:
            LeaseError: The lease was lost; nothing was written.
            DeliveryError: The event cannot happen in the state the rollout is in.
        """
        with self._write() as db:
            fence(db, lease)
            return _advance(db, rollout_id, happened, reason, now)

    def fail(self, lease: Lease, rollout_id: str, reason: str, now: datetime, *, quarantined: bool) -> Rollout:
        """Put a failure on record, before anything is undone, and the release into quarantine with it.

        Args:
            lease: The right to.
            rollout_id: The rollout that failed; one that is being undone already stays as it is.
            reason: The inequality that decided, or what a person said.
            now: The time, UTC.
            quarantined: Whether the release itself is to blame.

        Raises:
            LeaseError: The lease was lost; nothing was written.
            DeliveryError: The rollout cannot fail any more.
        """
        with self._write() as db:
            fence(db, lease)
            found = _rollout(db, rollout_id)
            if not found.is_undoing:
                found = _advance(db, rollout_id, Event.FAIL, reason, now)
            if quarantined:
                put_in_quarantine(db, found.application, found.release_digest, reason, now)
        return found

    def record_decision(self, rollout_id: str, decision: Decision) -> None:
        """Put a person's word on a rollout on record; it stays there, whatever is said later."""
        with self._write() as db:
            _rollout(db, rollout_id)
            db.execute(insert(decisions).values(rollout_id=rollout_id, **asdict(decision)))

    def decisions(self, rollout_id: str) -> list[Decision]:
        """Return what people said of a rollout, the first word first."""
        query = select(decisions).where(decisions.c.rollout_id == rollout_id).order_by(decisions.c.number)
        with self._read() as db:
            rows = db.execute(query).all()
        return [Decision(Action(row.action), row.buckets, row.who, row.reason, row.time) for row in rows]

    def rollouts(self, application: str) -> list[Rollout]:
        """Return the rollouts of an application, the latest started first."""
        query = select(rollouts).where(rollouts.c.application == application)
        with self._read() as db:
            found = [as_rollout(row) for row in db.execute(query)]
        return sorted(found, key=lambda rollout: (rollout.started, rollout.rollout_id), reverse=True)

    def last_hold(self, rollout_id: str) -> datetime | None:
        """Return when a rollout was held last, UTC, None where it never was."""
        mine = (rollout_events.c.rollout_id == rollout_id) & (rollout_events.c.event == Event.HOLD.value)
        query = select(rollout_events.c.time).where(mine).order_by(rollout_events.c.number.desc()).limit(1)
        with self._read() as db:
            return db.execute(query).scalar()

    def predecessor(self, application: str, digest: str) -> str | None:
        """Return the digest of the release that served when this one's latest rollout began, None where none did."""
        mine = (rollout for rollout in self.rollouts(application) if rollout.release_digest == digest)
        latest = next(mine, None)
        return (latest.stable_digest or None) if latest else None

    # --- quarantine ---

    def lift_quarantine(self, lease: Lease, digest: str, who: str, why: str, now: datetime) -> None:
        """End the quarantine of a release by a named override; the entry stays on record with who and why."""
        with self._write() as db:
            fence(db, lease)
            mine = (quarantine.c.application == lease.application) & (quarantine.c.release_digest == digest)
            db.execute(
                update(quarantine)
                .where(mine & quarantine.c.lifted_by.is_(None))
                .values(lifted_by=who, lifted_reason=why, lifted_time=now)
            )

    def proven(self, application: str) -> tuple[str, ...]:
        """Return the digests of the releases that may answer in place of another one, the best first."""
        rollouts = self.rollouts(application)
        failed = {digest for digest in promoted_digests(rollouts) if self.quarantined(application, digest)}
        return proven_digests(rollouts, failed)

    def quarantined(self, application: str, digest: str) -> Quarantined | None:
        """Return why a release is in quarantine, or None where it is not."""
        with self._read() as db:
            return find_quarantined(db, application, digest)


def _refuse_over_experiment(db: Connection, application: str) -> None:
    over = [stage.value for stage in OVER]
    row = db.execute(
        select(experiments.c.name, experiments.c.stage)
        .where(experiments.c.application == application)
        .where(experiments.c.stage.not_in(over))
    ).first()
    if row is not None:
        raise LeaseError(
            f"experiment {row.name} of {application} is {row.stage}, and no rollout begins over it; "
            f"wait for its end, or stop it: delivery experiment stop {application}"
        )


def open_rollouts(db: Connection, application: str) -> list[Rollout]:
    """Return the unfinished rollouts of an application."""
    query = (
        select(rollouts)
        .where(rollouts.c.application == application)
        .where(rollouts.c.state.not_in([state.value for state in FINISHED]))
    )
    return [as_rollout(row) for row in db.execute(query)]


def _rollout(db: Connection, rollout_id: str) -> Rollout:
    row = db.execute(select(rollouts).where(rollouts.c.rollout_id == rollout_id)).first()
    if row is None:
        raise NotFoundError(f"there is no rollout {rollout_id}")
    return as_rollout(row)


def _advance(db: Connection, rollout_id: str, happened: Event, reason: str, now: datetime) -> Rollout:
    state = after(_rollout(db, rollout_id).state, happened)
    values = {"state": state.value, "changed": now, "reason": reason}
    db.execute(update(rollouts).where(rollouts.c.rollout_id == rollout_id).values(**values))
    row = {"rollout_id": rollout_id, "event": happened.value, "state": state.value, "reason": reason, "time": now}
    db.execute(insert(rollout_events).values(**row))
    return _rollout(db, rollout_id)


def _set_aside(db: Connection, found: Rollout, reason: str, now: datetime) -> None:
    if not found.is_undoing:
        _advance(db, found.rollout_id, Event.FAIL, reason, now)
    _advance(db, found.rollout_id, Event.UNDONE, reason, now)


def put_in_quarantine(db: Connection, application: str, digest: str, reason: str, now: datetime) -> None:
    """Put a release into quarantine; one that is there already stays there for its first reason."""
    if find_quarantined(db, application, digest) is None:
        values = {"application": application, "release_digest": digest, "reason": reason, "time": now}
        db.execute(insert(quarantine).values(**values))


def find_quarantined(db: Connection, application: str, digest: str) -> Quarantined | None:
    """Return why a release is in quarantine, or None where it is not."""
    row = db.execute(
        select(quarantine)
        .where(quarantine.c.application == application)
        .where(quarantine.c.release_digest == digest)
        .where(quarantine.c.lifted_by.is_(None))
    ).first()
    return None if row is None else Quarantined(release_digest=digest, reason=row.reason, time=row.time)
