"""Experiments: what was asked for, where they stand, what they came to."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from tasks.errors import InputError, LeaseError, NotFoundError, QuarantineError
from tasks.experiments.design import ExperimentDesign
from tasks.experiments.experiment import Experiment
from tasks.experiments.life import Decided, ExperimentRecord, Stage, Turn, stage_after
from tasks.release.lifecycle import Event, State
from tasks.release.rollout import Lease, Rollout
from tasks.stores.ledger.database import fence
from tasks.stores.ledger.rollouts import Rollouts, find_quarantined, open_rollouts, put_in_quarantine
from tasks.stores.ledger.rows import as_experiment, experiment_values, rollout_values
from tasks.stores.ledger.schema import experiment_events, experiments, rollout_events, rollouts


class Experiments(Rollouts):
    """The experiments of a database."""

    __slots__ = ()

    def experiments(self, application: str) -> list[ExperimentRecord]:
        """Return the experiments of an application, the latest started first."""
        with self._read() as db:
            found = _experiments(db, application)
        return sorted(found, key=lambda record: (record.started, record.experiment_id), reverse=True)

    def open_experiment(self, application: str) -> ExperimentRecord | None:
        """Return the experiment of an application that is not over, None where there is none."""
        return next((record for record in self.experiments(application) if not record.is_over), None)

    def begin_experiment(
        self, lease: Lease, design: ExperimentDesign, experiment: Experiment, users: int, now: datetime
    ) -> ExperimentRecord:
        """Start an experiment, or take up the one of this name where it stands, also one that is over.

        Args:
            lease: The right to.
            design: What was asked for.
            experiment: The same by the digests of its releases.
            users: Users of each arm to wait for.
            now: The time, UTC.

        Raises:
            LeaseError: The lease was lost, or another experiment or a rollout of the application is unfinished.
            InputError: The experiment of this name is another one, or the control is not what serves.
            QuarantineError: An arm failed before.
        """
        plan = self.plan(lease.application)
        serving = tuple(plan.counts()) if plan else ()
        with self._write() as db:
            fence(db, lease)
            for found in _experiments(db, lease.application):
                if found.name == design.name:
                    return _same(found, design, experiment)
                if not found.is_over:
                    raise LeaseError(
                        f"experiment {found.name} of {found.application} is {found.stage}; wait for its end, "
                        f"or stop it: delivery experiment stop {found.application}"
                    )
            _refuse(db, lease.application, experiment, serving)
            begun = ExperimentRecord(
                experiment_id=uuid.uuid4().hex,
                application=lease.application,
                name=design.name,
                control=experiment.control,
                arms=experiment.arms,
                users_per_arm=users,
                design=design,
                stage=Stage.PREPARING,
                started=now,
                changed=now,
                reason="",
            )
            db.execute(insert(experiments).values(**experiment_values(begun)))
        return begun

    def turn_experiment(
        self,
        lease: Lease,
        record: ExperimentRecord,
        turn: Turn,
        reason: str,
        now: datetime,
        *,
        decided: Decided | None = None,
        blamed: str | None = None,
    ) -> ExperimentRecord:
        """Put a turn of an experiment on record, before anything follows from it.

        Args:
            lease: The right to.
            record: The experiment. A failure of one that is being undone for a failure already changes no stage.
            turn: What happened.
            reason: The inequality that decided, or what a person said.
            now: The time, UTC.
            decided: What it came to, with ``Turn.DECIDE``.
            blamed: Digest of a release to put into quarantine with it.

        Raises:
            LeaseError: The lease was lost; nothing was written.
            DeliveryError: The turn cannot be taken any more.
        """
        with self._write() as db:
            fence(db, lease)
            found = _experiment(db, record.experiment_id)
            if not (turn is Turn.FAIL and found.stage in {Stage.REJECTING, Stage.REVERTING}):
                found = _turn(db, found, turn, reason, now, decided=decided)
            if blamed is not None:
                put_in_quarantine(db, found.application, blamed, reason, now)
        return found

    def crown(
        self, lease: Lease, record: ExperimentRecord, deployment_id: str, reason: str, now: datetime
    ) -> ExperimentRecord:
        """End an experiment whose winner has every user, and put the winner on record as promoted, in one.

        Raises:
            LeaseError: The lease was lost; nothing was written.
            DeliveryError: The experiment was not decided, or for nobody.
        """
        with self._write() as db:
            fence(db, lease)
            ended = _turn(db, _experiment(db, record.experiment_id), Turn.DONE, reason, now)
            if ended.decided is None or ended.decided.winner is None:
                raise InputError.of("winner", None, "the digest of the release that has every user")
            won = Rollout(
                rollout_id=uuid.uuid4().hex,
                application=ended.application,
                release_digest=ended.decided.winner,
                stable_digest=ended.control,
                deployment_id=deployment_id,
                state=State.PROMOTED,
                started=now,
                changed=now,
                reason=reason,
            )
            db.execute(insert(rollouts).values(**rollout_values(won)))
            row = {"rollout_id": won.rollout_id, "event": Event.PROMOTE.value, "state": won.state.value}
            db.execute(insert(rollout_events).values(reason=reason, time=now, **row))
        return ended


def _same(found: ExperimentRecord, design: ExperimentDesign, experiment: Experiment) -> ExperimentRecord:
    if found.design != design or dict(found.arms) != dict(experiment.arms):
        raise InputError(
            f"experiment {found.name} of {found.application} is {found.stage} since "
            f"{found.changed:%Y-%m-%d %H:%M} UTC, and was asked for otherwise; give the new one another name"
        )
    return found


def _refuse(db: Connection, application: str, experiment: Experiment, serving: tuple[str, ...]) -> None:
    for rollout in open_rollouts(db, application):
        raise LeaseError(
            f"release {rollout.release_digest[:12]} of {application} is {rollout.state}; start its rollout again to "
            f"continue it, or end it: delivery abort {application}"
        )
    if serving != (experiment.control,):
        given = ", ".join(digest[:12] for digest in serving) or "nobody yet"
        raise InputError.of(
            "control", experiment.control[:12], f"the release that serves every user of {application}: {given}"
        )
    for arm in experiment.arms:
        if (kept := find_quarantined(db, application, arm)) is not None:
            raise QuarantineError(
                f"release {arm[:12]} is in quarantine since {kept.time:%Y-%m-%d %H:%M} UTC: {kept.reason}; "
                f"roll it out with an override reason, or leave it out of the experiment"
            )


def _experiments(db: Connection, application: str) -> list[ExperimentRecord]:
    query = select(experiments).where(experiments.c.application == application)
    return [as_experiment(row) for row in db.execute(query)]


def _experiment(db: Connection, experiment_id: str) -> ExperimentRecord:
    row = db.execute(select(experiments).where(experiments.c.experiment_id == experiment_id)).first()
    if row is None:
        raise NotFoundError(f"there is no experiment {experiment_id}")
    return as_experiment(row)


def _turn(
    db: Connection, found: ExperimentRecord, turn: Turn, reason: str, now: datetime, *, decided: Decided | None = None
) -> ExperimentRecord:
    turned = replace(
        found,
        stage=stage_after(found.stage, turn),
        changed=now,
        reason=reason,
        decided=decided or found.decided,
    )
    mine = experiments.c.experiment_id == found.experiment_id
    db.execute(update(experiments).where(mine).values(**experiment_values(turned)))
    row = {"experiment_id": found.experiment_id, "turn": turn.value, "stage": turned.stage.value}
    db.execute(insert(experiment_events).values(reason=reason, time=now, **row))
    return turned
