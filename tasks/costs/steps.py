"""The steps of the cost report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from tasks.costs import days
from tasks.costs.days import CostReport, FindRelease, ReleaseBudget
from tasks.costs.prices import read_price_book
from tasks.costs.rollup import Rollup, format_usd
from tasks.errors import NotFoundError
from tasks.monitors.verdict import Outcome
from tasks.release.model import NAME_PATTERN, Release
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.registry import Registry


def run_name() -> str:
    """Return the name of a flow run, for people."""
    asked = flow_run.parameters
    return f"costs of {asked.get('application') or 'every application'}, {asked.get('start') or 'until yesterday'}"


@task
def list_days(start: date | None, count: int) -> tuple[date, ...]:
    """Return the UTC days to roll up."""
    return days.list_days(start, count, datetime.now(UTC))


@task(task_run_name="roll up {day}", retries=2, retry_delay_seconds=5)
def roll_up_day(where: Settings, day: date, application: str | None) -> tuple[Rollup, ...]:
    """Roll up one UTC day into the lake, in the place of that day's earlier rollup."""
    book = read_price_book(where.price_book)
    return days.roll_up_day(Lake(where.lake_dir), book, _releases(where), day, application)


@task
def check_budgets(where: Settings, rollups: Sequence[Sequence[Rollup]]) -> tuple[ReleaseBudget, ...]:
    """Hold each release's cost of each day against its budget."""
    budgets = days.check_budgets([line for day in rollups for line in day], _releases(where))
    for budget in budgets:
        log = get_run_logger().info if budget.check.outcome is Outcome.PASS else get_run_logger().warning
        log("%s %s, %s: %s", budget.application, budget.release, budget.date_utc, budget.check.statement)
    return budgets


@task
def publish_costs(rollups: Sequence[Sequence[Rollup]], budgets: tuple[ReleaseBudget, ...]) -> CostReport:
    """Show what was used and what it cost, with the budgets."""
    report = CostReport(tuple(line for day in rollups for line in day), budgets)
    create_table_artifact(key="costs", table=[_usage_row(line) for line in report.rollups], description=_total(report))
    create_table_artifact(key="budgets", table=[_budget_row(budget) for budget in budgets])
    return report


def _releases(where: Settings) -> FindRelease:
    registry = Registry(where.mlflow_url)

    @cache
    def find(application: str, digest: str) -> Release | None:
        if not re.fullmatch(NAME_PATTERN, application):
            return None  # the registry accepts no such name
        try:
            return registry.find(application, digest)
        except NotFoundError:
            return None

    return find


def _total(report: CostReport) -> str:
    requests = sum(line.requests for line in report.rollups)
    priced = sum(line.priced_requests for line in report.rollups)
    known = [line.cost_pusd for line in report.rollups if line.cost_pusd is not None]
    amount = f"{format_usd(sum(known))} USD" if known else "Cost unknown"
    return f"{amount} for {priced} priced of {requests} requests"


def _usage_row(line: Rollup) -> dict[str, Any]:
    return {
        "date": line.key.date_utc.isoformat(),
        "application": line.key.application,
        "release": (line.key.release_digest or "unknown")[:12],
        "provider": line.key.provider or "unknown",
        "model": line.key.model or "unknown",
        "requests": line.requests,
        "input tokens": line.input_tokens,
        "output tokens": line.output_tokens,
        "cached input tokens": line.cached_input_tokens,
        "USD": "unpriced" if line.cost_pusd is None else format_usd(line.cost_pusd),
        "coverage": f"{line.priced_requests} of {line.requests}",
        "price from": line.price_layer,
    }


def _budget_row(budget: ReleaseBudget) -> dict[str, Any]:
    return {
        "date": budget.date_utc.isoformat(),
        "application": budget.application,
        "release": budget.release,
        "outcome": str(budget.check.outcome),
        "why": budget.check.statement,
    }
