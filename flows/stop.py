"""a person's word on an experiment: it ends, and its users go back to the control."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from tasks.experiments import steps
from tasks.release.model import NAME_PATTERN
from tasks.settings import settings

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]


@flow(name="stop", flow_run_name="stop the experiment of {application}")
def stop(application: Name, who: Text, reason: Text) -> State[str]:
    """Stop the experiment of an application, whatever it is doing: every user is the control's again.

    Args:
        application: What users call.
        who: Who decides, for the record.
        reason: Why, for the record.
    """
    where = settings()
    if steps.find_open(where, application) is None:
        return steps.as_state(steps.nothing_open(application))
    with steps.change(where, application, seize=True) as lease:
        stopped = steps.stop(where, lease, who, reason)
        return steps.as_state(steps.conclude(where, lease, stopped))
