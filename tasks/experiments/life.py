"""The life of an experiment as the ledger keeps it: a pure state machine, beside that of a rollout.

As there, what failed or was stopped is put on record before anything is undone, so that whoever takes up an experiment
that was killed takes its users back too. An experiment whose users keep their arms (``kept``) is guarded as before and
still stands in the way of the next one and of every rollout, until its time is over or somebody ends it.

A control that breaks a limit ends its experiment too: what it stands for can no longer be compared with, and the arms
beside it are not to blame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from tasks.errors import DeliveryError
from tasks.experiments.design import ExperimentDesign
from tasks.experiments.experiment import Experiment, Finding
from tasks.monitors.alerts import Signal
from tasks.monitors.verdict import Outcome


class Stage(StrEnum):
    """Where an experiment stands."""

    PREPARING = "preparing"
    RUNNING = "running"
    ENDING = "ending"
    KEPT = "kept"
    ENDED = "ended"
    REJECTING = "rejecting"
    REJECTED = "rejected"
    REVERTING = "reverting"
    ROLLED_BACK = "rolled back"
    FALTERING = "ending for its control"
    FALTERED = "ended for its control"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Turn(StrEnum):
    """What can happen to an experiment."""

    SHARE = "share users out"
    DECIDE = "decide"
    KEEP = "keep"
    EXPIRE = "time is over"
    FAIL = "fail"
    FALTER = "control fails"
    STOP = "stop"
    DONE = "done"


TURNS: Final[Mapping[tuple[Stage, Turn], Stage]] = {
    (Stage.PREPARING, Turn.SHARE): Stage.RUNNING,
    (Stage.PREPARING, Turn.FAIL): Stage.REJECTING,
    (Stage.PREPARING, Turn.STOP): Stage.STOPPING,
    (Stage.RUNNING, Turn.SHARE): Stage.RUNNING,
    (Stage.RUNNING, Turn.DECIDE): Stage.ENDING,
    (Stage.RUNNING, Turn.KEEP): Stage.KEPT,
    (Stage.RUNNING, Turn.FAIL): Stage.REVERTING,
    (Stage.RUNNING, Turn.FALTER): Stage.FALTERING,
    (Stage.RUNNING, Turn.STOP): Stage.STOPPING,
    (Stage.ENDING, Turn.FAIL): Stage.REVERTING,
    (Stage.ENDING, Turn.STOP): Stage.STOPPING,
    (Stage.ENDING, Turn.DONE): Stage.ENDED,
    (Stage.KEPT, Turn.SHARE): Stage.KEPT,
    (Stage.KEPT, Turn.EXPIRE): Stage.ENDING,
    (Stage.KEPT, Turn.FAIL): Stage.REVERTING,
    (Stage.KEPT, Turn.FALTER): Stage.FALTERING,
    (Stage.KEPT, Turn.STOP): Stage.STOPPING,
    (Stage.FALTERING, Turn.FAIL): Stage.REVERTING,
    (Stage.FALTERING, Turn.DONE): Stage.FALTERED,
    (Stage.REJECTING, Turn.DONE): Stage.REJECTED,
    (Stage.REVERTING, Turn.DONE): Stage.ROLLED_BACK,
    (Stage.STOPPING, Turn.FAIL): Stage.REVERTING,
    (Stage.STOPPING, Turn.DONE): Stage.STOPPED,
}
"""Every transition there is."""

OVER: Final = frozenset({Stage.ENDED, Stage.REJECTED, Stage.ROLLED_BACK, Stage.FALTERED, Stage.STOPPED})
"""Stages in which an experiment stands in nobody's way."""
UNDOING: Final = frozenset({Stage.REJECTING, Stage.REVERTING, Stage.FALTERING, Stage.STOPPING})
"""Stages in which all that is left is to take the users back."""


def stage_after(stage: Stage, turn: Turn) -> Stage:
    """Return the stage that follows.

    Raises:
        DeliveryError: The turn cannot be taken in this stage; the message names those that can.
    """
    try:
        return TURNS[stage, turn]
    except KeyError:
        possible = ", ".join(sorted(t for s, t in TURNS if s is stage)) or "nothing: it is over"
        raise DeliveryError(f"an experiment that is {stage} cannot {turn}; possible: {possible}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What an experiment came to, put on record before its users are given to anybody.

    Attributes:
        ending: ``Concluded``, or ``Inconclusive`` where the sample was not reached or nothing can be compared.
        winner: Digest of the release that every user gets from now on; None: nobody but the control or the arms.
        message: The result in one line.
        document: The report for machines: effects, intervals, findings.
        markdown: The report for people.
    """

    ending: str
    winner: str | None
    message: str
    document: Mapping[str, Any]
    markdown: str

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        names = ("ending", "winner", "message", "document", "markdown")
        return json.dumps({name: getattr(self, name) for name in names}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Decided:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(text))


def judge_guard(
    application: str, record: ExperimentRecord | None, guarded_until: datetime | None, now: datetime
) -> Signal:
    """Return whether somebody guards what users meet in an experiment, as the monitor ``experiment`` says it.

    Args:
        application: What users call.
        record: Its experiment that is not over, None where there is none.
        guarded_until: When the lease on the application runs out, UTC; None where nobody holds it.
        now: The time, UTC.
    """
    has_users = record is not None and record.stage not in {Stage.PREPARING, Stage.REJECTING}
    is_alone = has_users and (guarded_until is None or guarded_until <= now)
    what = f"experiment {record.name} is {record.stage}" if record is not None else "no experiment is under way"
    way_out = f": nobody guards its arms; start it again, or: delivery experiment stop {application}"
    return Signal(
        application=application,
        release_digest="",
        monitor="experiment",
        outcome=Outcome.ERROR if is_alone else Outcome.PASS,
        reason=what + (way_out if is_alone else ""),
        window_end=now,
    )


def lack_of_test(record: ExperimentRecord | None, digest: str) -> str:
    """Return why an experiment is no test that a release came through, in words; empty where it is one.

    Args:
        record: The experiment; None where there was none of its name.
        digest: The release.
    """
    if record is None:
        return "has not been run"
    if digest not in record.arms:
        return "compared other releases"
    if record.decided is None or record.stage is not Stage.ENDED:
        return f"is {record.stage}"
    if record.decided.ending != "Concluded":
        return f"ended {record.decided.ending}: {record.decided.message}"
    mine = [effect for effect in record.decided.document["effects"] if effect["arm"] == digest]
    worse = [effect["metric"] for effect in mine if effect["finding"] == Finding.WORSE]
    return f"found it worse in {', '.join(worse)}" if worse else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRecord:
    """One experiment, as the ledger keeps it.

    Attributes:
        experiment_id: Its id.
        application: What users call.
        name: What people call it, unique in its application.
        control: Digest of the release that the others are compared with, and that takes the users back.
        arms: Digest and weight of every release, the control's too.
        users_per_arm: How many users of each arm it waits for; fixed when it began.
        design: What was asked for.
        stage: Where it stands.
        started, changed: When it began and when it came to this stage, UTC.
        reason: Why it is in this stage.
        decided: What it came to; None before.
    """

    experiment_id: str
    application: str
    name: str
    control: str
    arms: Mapping[str, float]
    users_per_arm: int
    design: ExperimentDesign
    stage: Stage
    started: datetime
    changed: datetime
    reason: str
    decided: Decided | None = None

    @property
    def is_over(self) -> bool:
        """Whether it stands in nobody's way."""
        return self.stage in OVER

    @property
    def is_undoing(self) -> bool:
        """Whether all that is left is to take the users back."""
        return self.stage in UNDOING

    @property
    def is_under_way(self) -> bool:
        """Whether the next step of it can be taken."""
        return self.stage in {Stage.PREPARING, Stage.RUNNING, Stage.KEPT}

    @property
    def kept_since(self) -> datetime:
        """The end of the sample, UTC: since then the arms keep their users, where they do."""
        return datetime.fromisoformat(self.decided.document["window"][1]) if self.decided else self.changed

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms but for the control."""
        return tuple(arm for arm in self.arms if arm != self.control)

    @property
    def experiment(self) -> Experiment:
        """Who is compared with whom."""
        return Experiment(name=self.name, control=self.control, arms=self.arms)
