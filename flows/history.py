"""the ledger → what served when, why it changed, by whom."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from tasks.release import history_steps as steps
from tasks.release.model import NAME_PATTERN
from tasks.settings import settings

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


@flow(name="history", flow_run_name="history of {application}")
def history(application: Name, since: datetime | None = None, release: Name | None = None) -> State[str]:
    """Show what served when, to what share, why it changed and by whom, and what was stopped in time.

    Args:
        application: What users call.
        since: Leave out what was before. Empty: nothing.
        release: Leave out other releases: a digest, the first 12 digits of it, or a version. Empty: none.
    """
    where = settings()
    told = steps.publish_history(steps.read_history(where, application, since, release))
    return steps.conclude(told)
