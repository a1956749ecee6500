"""Budgets that are broken become alerts that people are told of, and end with what broke them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from tasks.budgets.budget import Budget, Scope
from tasks.budgets.signals import EVERYBODY, find_signals
from tasks.budgets.spend import Charge
from tasks.budgets.state import BudgetState, Moment, day_state, month_state
from tasks.monitors.alerts import News
from tasks.monitors.notices import AlertPolicy, route_by
from tasks.monitors.verdict import Outcome
from tasks.settings import Settings
from tasks.stores.ledger import Ledger

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)
DIGEST = "ab" * 32
ROUTE = route_by(AlertPolicy())


def state(spent_usd: int, *, unknown: int = 0, scope: Scope | None = None, fail_closed: bool = True) -> BudgetState:
    """Return where a budget of 10 USD a day stands."""
    budget = Budget(name="all", budget_per_day_usd=Decimal(10), scope=scope or Scope(), fail_closed=fail_closed)
    start = NOON.replace(hour=0)
    moment = Moment(day=date(2025, 6, 12), start=start, end=start + timedelta(days=1), now=NOON)
    found = day_state(budget, moment, Charge(known_pusd=spent_usd * 10**12, calls=5, unknown=unknown), 0, ())
    assert found is not None
    return found


def look(ledger: Ledger, at: datetime, *states: BudgetState) -> list[tuple[str, News]]:
    told = ledger.signal_alerts(find_signals(states, ledger.alerts(), at), ROUTE, at)
    return [(alert.monitor, news) for alert, news in told]


def test_a_broken_budget_is_one_alert_until_the_next_day_is_within(tmp_path: Path) -> None:
    ledger = Ledger(Settings(state_dir=tmp_path).ledger)
    assert look(ledger, NOON, state(9)) == []
    assert look(ledger, NOON + timedelta(hours=1), state(11)) == [("budget:day", News.OPENED)]
    assert look(ledger, NOON + timedelta(hours=2), state(12)) == []
    (alert,) = ledger.alerts()
    assert (alert.failures, alert.reason) == (2, "all 2025-06-12: cost 12.00 USD > budget 10.00 USD (n=5)")
    tomorrow = replace(state(1), period="2025-06-13")
    assert look(ledger, NOON + timedelta(days=1), tomorrow) == [("budget:day", News.RESOLVED)]


def test_a_budget_of_a_release_that_answers_no_more_resolves_its_alert(tmp_path: Path) -> None:
    ledger = Ledger(Settings(state_dir=tmp_path).ledger)
    mine = state(11, scope=Scope(application="faq", release=DIGEST))
    assert look(ledger, NOON, mine) == [("budget:day", News.OPENED)]
    (alert,) = ledger.alerts("faq")
    assert (alert.release_digest, alert.segment) == (DIGEST, "budget=all")
    assert look(ledger, NOON + timedelta(days=1)) == [("budget:day", News.RESOLVED)]
    assert ledger.alerts("faq", every=True)[0].reason == "nothing counts against the budget now"


def test_what_nobody_knows_fails_closed_or_says_nothing_and_ends_nothing(tmp_path: Path) -> None:
    ledger = Ledger(Settings(state_dir=tmp_path).ledger)
    (closed,) = find_signals([state(1, unknown=1)], [], NOON)
    assert (closed.application, closed.outcome) == (EVERYBODY, Outcome.FAIL)
    assert look(ledger, NOON, state(11)) == [("budget:day", News.OPENED)]
    assert look(ledger, NOON + timedelta(hours=1), state(1, unknown=1, fail_closed=False)) == []
    assert len(ledger.alerts()) == 1


def test_a_day_and_a_month_are_two_alerts() -> None:
    day = state(11)
    budget = day.budget.model_copy(update={"budget_per_month_usd": Decimal(10)})
    start = NOON.replace(hour=0)
    moment = Moment(day=date(2025, 6, 12), start=start, end=start + timedelta(days=1), now=NOON)
    month = month_state(budget, moment, Charge(known_pusd=11 * 10**12, calls=1), 0, (), before=Charge())
    assert month is not None
    assert [signal.monitor for signal in find_signals([day, month], [], NOON)] == ["budget:day", "budget:month"]
