"""The steps of the cost report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run

from tasks.audit import put_on_record
from tasks.costs import days, repricing
from tasks.costs.chart import as_image, daily_costs, describe_total, draw_days, usage_row
from tasks.costs.days import CostReport, DayBill, ReleaseBudget
from tasks.costs.line import Rollup
from tasks.costs.opening import open_billing
from tasks.costs.releases import registered_releases
from tasks.costs.repricing import Difference
from tasks.costs.rollup import format_usd
from tasks.costs.zones import days_between
from tasks.monitors.verdict import Outcome
from tasks.release.history import Deed
from tasks.run_page import tag_run
from tasks.settings import Settings


def run_name() -> str:
    """Return the name of a flow run, for people."""
    asked = flow_run.parameters
    return f"costs of {asked.get('application') or 'every application'}, {asked.get('start') or 'until yesterday'}"


def reprice_name() -> str:
    """Return the name of a repricing, for people."""
    asked = flow_run.parameters
    what = "what would change" if asked.get("dry_run", True) else "priced anew"
    return f"{what}: {asked.get('application') or 'every application'}, {asked.get('start')} to {asked.get('end')}"


@task
def list_days(start: date | None, count: int, zone: str = "UTC") -> tuple[date, ...]:
    """Return the days to roll up."""
    return days.list_days(start, count, datetime.now(UTC), zone)


@task
def list_range(start: date, end: date) -> tuple[date, ...]:
    """Return the days from the first to the last, both of them."""
    return days_between(start, end)


def with_progress(wanted: Sequence[date]) -> Iterator[date]:
    """Yield the days, and show how many of them are done; a single day shows nothing."""
    shown = cast("UUID", create_progress_artifact(progress=0, description="days done")) if len(wanted) > 1 else None
    for done, day in enumerate(wanted, start=1):
        yield day
        if shown is not None:
            update_progress_artifact(shown, progress=100 * done / len(wanted))


@task(task_run_name="roll up {day}", retries=2, retry_delay_seconds=5)
def roll_up_day(
    where: Settings,
    day: date,
    application: str | None,
    *,
    zone: str = "UTC",
    settle_hours: int = 24,
    force: bool = False,
) -> DayBill:
    """Roll up one day into the lake, in the place of that day's earlier rollup."""
    billing = open_billing(where, zone, settle_hours)
    bill = days.roll_up_day(billing, day, application, now=datetime.now(UTC), force=force)
    for record in bill.records:
        if record.reason is not None:
            get_run_logger().warning(
                "%s, %s: restated (%s) from %s to %s USD",
                *(record.application, record.day, record.reason, _usd(record.previous_cost_pusd)),
                _usd(record.cost_pusd),
            )
    return bill


@task
def check_budgets(where: Settings, bills: Sequence[DayBill]) -> tuple[ReleaseBudget, ...]:
    """Hold each release's cost of each day against its budget."""
    budgets = days.check_budgets([line for bill in bills for line in bill.lines], registered_releases(where.mlflow_url))
    for budget in budgets:
        log = get_run_logger().info if budget.check.outcome is Outcome.PASS else get_run_logger().warning
        log("%s %s, %s: %s", budget.application, budget.release, budget.day, budget.check.statement)
    return budgets


@task
def publish_costs(bills: Sequence[DayBill], budgets: tuple[ReleaseBudget, ...]) -> CostReport:
    """Show what was used and what it cost, day by day, with the budgets."""
    report = CostReport(tuple(bills), budgets)
    total = describe_total(report.rollups)
    create_table_artifact(key="costs", table=[usage_row(line) for line in report.rollups], description=total)
    closed = "each day of each application: provisional until late calls have come, then closed"
    create_table_artifact(key="cost-days", table=_day_rows(bills), description=closed)
    rows = [_budget_row(budget) for budget in budgets]
    create_table_artifact(key="budgets", table=rows, description=_describe_budgets(budgets))
    create_markdown_artifact(key="costs-by-day", markdown=_chart(report.rollups, total), description=total)
    for application in sorted({line.key.application for line in report.rollups}):
        tag_run(application)
    return report


@task(task_run_name="compare {day}")
def compare_day(where: Settings, day: date, application: str | None, *, zone: str = "UTC") -> tuple[Difference, ...]:
    """Return what would change if a day were priced now."""
    return repricing.compare_day(open_billing(where, zone), day, application)


@task(task_run_name="reprice {day}", retries=2, retry_delay_seconds=5)
def reprice_day(
    where: Settings, day: date, application: str | None, *, zone: str = "UTC", dry_run: bool = True
) -> DayBill | None:
    """Price a day anew; a dry run writes nothing."""
    if dry_run:
        return None
    return repricing.reprice_day(open_billing(where, zone), day, application, now=datetime.now(UTC))


@task
def record_repricing(where: Settings, application: str | None, who: str, reason: str, *, dry_run: bool) -> None:
    """Put on record who has days priced anew, and why; a dry run is none."""
    if not dry_run:
        put_on_record(where, Deed.REPRICE, application, who, reason, flow_run.get_id())


@task
def publish_differences(found: Sequence[Sequence[Difference]], *, dry_run: bool) -> tuple[Difference, ...]:
    """Show what changed, or would."""
    differences = tuple(difference for day in found for difference in day)
    changed = sum(difference.delta_pusd or 0 for difference in differences)
    said = "would change; nothing was written" if dry_run else "changed"
    description = f"{len(differences)} lines {said}: {format_usd(changed)} USD in all"
    create_table_artifact(key="repricing", table=[_difference_row(one) for one in differences], description=description)
    return differences


def _chart(lines: Sequence[Rollup], total: str) -> str:
    costs = daily_costs(lines)
    rows = [f"| {day} | {_usd(cost)} |" for day, cost in costs.items()]
    table = "\n".join(["| day | USD |", "|---|---|", *rows])
    return f"# {total}\n\n![USD a day]({as_image(draw_days(costs))})\n\n{table}"


def _usd(cost_pusd: int | None) -> str:
    return "unpriced" if cost_pusd is None else format_usd(cost_pusd)


def _day_rows(bills: Sequence[DayBill]) -> list[dict[str, Any]]:
    return [
        {
            "day": record.day.isoformat(),
            "zone": record.zone,
            "application": record.application,
            "state": str(record.state),
            "edition": record.revision,
            "USD": _usd(record.cost_pusd),
            "USD before": _usd(record.previous_cost_pusd) if record.reason else None,
            "restated for": record.reason,
            "coverage": f"{record.priced_requests} of {record.requests}",
        }
        for bill in bills
        for record in bill.records
    ]


def _describe_budgets(budgets: Sequence[ReleaseBudget]) -> str:
    broken = sum(budget.check.outcome is not Outcome.PASS for budget in budgets)
    return f"{broken} of {len(budgets)} days of releases are over their budget, or nobody can tell"


def _budget_row(budget: ReleaseBudget) -> dict[str, Any]:
    return {
        "date": budget.day.isoformat(),
        "application": budget.application,
        "release": budget.release,
        "outcome": str(budget.check.outcome),
        "why": budget.check.statement,
    }


def _difference_row(one: Difference) -> dict[str, Any]:
    return {
        "day": one.day.isoformat(),
        "application": one.application,
        "provider": one.provider,
        "model": one.model,
        "USD before": _usd(one.old_pusd),
        "USD now": _usd(one.new_pusd),
        "difference": None if one.delta_pusd is None else format_usd(one.delta_pusd),
        "because of": one.reason,
        "prices before": ", ".join(one.old_prices),
        "prices now": ", ".join(one.new_prices),
    }
