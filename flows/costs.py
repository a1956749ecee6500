"""days of usage → rollups → budgets."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.costs import steps
from tasks.costs.days import CostReport
from tasks.release.model import Name
from tasks.settings import settings


@flow(name="costs", flow_run_name=steps.run_name)
def costs(
    start: date | None = None,
    days: Annotated[int, Field(ge=1, le=366)] = 1,
    application: Name | None = None,
) -> CostReport:
    """Roll up what the interactions of each UTC day cost, and hold every release against its budget.

    Args:
        start: First UTC day. Empty: the days that end yesterday.
        days: How many UTC days.
        application: Whose costs. Empty: those of every application.
    """
    where = settings()
    rollups = [steps.roll_up_day(where, day, application) for day in steps.list_days(start, days)]
    budgets = steps.check_budgets(where, rollups)
    return steps.publish_costs(rollups, budgets)
