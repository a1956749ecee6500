"""budgets of now → alerts."""

from __future__ import annotations

from prefect import flow

from tasks.budgets import steps as budget_steps
from tasks.budgets.state import BudgetState
from tasks.settings import settings


@flow(name="budgets")
def budgets() -> tuple[BudgetState, ...]:
    """Hold what today has cost so far, and what it will have cost, against every budget; tell each alert once."""
    where = settings()
    states = budget_steps.watch(where)
    budget_steps.alert(where, states)
    return budget_steps.publish(states)
