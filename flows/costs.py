"""days of usage → rollups → budgets."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.budgets import steps as budget_steps
from tasks.costs import steps
from tasks.costs.days import CostReport
from tasks.release.model import Name
from tasks.settings import settings


@flow(name="costs", flow_run_name=steps.run_name)
def costs(
    start: date | None = None,
    days: Annotated[int, Field(ge=1, le=366)] = 1,
    application: Name | None = None,
    *,
    timezone: str = "UTC",
    settle_hours: Annotated[int, Field(ge=0, le=744)] = 24,
    force: bool = False,
) -> CostReport:
    """Roll up what the interactions of each day cost, and hold every release against its budget.

    Args:
        start: First day. Empty: the days that end yesterday.
        days: How many days.
        application: Whose costs. Empty: those of every application.
        timezone: Whose days, by its name in the tz database.
        settle_hours: How long after its end a day stays provisional, for calls that arrive late.
        force: Roll up closed days too whose calls did not change; a new price restates them.
    """
    where = settings()
    bills = [
        steps.roll_up_day(where, day, application, zone=timezone, settle_hours=settle_hours, force=force)
        for day in steps.with_progress(steps.list_days(start, days, timezone))
    ]
    budgets = steps.check_budgets(where, bills)
    for bill in bills:
        budget_steps.explain(where, bill.day, application, zone=timezone)
    return steps.publish_costs(bills, budgets)
