"""days of usage → rollups → budgets."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.costs import steps
from tasks.costs.days import CostReport
from tasks.release.model import NAME_PATTERN
from tasks.settings import settings


@flow(name="costs", flow_run_name=steps.run_name)
def costs(
    start: Annotated[date | None, Field(description="First UTC day. Empty: the days that end yesterday.")] = None,
    days: Annotated[int, Field(ge=1, le=366, description="How many UTC days.")] = 1,
    application: Annotated[
        str | None, Field(pattern=NAME_PATTERN, description="Whose costs. Empty: those of every application.")
    ] = None,
) -> CostReport:
    """Roll up what the interactions of each UTC day cost, and hold every release against its budget."""
    where = settings()
    rollups = [steps.roll_up_day(where, day, application) for day in steps.list_days(start, days)]
    budgets = steps.check_budgets(where, rollups)
    return steps.publish_costs(rollups, budgets)
