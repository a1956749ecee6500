"""The steps of a person's word on a rollout."""

from __future__ import annotations

from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import LeaseError, NotFoundError
from tasks.release.acting import change, now
from tasks.release.lifecycle import Event, State
from tasks.release.rollback_steps import ABORTED
from tasks.release.rollout import Action, Decision, Ending, Rollout
from tasks.release.telling import announce, as_state, ending_of
from tasks.settings import Settings
from tasks.stores.ledger import Ledger

__all__ = ["as_state", "ending_of", "find_open", "nothing_open", "say", "why_aborted"]
HAS_USERS = frozenset({State.RAMPING, State.WAITING})


@task(cache_policy=NO_CACHE)
def find_open(where: Settings, application: str) -> str | None:
    """Return the digest of the release whose rollout is unfinished, None where there is none."""
    found = _unfinished(where, application)
    return found.release_digest if found is not None else None


def why_aborted(who: str, reason: str) -> str:
    """Return the reason of the rollback that an abort is."""
    return f"{ABORTED}{who}: {reason}"[:2000]


def nothing_open(application: str) -> Ending:
    """End an abort that found no rollout to abort."""
    message = (
        f"no rollout of {application} is under way; to replace what serves, roll it back; "
        f"to end an experiment: delivery experiment stop {application}"
    )
    return Ending(name="NothingToDo", message=message, is_failure=False, release_digest="")


@task(cache_policy=NO_CACHE)
def say(where: Settings, application: str, action: Literal["approve", "hold"], who: str, reason: str) -> Ending:
    """Put a person's word on record; the rollout sees it at its next look.

    An approval answers the question that is asked. Given before any is, it lets the last step go on. A hold counts
    until the rollout was held for it; where nobody watches the rollout, it is held here.

    Raises:
        NotFoundError: No rollout of the application waits or is under way.
    """
    rollout = _unfinished(where, application)
    if rollout is None or rollout.is_undoing:
        raise NotFoundError(f"no rollout of {application} is under way, so there is nothing to {action}")
    wish, ledger = Action(action), Ledger(where.ledger)
    if wish is Action.HOLD and (refusal := _refuse_hold(where, rollout)) is not None:
        return refusal
    plan = ledger.plan(application) if rollout.state is State.WAITING else None
    share = plan.counts().get(rollout.release_digest, 0) if plan else 0
    decision = Decision(wish, share, who, reason, now())
    ledger.record_decision(rollout.rollout_id, decision)
    name, effect = "Approved", ""
    if wish is Action.HOLD:
        name, effect = _hold(where, rollout, decision)
    message = f"release {rollout.release_digest[:12]} of {application} is {decision}{effect}"
    ending = Ending(name=name, message=message, is_failure=False, release_digest=rollout.release_digest)
    announce(application, f"delivery.rollout.{name.lower()}", ending)
    return ending


def _unfinished(where: Settings, application: str) -> Rollout | None:
    return next((found for found in Ledger(where.ledger).rollouts(application) if not found.is_finished), None)


def _is_watched(where: Settings, application: str) -> bool:
    expiry = Ledger(where.ledger).lease_expiry(application)
    return expiry is not None and expiry > now()


def _refuse_hold(where: Settings, rollout: Rollout) -> Ending | None:
    """Return in which words a hold is refused, None where it means something."""
    release = f"release {rollout.release_digest[:12]} of {rollout.application}"
    if rollout.state is State.HELD:
        said = f"{release} is held already: {rollout.reason}"
    elif rollout.state not in HAS_USERS and not _is_watched(where, rollout.application):
        said = f"{release} is {rollout.state}, has no users and gets none unless its rollout is started again"
    else:
        return None
    return Ending(name="NothingToDo", message=said, is_failure=False, release_digest=rollout.release_digest)


def _hold(where: Settings, rollout: Rollout, decision: Decision) -> tuple[str, str]:
    """Hold a rollout that nobody watches; return the name of the ending, and in words what comes of it."""
    waits = "HoldAsked", "; its run holds it at its next look"
    if _is_watched(where, rollout.application):
        return waits
    try:
        with change(where, rollout.application) as lease:
            Ledger(where.ledger).advance(lease, rollout.rollout_id, Event.HOLD, str(decision), now())
    except LeaseError:
        return waits  # somebody took it up at this moment, and will see the word
    return "Held", "; nobody watched it, and its users stay where they are"
