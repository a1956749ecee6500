"""Budgets over a real lake: today priced now, earlier days counted once, alerts told once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from sample_release import URL, release_of

from tasks.budgets import steps as budget_steps
from tasks.budgets import watch as budget_watch
from tasks.budgets.budget import Budget, BudgetBook, Scope
from tasks.budgets.forecast import Basis
from tasks.budgets.state import Alert, BudgetState, check_state, find_alerts
from tasks.budgets.unusual import explain_day
from tasks.budgets.watch import ALERTS, CURVES, find_moment, tell_alerts, watch_budgets
from tasks.costs.billing import Billing
from tasks.costs.days import roll_up_day
from tasks.costs.prices import PriceBook, PriceEntry
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.monitors.verdict import Outcome
from tasks.release.model import Monitors
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger

PRICE = {"input_usd_per_mtok": "5", "output_usd_per_mtok": "15", "from_utc": "2024-05-13", "source": "test"}
BOOK = PriceBook((PriceEntry.model_validate({"provider": "openai", "model": "gpt-4o"} | PRICE),))
MIDNIGHT = datetime(2025, 6, 12, tzinfo=UTC)
NOON = MIDNIGHT + timedelta(hours=12)
A_CALL = 6_500_000_000  # 1,000 input and 100 output tokens of gpt-4o


def call(name: str, time: datetime, **values: Any) -> Interaction:
    given = {"application": "support", "provider": "openai", "model": "gpt-4o"} | {
        "input_tokens": 1000,
        "output_tokens": 100,
    }
    return Interaction(interaction_id=name, time=time, status=200, **(given | values))


def store(lake: Lake, source: str, *calls: Interaction) -> None:
    nothing = REJECTED_SCHEMA.empty_table()
    assert lake.append(source, expected=0, offset=1, interactions=as_table(calls), rejected=nothing)


@pytest.fixture
def billing(tmp_path: Path) -> Billing:
    lake = Lake(tmp_path / "lake")
    days = [
        call(f"{day}-{hour}", MIDNIGHT - timedelta(days=day) + timedelta(hours=hour))
        for day in range(1, 11)
        for hour in (1, 13)
    ]
    today = [call("t1", MIDNIGHT + timedelta(hours=2)), call("t2", NOON - timedelta(minutes=30), team="search")]
    store(lake, "s", *days, *today, call("late", NOON), call("?", NOON - timedelta(hours=3), model="nope"))
    return Billing(lake=lake, book=BOOK, find_release=lambda application, digest: None)  # noqa: ARG005


def book(**values: Any) -> BudgetBook:
    budget = Budget.model_validate({"name": "all", "budget_per_day_usd": "0.03"} | values)
    return BudgetBook(budgets=(budget,))


def test_today_is_counted_up_to_now_and_forecast_from_earlier_days(billing: Billing) -> None:
    (state,) = watch_budgets(billing, book(unpriced_ceiling_usd_per_call="0.001"), NOON)
    assert (state.period, state.charge.calls, state.charge.known_pusd) == ("2025-06-12", 3, 2 * A_CALL)
    assert (state.charge.ceiling_pusd, state.charge.unknown) == (10**9, 0)
    assert state.hour_pusd == A_CALL
    assert state.mean_hour_pusd == (2 * A_CALL + 10**9) // 12
    assert (state.forecast.basis, state.forecast.days) == (Basis.SHAPE, 10)
    # Of each earlier day one call came after noon; today is twice as dear so far, held towards the usual by a tenth.
    usual = 2 * A_CALL // 10
    rest = A_CALL * (2 * A_CALL + 10**9 + usual) // (A_CALL + usual)
    assert abs(state.forecast.median_pusd - (2 * A_CALL + 10**9 + rest)) <= 1
    assert check_state(state).outcome is Outcome.PASS


def test_an_unknown_model_fails_a_budget_closed(billing: Billing) -> None:
    (state,) = watch_budgets(billing, book(), NOON)
    assert check_state(state).statement.endswith("not known to be <= budget 0.03 USD (n=3, unknown 1)")
    assert check_state(state).outcome is Outcome.FAIL


def test_a_scope_sees_its_own_calls_only(billing: Billing) -> None:
    (state,) = watch_budgets(billing, book(scope={"team": "search"}), NOON)
    assert (state.charge.calls, state.charge.known_pusd, state.forecast.basis) == (1, A_CALL, Basis.LINEAR)


def test_earlier_days_are_counted_once_and_again_when_calls_arrive_late(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[datetime] = []
    read = budget_watch._read_window

    def watched(where: Billing, start: datetime, until: datetime) -> Any:
        windows.append(start)
        return read(where, start, until)

    monkeypatch.setattr(budget_watch, "_read_window", watched)
    first = watch_budgets(billing, book(), NOON)
    assert windows == [MIDNIGHT, NOON - timedelta(hours=1), MIDNIGHT - timedelta(days=28)]
    windows.clear()
    assert watch_budgets(billing, book(budget_per_day_usd="1"), NOON)[0].forecast == first[0].forecast
    assert windows == [MIDNIGHT, NOON - timedelta(hours=1)]
    store(billing.lake, "late", call("l", MIDNIGHT - timedelta(days=1)))
    windows.clear()
    watch_budgets(billing, book(), NOON)
    assert windows[2:] == [MIDNIGHT - timedelta(days=1)]
    rows = billing.lake.read(CURVES, {"budget": "all", "day": "2025-06-11"})
    assert rows is not None
    assert rows.select(["calls", "known_pusd"]).to_pylist() == [{"calls": 3, "known_pusd": Decimal(3 * A_CALL)}]
    windows.clear()
    dearer = replace(billing, book=PriceBook((BOOK.entries[0].model_copy(update={"source": "corrected"}),)))
    watch_budgets(dearer, book(), NOON)
    assert windows[2:] == [MIDNIGHT - timedelta(days=28)]
    windows.clear()
    watch_budgets(billing, book(scope={"application": "support"}), NOON)
    assert windows == [MIDNIGHT, NOON - timedelta(hours=1), MIDNIGHT - timedelta(days=28)]


def test_a_month_adds_its_earlier_days(billing: Billing) -> None:
    monthly = book(budget_per_day_usd=None, budget_per_month_usd="1", fail_closed=False)
    (state,) = watch_budgets(billing, monthly, NOON)
    assert (state.period, state.charge.known_pusd) == ("2025-06", 22 * A_CALL)


def test_a_release_is_held_against_the_budget_of_its_own_file(tmp_path: Path) -> None:
    limits = Monitors(cost_usd_per_day=0.001)
    release = release_of(application="support", model_id="mine", endpoint=URL, text="t", monitors=limits)
    lake = Lake(tmp_path / "lake")
    store(lake, "s", call("1", NOON - timedelta(hours=1), release_digest=release.digest), call("2", MIDNIGHT))
    known = Billing(lake=lake, book=BOOK, find_release=lambda _, digest: release if digest == release.digest else None)
    (state,) = watch_budgets(known, BudgetBook(), NOON)
    assert state.budget.scope == Scope(application="support", release=release.digest)
    assert (state.charge.calls, check_state(state).outcome) == (1, Outcome.FAIL)


def test_days_of_a_zone_are_as_long_as_they_are() -> None:
    moment = find_moment("Europe/Berlin", datetime(2025, 3, 30, 21, 30, tzinfo=UTC))
    assert (moment.day, moment.hours) == (date(2025, 3, 30), Fraction(45, 2))
    assert moment.elapsed == moment.hours / 23


def test_an_alert_is_told_once_and_again_only_after_a_kill(billing: Billing) -> None:
    told: list[str] = []

    def tell(alert: Alert) -> None:
        told.append(alert.alert_id)

    def run(limit: str, teller: Any = tell) -> list[str]:
        (state,) = watch_budgets(billing, book(budget_per_day_usd=limit, unpriced_ceiling_usd_per_call="0"), NOON)
        return [str(alert.kind) for alert in tell_alerts(billing.lake, find_alerts(state), NOON, teller)]

    def killed(_: Alert) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("0.02", killed)
    assert run("0.02") == ["forecast", "spent"]
    assert run("0.02") == []
    assert run("0.015") == ["spent"]
    assert len(told) == len(set(told)) == 3
    rows = billing.lake.read(ALERTS, {"budget": "all", "period": "2025-06-12"})
    assert rows is not None
    assert sorted(rows["alert_id"].to_pylist()) == sorted(told)
    assert {row["share"] for row in rows.to_pylist()} == {None, "0.5", "0.8"}


def test_the_steps_say_where_every_budget_stands(
    billing: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Settings(state_dir=tmp_path)
    (tmp_path / "budgets.yaml").write_text("budgets: [{name: all, budget_per_day_usd: 0.02}]")
    shown: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(budget_steps, "create_table_artifact", lambda **artifact: shown.append(artifact))
    monkeypatch.setattr(budget_steps, "emit_event", lambda **event: events.append(event))
    monkeypatch.setattr(budget_steps, "get_run_logger", _Quiet)
    monkeypatch.setattr(budget_steps, "open_billing", lambda *_: billing)
    monkeypatch.setattr(budget_steps, "datetime", _Noon)
    states: tuple[BudgetState, ...] = budget_steps.watch.fn(where)
    assert [str(alert.kind) for alert in budget_steps.alert.fn(where, states)] == ["unknown cost", "forecast", "spent"]
    assert budget_steps.alert.fn(where, states) == ()
    budget_events, (opened,) = events[:3], events[3:]
    assert [event["payload"]["kind"] for event in budget_events] == ["unknown cost", "forecast", "spent"]
    assert {event["resource"]["prefect.resource.id"] for event in budget_events} == {"delivery.budget.all"}
    assert len({event["id"] for event in budget_events}) == 3
    # People are told by the alert, once, and a second look tells nothing new.
    assert (opened["event"], opened["payload"]["monitor"]) == ("delivery.alert.opened", "budget:day")
    (alert,) = Ledger(where.ledger).alerts()
    assert alert.label == "every application: budget:day of budget=all"
    assert alert.reason == check_state(states[0]).statement
    budget_steps.publish.fn(states)
    (row,) = shown[0]["table"]
    assert (row["spent USD"], row["unknown calls"], row["outcome"]) == ("0.013", 1, "fail")
    assert row["forecast by"] == "earlier days (10)"


def test_an_unusual_day_is_explained_from_the_stored_bills(
    billing: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = date(2025, 6, 11)
    late = MIDNIGHT - timedelta(days=1)
    store(billing.lake, "more", *[call(f"m{index}", late + timedelta(minutes=index), team="x") for index in range(400)])
    for index in range(1, 11):
        roll_up_day(billing, MIDNIGHT.date() - timedelta(days=index), now=NOON)
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(budget_steps, "create_table_artifact", lambda **artifact: shown.append(artifact))
    monkeypatch.setattr(budget_steps, "get_run_logger", _Quiet)
    monkeypatch.setattr(budget_steps, "open_billing", lambda *_: billing)
    check = budget_steps.explain.fn(Settings(state_dir=tmp_path), day)
    assert check.statement == (
        "cost of 2025-06-11: 2.613 USD is 2.60 USD > 1.00 USD off the median 0.013 USD (n=7 days)"
    )
    assert shown[0]["table"] == [
        {"what": "volume", "USD": "2.60"},
        {"what": "application support", "USD": "2.60"},
        {"what": "model gpt-4o", "USD": "2.60"},
        {"what": "team x", "USD": "2.60"},
    ]


def test_one_applications_bill_is_not_held_against_that_of_all(billing: Billing) -> None:
    more = [call(f"o{at}", MIDNIGHT - timedelta(days=2, minutes=at), application="other") for at in range(1, 401)]
    store(billing.lake, "other", *more)
    for index in range(1, 11):
        only = "support" if index == 3 else None  # what the other application cost on that day is in no bill
        roll_up_day(billing, MIDNIGHT.date() - timedelta(days=index), only, now=NOON)
    check, change = explain_day(billing, date(2025, 6, 9))
    assert (check.outcome, change) == (Outcome.INCONCLUSIVE, None)
    assert check.statement == "cost of 2025-06-09: it has no bill, or not one of every application"
    mine, change = explain_day(billing, date(2025, 6, 9), "support")
    assert (mine.outcome, mine.value) == (Outcome.PASS, 0.0)
    assert change is not None
    assert change.change_pusd == 0
    later, _ = explain_day(billing, date(2025, 6, 11))
    assert later.statement.endswith("(n=6 days)")  # seven working days before it, one of them not whole


def test_what_came_late_of_a_day_that_is_over_is_told_once(
    billing: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = MIDNIGHT + timedelta(minutes=20)
    assert [state.period for state in watch_budgets(billing, book(), soon)] == ["2025-06-12"]
    store(billing.lake, "late", *[call(f"l{at}", MIDNIGHT - timedelta(minutes=at)) for at in range(1, 5)])
    today, yesterday = watch_budgets(billing, book(), soon)
    assert (today.period, today.is_finished, check_state(today).outcome) == ("2025-06-12", False, Outcome.PASS)
    assert check_state(yesterday).statement == "all 2025-06-11: cost 0.039 USD > budget 0.03 USD (n=6)"
    (alert,) = find_alerts(yesterday)
    assert (alert.period, str(alert.kind), alert.share) == ("2025-06-11", "spent", Decimal(1))
    where = Settings(state_dir=tmp_path)
    monkeypatch.setattr(budget_steps, "emit_event", lambda **_: None)
    monkeypatch.setattr(budget_steps, "get_run_logger", _Quiet)
    states = (today, yesterday)
    assert [alert.period for alert in budget_steps.alert.fn(where, states)] == ["2025-06-11"]
    (opened,) = Ledger(where.ledger).alerts()
    assert opened.label == "every application: budget:day of budget=all of 2025-06-11"
    assert budget_steps.alert.fn(where, states) == ()
    assert len(Ledger(where.ledger).alerts()) == 1
    assert budget_steps.alert.fn(where, (today,)) == ()
    assert Ledger(where.ledger).alerts() == []


def test_a_day_that_was_told_of_in_time_is_not_told_again_when_it_is_over(billing: Billing) -> None:
    dear = [call(f"d{at}", MIDNIGHT - timedelta(hours=3, minutes=at)) for at in range(4)]
    store(billing.lake, "dear", *dear)
    seen: list[str] = []
    for now in (MIDNIGHT - timedelta(hours=1), MIDNIGHT + timedelta(minutes=20)):
        found = [alert for state in watch_budgets(billing, book(), now) for alert in find_alerts(state)]
        seen += [f"{one.period} {one.kind}" for one in tell_alerts(billing.lake, found, now, lambda _: None)]
    assert seen == ["2025-06-11 spent"]


def test_a_day_whose_log_has_not_come_in_does_not_pass(billing: Billing, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "empty")
    store(lake, "s", *[call(f"{day}", MIDNIGHT - timedelta(days=day, hours=-1)) for day in range(1, 9)])
    (early,) = watch_budgets(replace(billing, lake=lake), book(), MIDNIGHT + timedelta(minutes=20))
    assert check_state(early).outcome is Outcome.PASS  # nobody ever called before one o'clock
    (state,) = watch_budgets(replace(billing, lake=lake), book(), NOON)
    check = check_state(state)
    assert (check.outcome, check.statement) == (
        Outcome.INCONCLUSIVE,
        "all 2025-06-12: cost 0.00 USD not known to be <= budget 0.03 USD (n=0, no call is in the log yet)",
    )


class _Noon:
    @staticmethod
    def now(zone: Any) -> datetime:
        return NOON.astimezone(zone)


class _Quiet:
    def info(self, *_: Any) -> None: ...
    def warning(self, *_: Any) -> None: ...
