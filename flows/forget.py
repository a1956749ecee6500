"""the lake, without one user."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.interactions import care_steps as steps
from tasks.interactions.counts import Cared
from tasks.settings import settings


@flow(name="forget", flow_run_name=steps.run_name)
def forget(
    user_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")],
    dry_run: bool = False,
    who: Annotated[str, Field(max_length=200)] = "",
    reason: Annotated[str, Field(max_length=2000)] = "",
) -> tuple[Cared, ...]:
    """Delete a user's data from every table of the lake, for good, and every log file that the lake has all of.

    The log files of today are still written to: run it again tomorrow for what they hold.

    Args:
        user_hash: SHA-256 of the user's id.
        dry_run: Only show what would be deleted.
        who: Who asks for it, for the record.
        reason: Why, for the record; it must not name the user.
    """
    where = settings()
    done = steps.forget_user(where, user_hash, who, reason, dry_run=dry_run)
    logs = steps.drop_logs(where, 0, dry_run=dry_run)
    return steps.publish_care([*done, *logs], 0)
