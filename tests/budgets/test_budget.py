from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sample_release import URL, release_of

from tasks.budgets.budget import Budget, BudgetBook, Scope, read_budgets, release_budget
from tasks.budgets.forecast import Basis, PastDay
from tasks.budgets.spend import Charge, Spend, charge, charge_quarters, is_in, spent_by
from tasks.budgets.state import (
    AlertKind,
    BudgetState,
    Moment,
    check_state,
    day_state,
    find_alerts,
    month_state,
)
from tasks.errors import InputError
from tasks.monitors.verdict import Outcome
from tasks.release.model import Monitors

USD = 10**12
DAY = date(2025, 6, 2)
START = datetime(2025, 6, 2, tzinfo=UTC)


def budget(**values: Any) -> Budget:
    return Budget.model_validate({"name": "all", "budget_per_day_usd": "10"} | values)


def at(hour: int) -> Moment:
    return Moment(day=DAY, start=START, end=START + timedelta(days=1), now=START + timedelta(hours=hour))


def spend(**values: Any) -> Spend:
    owner: dict[str, Any] = {"application": "a", "team": None, "model": "m", "release": None, "tags": ()}
    counts = {"calls": 1, "cost_pusd": USD, "tokens": 1500, "calls_without_tokens": 0}
    given: dict[str, Any] = {"quarter": 0, "status": "priced"} | owner | counts
    return Spend(**(given | values))


def state(charged: Charge, hour: int = 12, past: list[PastDay] | None = None, **values: Any) -> BudgetState:
    found = day_state(budget(**values), at(hour), charged, 0, past or [])
    assert found is not None
    return found


def test_a_budgets_file_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(
        "timezone: Europe/Berlin\n"
        "budgets:\n"
        "  - name: support\n"
        "    scope: {application: support, tag: env=prod}\n"
        "    budget_per_day_usd: 0.1\n"
        "    budget_per_month_usd: 2\n"
        "    alert_at: [0.25, 1]\n"
        "    unpriced_ceiling_usd_per_1k_tokens: 0.06\n"
        "    fail_closed: false\n"
    )
    book = read_budgets(path)
    (found,) = book.budgets
    assert (book.timezone, found.budget_per_day_usd, found.fail_closed) == ("Europe/Berlin", Decimal("0.1"), False)
    assert found.alert_at == (Decimal("0.25"), Decimal(1))
    assert found.scope.describe() == "application support, tag env=prod"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budgets: [{name: a}]", "give budget_per_day_usd, budget_per_month_usd or both"),
        ("budgets: [{name: a, budget_per_day_usd: -1}]", r"budgets\.0\.budget_per_day_usd: .* greater than 0"),
        (
            "budgets: [{name: a, budget_per_day_usd: 1, alert_at: [1, 0.5]}]",
            "alert_at must rise, each share once: 1, 0.5",
        ),
        (
            "budgets: [{name: a, budget_per_day_usd: 1, alert: 1}]",
            r"alert: Extra inputs .*allowed: alert_at, budget_per",
        ),
        ("budgets: [{name: a, budget_per_day_usd: 1}, {name: a, budget_per_day_usd: 1}]", "two budgets are called a"),
        ("timezone: Mars\n", "timezone: 'Mars' is not allowed; allowed: a name of the tz database"),
    ],
)
def test_a_bad_budgets_file_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_budgets(path)


def test_the_budgets_of_the_documents_are_some(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "budgets.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "budgets.yaml").write_text(shown)
    assert [budget.name for budget in read_budgets(tmp_path / "budgets.yaml").budgets] == ["support", "everything"]


def test_the_file_has_a_schema() -> None:
    schema = BudgetBook.model_json_schema()
    assert "unpriced_ceiling_usd_per_call" in schema["$defs"]["Budget"]["properties"]


def test_a_release_has_a_budget_that_never_fails_for_a_missing_price() -> None:
    limits = Monitors(cost_usd_per_day=1e-9)
    release = release_of(application="support", model_id="m", endpoint=URL, text="t", monitors=limits)
    found = release_budget(release)
    assert found.scope == Scope(application="support", release=release.digest)
    assert (found.budget_per_day_usd, found.fail_closed) == (Decimal("0.000001"), False)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({}, True),
        ({"application": "a", "team": "t", "model": "m", "release": "0" * 64, "tag": "x=1"}, True),
        ({"application": "b"}, False),
        ({"team": "other"}, False),
        ({"model": "n"}, False),
        ({"release": "1" * 64}, False),
        ({"tag": "x=2"}, False),
    ],
)
def test_a_scope_holds_calls_that_have_all_of_it(scope: dict[str, str], *, expected: bool) -> None:
    owned = spend(team="t", release="0" * 64, tags=("w", "x=1"))
    assert is_in(Scope.model_validate(scope), owned) is expected


def test_a_call_of_no_team_is_in_no_teams_budget() -> None:
    assert not is_in(Scope(team="t"), spend())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 0, 4)),
        ({"unpriced_ceiling_usd_per_call": "0.5"}, (2 * USD, 4, 0)),
        ({"unpriced_ceiling_usd_per_1k_tokens": "0.06"}, (90_000_000_000, 3, 1)),
        (
            {"unpriced_ceiling_usd_per_1k_tokens": "0.06", "unpriced_ceiling_usd_per_call": "0.5"},
            (590_000_000_000, 4, 0),
        ),
        ({"unpriced_ceiling_usd_per_1k_tokens": "0.000000001"}, (1500, 3, 1)),
    ],
)
def test_what_has_no_price_is_charged_at_the_ceiling(values: dict[str, str], expected: tuple[int, int, int]) -> None:
    unpriced = spend(status="unpriced", calls=4, cost_pusd=0, tokens=1500, calls_without_tokens=1)
    found = charge(budget(**values), [unpriced, spend(), spend(application="b", status="estimated")])
    assert (found.ceiling_pusd, found.at_ceiling, found.unknown) == expected
    assert (found.known_pusd, found.estimated_pusd, found.calls) == (2 * USD, USD, 6)


def test_the_smallest_ceiling_is_exact_and_a_partly_priced_call_pays_both() -> None:
    part = spend(status="partial", tokens=1, cost_pusd=7)
    found = charge(budget(unpriced_ceiling_usd_per_1k_tokens="0.000000001"), [part])
    assert (found.known_pusd, found.ceiling_pusd, found.total_pusd) == (7, 1, 8)


def test_a_day_by_quarters_is_spent_evenly_within_one() -> None:
    quarters = charge_quarters(budget(), [spend(quarter=1, cost_pusd=90), spend(quarter=99, cost_pusd=5)], 4)
    assert quarters == (0, 90, 0, 5)
    assert [spent_by(quarters, timedelta(minutes=minutes)) for minutes in (0, 15, 20, 30, 60, 90)] == [
        0,
        0,
        30,
        90,
        95,
        95,
    ]


@pytest.mark.parametrize(
    ("charged", "values", "outcome", "statement"),
    [
        (
            Charge(known_pusd=10 * USD, calls=3),
            {},
            Outcome.PASS,
            "all 2025-06-02: cost 10.00 USD <= budget 10.00 USD (n=3)",
        ),
        (
            Charge(known_pusd=10 * USD + 1, calls=3),
            {},
            Outcome.FAIL,
            "all 2025-06-02: cost 10.000000000001 USD > budget 10.00 USD (n=3)",
        ),
        (
            Charge(known_pusd=USD, calls=3, unknown=1),
            {},
            Outcome.FAIL,
            "all 2025-06-02: cost 1.00 USD not known to be <= budget 10.00 USD (n=3, unknown 1)",
        ),
        (
            Charge(known_pusd=USD, calls=3, unknown=1),
            {"fail_closed": "false"},
            Outcome.INCONCLUSIVE,
            "all 2025-06-02: cost 1.00 USD not known to be <= budget 10.00 USD (n=3, unknown 1)",
        ),
        (
            Charge(known_pusd=USD, estimated_pusd=USD, ceiling_pusd=10 * USD, calls=3, at_ceiling=2),
            {},
            Outcome.FAIL,
            "all 2025-06-02: cost 11.00 USD > budget 10.00 USD (n=3, 2 at the ceiling: 10.00 USD, estimated 1.00 USD)",
        ),
        (Charge(), {}, Outcome.PASS, "all 2025-06-02: cost 0.00 USD <= budget 10.00 USD (n=0)"),
    ],
)
def test_a_budget_is_checked_exactly_and_the_unknown_never_passes(
    charged: Charge, values: dict[str, Any], outcome: Outcome, statement: str
) -> None:
    check = check_state(state(charged, **values))
    assert (check.monitor, check.outcome, check.statement) == ("budget", outcome, statement)


FLAT = [PastDay(day=DAY - timedelta(days=index), spent_pusd=3 * USD, total_pusd=8 * USD) for index in range(3, 20)]


def test_an_alert_comes_before_the_breach() -> None:
    calm = state(Charge(known_pusd=3 * USD, calls=3), past=FLAT)
    assert (calm.forecast.median_pusd, find_alerts(calm)) == (8 * USD, ())
    fast = state(Charge(known_pusd=499 * USD // 100, calls=3), past=FLAT)
    (alert,) = find_alerts(fast)
    assert (alert.kind, alert.share, fast.forecast.basis) == (AlertKind.FORECAST, None, Basis.SHAPE)
    assert alert.statement.startswith("all 2025-06-02: forecast 12.608")
    assert alert.statement.endswith("by earlier days, spent 4.99 USD)")


def test_the_clock_alone_alerts_only_after_a_quarter_of_the_day() -> None:
    early, later = (state(Charge(known_pusd=4 * USD, calls=1), hour=hour) for hour in (5, 6))
    assert find_alerts(early) == ()
    assert [alert.statement for alert in find_alerts(later)] == [
        "all 2025-06-02: forecast 16.00 USD > budget 10.00 USD (4.00 USD to unknown, by the clock, spent 4.00 USD)"
    ]
    assert later.mean_hour_pusd == 4 * USD // 6


def test_the_highest_share_that_is_reached_is_told_with_a_stable_id() -> None:
    def shares(pusd: int) -> list[tuple[Decimal | None, str]]:
        found = find_alerts(state(Charge(known_pusd=pusd, calls=1), hour=24))
        return [(alert.share, alert.alert_id) for alert in found]

    assert shares(5 * USD - 1) == []
    half, again, most, over = (shares(pusd) for pusd in (5 * USD, 6 * USD, 8 * USD, 30 * USD))
    assert half == again != most
    assert [(share, len(alert_id)) for share, alert_id in (*half, *most, *over)] == [
        (Decimal("0.5"), 64),
        (Decimal("0.8"), 64),
        (Decimal(1), 64),
    ]


def test_what_nobody_knows_is_told() -> None:
    found = find_alerts(state(Charge(calls=4, unknown=3), hour=1))
    assert [(alert.kind, alert.statement) for alert in found] == [
        (AlertKind.UNKNOWN, "all 2025-06-02: 3 of 4 calls have no price and no ceiling")
    ]


def test_a_month_counts_its_days_and_forecasts_the_rest() -> None:
    monthly = budget(budget_per_month_usd="200")
    found = month_state(
        monthly, at(24), Charge(known_pusd=8 * USD, calls=1), 0, FLAT, before=Charge(known_pusd=2 * USD, calls=2)
    )
    assert found is not None
    assert (found.period, found.charge.total_pusd, found.charge.calls) == ("2025-06", 10 * USD, 3)
    assert found.forecast.median_pusd == 10 * USD + 28 * 8 * USD
    assert [alert.kind for alert in find_alerts(found)] == [AlertKind.FORECAST]
    assert month_state(budget(), at(1), Charge(), 0, [], before=Charge()) is None
    only_monthly = budget(budget_per_day_usd=None, budget_per_month_usd="1")
    assert day_state(only_monthly, at(1), Charge(), 0, []) is None
