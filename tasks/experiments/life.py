"""The life of an experiment as the ledger keeps it: a pure state machine, beside that of a rollout.

As there, what failed or was stopped is put on record before anything is undone, so that whoever takes up an experiment
that was killed takes its users back too. An experiment whose users keep their arms (``kept``) still stands in the way
of the next one and of every rollout: somebody must end it.
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
    STOPPING = "stopping"
    STOPPED = "stopped"


class Turn(StrEnum):
    """What can happen to an experiment."""

    SHARE = "share users out"
    DECIDE = "decide"
    KEEP = "keep"
    FAIL = "fail"
    STOP = "stop"
    DONE = "done"


TURNS: Final[Mapping[tuple[Stage, Turn], Stage]] = {
    (Stage.PREPARING, Turn.SHARE): Stage.RUNNING,
    (Stage.PREPARING, Turn.FAIL): Stage.REJECTING,
    (Stage.PREPARING, Turn.STOP): Stage.STOPPING,
    (Stage.RUNNING, Turn.SHARE): Stage.RUNNING,
    (Stage.RUNNING, Turn.DECIDE): Stage.ENDING,
    (Stage.RUNNING, Turn.FAIL): Stage.REVERTING,
    (Stage.RUNNING, Turn.STOP): Stage.STOPPING,
    (Stage.ENDING, Turn.KEEP): Stage.KEPT,
    (Stage.ENDING, Turn.FAIL): Stage.REVERTING,
    (Stage.ENDING, Turn.STOP): Stage.STOPPING,
    (Stage.ENDING, Turn.DONE): Stage.ENDED,
    (Stage.KEPT, Turn.FAIL): Stage.REVERTING,
    (Stage.KEPT, Turn.STOP): Stage.STOPPING,
    (Stage.REJECTING, Turn.DONE): Stage.REJECTED,
    (Stage.REVERTING, Turn.DONE): Stage.ROLLED_BACK,
    (Stage.STOPPING, Turn.FAIL): Stage.REVERTING,
    (Stage.STOPPING, Turn.DONE): Stage.STOPPED,
}
"""Every transition there is."""

OVER: Final = frozenset({Stage.ENDED, Stage.REJECTED, Stage.ROLLED_BACK, Stage.STOPPED})
"""Stages in which an experiment stands in nobody's way."""
UNDOING: Final = frozenset({Stage.REJECTING, Stage.REVERTING, Stage.STOPPING})
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
        return self.stage in {Stage.PREPARING, Stage.RUNNING}

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms but for the control."""
        return tuple(arm for arm in self.arms if arm != self.control)

    @property
    def experiment(self) -> Experiment:
        """Who is compared with whom."""
        return Experiment(name=self.name, control=self.control, arms=self.arms)
