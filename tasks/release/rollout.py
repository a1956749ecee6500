"""What the ledger keeps of a rollout: who may change an application, how far a release came, what failed before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tasks.release.lifecycle import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to change one application, until somebody with a later token has it."""

    application: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout of one release, as the ledger keeps it."""

    rollout_id: str
    application: str
    release_digest: str
    deployment_id: str
    state: State
    started: datetime
    changed: datetime
    reason: str


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
