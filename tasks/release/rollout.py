"""What the ledger keeps of a rollout: who may change an application, how far a release came, what failed before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tasks.release.lifecycle import FINISHED, UNDOING, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to change one application, until somebody with a later token has it."""

    application: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout of one release, as the ledger keeps it.

    Attributes:
        rollout_id: Its id.
        application: What users call.
        release_digest: The release that is rolled out.
        stable_digest: Who served most users when it began, and takes them back; empty where nobody did.
        deployment_id: The name of this act of deploying: ``{model_id}-{version}-{UTC ISO time}``.
        state: Where it stands.
        started, changed: When it began and when it came to this state, UTC.
        reason: Why it is in this state: the inequality that decided, or what a person said.
    """

    rollout_id: str
    application: str
    release_digest: str
    stable_digest: str
    deployment_id: str
    state: State
    started: datetime
    changed: datetime
    reason: str

    @property
    def is_finished(self) -> bool:
        """Whether it no longer stands in the way of the next one."""
        return self.state in FINISHED

    @property
    def is_under_way(self) -> bool:
        """Whether the next step of it can be taken: it neither ended, nor is held, nor failed."""
        return not self.is_finished and not self.is_undoing and self.state is not State.HELD

    @property
    def is_undoing(self) -> bool:
        """Whether it failed and all that is left is to undo it."""
        return self.state in UNDOING


class Action(StrEnum):
    """What a person can say of a rollout that is under way, besides aborting it."""

    APPROVE = "approve"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's word on a rollout.

    Attributes:
        action: What it was.
        buckets: The share of the release, of 1,000, from which it may go on; 0 is that of its last step.
        who, reason: For the record.
        time: When, UTC.
    """

    action: Action
    buckets: int
    who: str
    reason: str
    time: datetime

    def __str__(self) -> str:
        """Return the word in one line."""
        return f"{'approved' if self.action is Action.APPROVE else 'held'} by {self.who}: {self.reason}"


def words_since(decisions: Sequence[Decision], held: datetime | None) -> list[Decision]:
    """Return the words that still count: those said after a rollout was held last.

    Args:
        decisions: What people said of the rollout.
        held: When it was held last, UTC; None: it never was.
    """
    return [word for word in decisions if held is None or word.time > held]


def find_approval(decisions: Sequence[Decision], buckets: int, *, is_last: bool) -> Decision | None:
    """Return the first approval of going on from a share, None where there is none.

    Args:
        decisions: What people said of the rollout, and still counts.
        buckets: The share, of 1,000.
        is_last: Whether the question is if all users may come next: then an approval in advance counts too.
    """
    answers = {buckets, 0} if is_last else {buckets}
    return next((word for word in decisions if word.action is Action.APPROVE and word.buckets in answers), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A release that failed: not a rollback target, and not promoted again without an override."""

    release_digest: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a flow that changes an application ended.

    Attributes:
        name: One word: Promoted, Held, Rejected, RolledBack, NothingToDo, NoCandidate.
        message: The inequality, or the reason, that decided it.
        is_failure: Whether the flow run is shown as failed.
        release_digest: The release that serves, or was tried.
    """

    name: str
    message: str
    is_failure: bool
    release_digest: str
