"""The life cycle of a rollout as a pure state machine: (state, event) → state.

The table is the whole truth; the diagram in the documentation is generated from it (``as_mermaid``).

A failure is put on record before anything is undone (``rejecting``, ``reverting``), so that whoever takes up a
rollout that was killed undoes it too, instead of trying it again.
"""

from __future__ import annotations

from enum import StrEnum

from tasks.errors import DeliveryError


class State(StrEnum):
    """Where a rollout of a release stands."""

    REGISTERED = "registered"
    DEPLOYED = "deployed"
    TESTED = "tested"
    RAMPING = "ramping"
    WAITING = "waiting for approval"
    HELD = "held"
    PROMOTED = "promoted"
    REJECTING = "rejecting"
    REJECTED = "rejected"
    REVERTING = "reverting"
    ROLLED_BACK = "rolled back"


class Event(StrEnum):
    """What can happen to a rollout."""

    DEPLOY = "deploy"
    SMOKE_PASSED = "smoke passed"
    SHIFT = "shift traffic"
    ASK = "ask for approval"
    HOLD = "hold"
    PROMOTE = "promote"
    FAIL = "fail"
    UNDONE = "undone"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.REGISTERED, Event.DEPLOY): State.DEPLOYED,
    (State.REGISTERED, Event.FAIL): State.REJECTING,
    (State.DEPLOYED, Event.DEPLOY): State.DEPLOYED,
    (State.DEPLOYED, Event.SMOKE_PASSED): State.TESTED,
    (State.DEPLOYED, Event.FAIL): State.REJECTING,
    (State.TESTED, Event.DEPLOY): State.DEPLOYED,
    (State.TESTED, Event.SHIFT): State.RAMPING,
    (State.TESTED, Event.FAIL): State.REJECTING,
    (State.RAMPING, Event.DEPLOY): State.RAMPING,
    (State.RAMPING, Event.SMOKE_PASSED): State.RAMPING,
    (State.RAMPING, Event.SHIFT): State.RAMPING,
    (State.RAMPING, Event.ASK): State.WAITING,
    (State.RAMPING, Event.HOLD): State.HELD,
    (State.RAMPING, Event.PROMOTE): State.PROMOTED,
    (State.RAMPING, Event.FAIL): State.REVERTING,
    (State.WAITING, Event.DEPLOY): State.RAMPING,
    (State.WAITING, Event.SHIFT): State.RAMPING,
    (State.WAITING, Event.ASK): State.WAITING,
    (State.WAITING, Event.HOLD): State.HELD,
    (State.WAITING, Event.PROMOTE): State.PROMOTED,
    (State.WAITING, Event.FAIL): State.REVERTING,
    (State.HELD, Event.DEPLOY): State.RAMPING,
    (State.HELD, Event.FAIL): State.REVERTING,
    (State.PROMOTED, Event.FAIL): State.REVERTING,
    (State.REJECTING, Event.UNDONE): State.REJECTED,
    (State.REVERTING, Event.UNDONE): State.ROLLED_BACK,
}
"""Every transition there is. A rollout that starts again after a crash deploys and tests again first."""

FINISHED = frozenset({State.PROMOTED, State.REJECTED, State.ROLLED_BACK})
"""States in which a rollout no longer stands in the way of the next one."""
UNDOING = frozenset({State.REJECTING, State.REVERTING})
"""States in which all that is left is to undo."""


def after(state: State, event: Event) -> State:
    """Return the state that follows.

    Raises:
        DeliveryError: The event cannot happen in this state; the message names those that can.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        possible = ", ".join(sorted(e for s, e in TRANSITIONS if s is state)) or "nothing: it is finished"
        raise DeliveryError(f"a rollout that is {state} cannot {event}; possible: {possible}") from None


def as_mermaid() -> str:
    """Return the state diagram in Mermaid's notation, as the documentation shows it."""

    def name(state: State) -> str:
        return state.value.replace(" ", "_")

    lines = ["stateDiagram-v2", f"    [*] --> {name(State.REGISTERED)}"]
    lines += [f"    {name(state)} --> {name(to)}: {event}" for (state, event), to in TRANSITIONS.items()]
    lines += [f"    {name(state)} --> [*]" for state in State if state in FINISHED]
    return "\n".join(lines)
