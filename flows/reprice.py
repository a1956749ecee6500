"""past days → what changes by the prices of now → restated days."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.costs import steps
from tasks.costs.repricing import Difference
from tasks.release.model import Name
from tasks.settings import settings


@flow(name="reprice", flow_run_name=steps.reprice_name)
def reprice(
    start: date,
    end: date,
    application: Name | None = None,
    *,
    timezone: str = "UTC",
    dry_run: bool = True,
    who: Annotated[str, Field(max_length=200)] = "",
    reason: Annotated[str, Field(max_length=2000)] = "",
) -> tuple[Difference, ...]:
    """Price past days anew, and show what is different and why.

    Args:
        start: First day.
        end: Last day.
        application: Whose costs. Empty: those of every application.
        timezone: Whose days, by its name in the tz database.
        dry_run: Only show the difference; nothing is written.
        who: Who asks for it, for the record.
        reason: Why, for the record.
    """
    where = settings()
    steps.record_repricing(where, application, who, reason, dry_run=dry_run)
    found = []
    for day in steps.with_progress(steps.list_range(start, end)):
        found.append(steps.compare_day(where, day, application, zone=timezone))
        steps.reprice_day(where, day, application, zone=timezone, dry_run=dry_run)
    return steps.publish_differences(found, dry_run=dry_run)
