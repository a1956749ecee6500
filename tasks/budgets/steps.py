"""The steps of the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from tasks.budgets.signals import find_signals
from tasks.budgets.state import Alert, BudgetState, check_state, find_alerts
from tasks.budgets.unusual import explain_day
from tasks.budgets.watch import tell_alerts, watch_budgets
from tasks.costs.anomaly import TOP, Change
from tasks.costs.line import UTC as UTC_ZONE
from tasks.costs.opening import open_billing, open_book
from tasks.costs.rollup import format_usd
from tasks.monitors.notices import alert_event, read_alert_policy, route_by
from tasks.monitors.verdict import Check, Outcome
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger


@task(retries=2, retry_delay_seconds=5)
def watch(where: Settings) -> tuple[BudgetState, ...]:
    """Return where every budget stands now."""
    book = open_book(where)
    return watch_budgets(open_billing(where, book.timezone), book, datetime.now(UTC))


@task(retries=2, retry_delay_seconds=5)
def alert(where: Settings, states: Sequence[BudgetState]) -> tuple[Alert, ...]:
    """Tell what there is to tell and was not told yet, each as an event; a broken budget is an alert, too."""
    found = [alert for state in states for alert in find_alerts(state)]
    told = tell_alerts(Lake(where.lake_dir), found, datetime.now(UTC), _emit)
    _bring_up(where, states, told)
    return told


def _bring_up(where: Settings, states: Sequence[BudgetState], just_told: Sequence[Alert]) -> None:
    """Bring the alerts that people are told of up to where the budgets stand; the flow ``alerts`` delivers them."""
    now, route = datetime.now(UTC), route_by(read_alert_policy(where.state_dir))
    with closing(Ledger(where.ledger)) as ledger:
        told = ledger.signal_alerts(find_signals(states, ledger.alerts(), now, just_told), route, now)
    for changed, news in told:
        emit_event(**alert_event(changed, news))


@task
def publish(states: Sequence[BudgetState]) -> tuple[BudgetState, ...]:
    """Show where every budget stands."""
    for state in states:
        check = check_state(state)
        log = get_run_logger().info if check.outcome is Outcome.PASS else get_run_logger().warning
        log("%s", check.statement)
    create_table_artifact(key="budgets-now", table=[_row(state) for state in states])
    return tuple(states)


@task(task_run_name="explain {day}")
def explain(where: Settings, day: date, application: str | None = None, *, zone: str = UTC_ZONE) -> Check:
    """Say whether a day's bill is unusual and, where it is, why; of one application, or of all together."""
    check, change = explain_day(open_billing(where, zone), day, application)
    log = get_run_logger().warning if check.outcome is Outcome.FAIL else get_run_logger().info
    log("%s%s", check.statement, f"; {change.describe()}" if change is not None else "")
    if change is not None:
        create_table_artifact(key="cost-change", table=_effects(change), description=check.statement)
    return check


def _effects(change: Change) -> list[dict[str, Any]]:
    rows = [{"what": str(effect), "USD": format_usd(amount)} for effect, amount in change.effects.items() if amount]
    for name in ("application", "model", "team"):
        rows += [
            {"what": f"{name} {who}", "USD": format_usd(amount)} for who, amount in change.by(name)[:TOP] if amount
        ]
    return rows


def _emit(found: Alert) -> None:
    get_run_logger().warning("%s", found.statement)
    emit_event(
        event="delivery.budget.alert",
        resource={"prefect.resource.id": f"delivery.budget.{found.budget}", "prefect.resource.name": found.budget},
        payload={
            "alert_id": found.alert_id,
            "budget": found.budget,
            "period": found.period,
            "kind": str(found.kind),
            "share": None if found.share is None else f"{found.share:f}",
            "reason": found.statement,
        },
        id=UUID(found.alert_id[:32]),
    )


def _row(state: BudgetState) -> dict[str, Any]:
    check, forecast = check_state(state), state.forecast
    high = "unknown" if forecast.high_pusd is None else format_usd(forecast.high_pusd)
    return {
        "budget": state.budget.name,
        "of": state.budget.scope.describe(),
        "period": state.period,
        "outcome": str(check.outcome),
        "spent USD": format_usd(state.charge.known_pusd),
        "at ceiling USD": format_usd(state.charge.ceiling_pusd),
        "unknown calls": state.charge.unknown,
        "budget USD": format_usd(state.limit_pusd),
        "last hour USD": format_usd(state.hour_pusd),
        "mean hour USD": "unknown" if state.mean_hour_pusd is None else format_usd(state.mean_hour_pusd),
        "forecast USD": f"{format_usd(forecast.median_pusd)} ({format_usd(forecast.low_pusd)} to {high})",
        "forecast by": f"{forecast.basis} ({forecast.days})",
    }
