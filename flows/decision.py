"""a person's word on a rollout: let it go on, or end it."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from flows.rollback import rollback
from tasks.release import decision_steps as steps
from tasks.release.model import NAME_PATTERN
from tasks.settings import settings

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Who = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]


@flow(name="decision", flow_run_name="{action} {application}")
def decision(application: Name, action: Literal["approve", "hold", "abort"], who: Who, reason: Text) -> State[str]:
    """Let a rollout that waits go on, hold it where it is, or abort it.

    Args:
        application: What users call.
        action: Approve: the release goes on. Hold: it keeps the users it has, and its run ends at its next look, or
            at once where nobody watches it; started again, it goes on. Abort: its users go back, and its rollout ends.
        who: Who decides, for the record.
        reason: Why, for the record.
    """
    where = settings()
    if action != "abort":
        return steps.as_state(steps.say(where, application, action, who, reason))
    found = steps.find_open(where, application)
    if found is None:
        return steps.as_state(steps.nothing_open(application))
    ended = rollback(application, steps.why_aborted(who, reason), release=found, who=who, return_state=True)
    return steps.as_state(steps.ending_of(ended))
