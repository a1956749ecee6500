"""the interaction log → old rows and log files dropped, small files put together, unused files deleted."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.interactions import care_steps as steps
from tasks.interactions.counts import Cared
from tasks.settings import settings

Days = Annotated[int, Field(ge=1)]


@flow(name="maintenance", flow_run_name=steps.run_name)
def maintenance(
    keep_days: Days | None = None,
    text_days: Days | None = None,
    log_days: Days | None = None,
    vacuum_hours: Annotated[int, Field(ge=1)] = 24,
    dry_run: bool = False,
) -> tuple[Cared, ...]:
    """Keep the interaction log small, and no longer than it should be kept.

    Args:
        keep_days: Days before these are dropped. Empty: none.
        text_days: Texts of days before these are emptied. Empty: none.
        log_days: Log files of days before these are deleted once the lake has all of them. Empty: none.
        vacuum_hours: How long files that were replaced are kept for whoever reads them still.
        dry_run: Only show what would be done.
    """
    where = settings()
    dropped = steps.retain(where, keep_days, text_days, dry_run=dry_run)
    logs = steps.drop_logs(where, log_days, dry_run=dry_run)
    together = steps.compact(where, dry_run=dry_run)
    return steps.publish_care([*dropped, *logs, *together], steps.vacuum(where, vacuum_hours, dry_run=dry_run))
