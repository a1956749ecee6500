from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.budgets.forecast import (
    LEVEL,
    Basis,
    Forecast,
    PastDay,
    choose_days,
    forecast_day,
    forecast_month,
)
from tasks.errors import InputError

TRACE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "servegen_msmall_14d.parquet"
HOURS = """
SELECT CAST(ts_utc AS DATE), hour(ts_utc),
    CAST(sum(CAST(input_tokens AS HUGEINT) * 2500000 + CAST(output_tokens AS HUGEINT) * 10000000) AS HUGEINT)
FROM read_parquet($1) GROUP BY ALL
"""
MONDAY = date(2025, 6, 2)
USD = 10**12


def past(*pairs: tuple[int, int], last: date = MONDAY - timedelta(days=3)) -> list[PastDay]:
    """Days that follow each other and end on the Friday before."""
    first = last - timedelta(days=len(pairs) - 1)
    return [
        PastDay(day=first + timedelta(days=index), spent_pusd=spent, total_pusd=total)
        for index, (spent, total) in enumerate(pairs)
    ]


def test_days_of_one_shape_forecast_that_shape() -> None:
    found = forecast_day(30 * USD, Fraction(1, 2), past(*[(30 * USD, 100 * USD)] * 9), MONDAY)
    assert found == Forecast(low_pusd=100 * USD, median_pusd=100 * USD, high_pusd=100 * USD, basis=Basis.SHAPE, days=9)


def test_spending_twice_as_fast_is_scaled_but_held_towards_the_usual_day() -> None:
    found = forecast_day(60 * USD, Fraction(1, 2), past(*[(30 * USD, 100 * USD)] * 9), MONDAY)
    assert found.median_pusd == 60 * USD + 70 * USD * 70 // 40  # (60 + 10) / (30 + 10) of the 70 that came after
    early = forecast_day(0, Fraction(1, 24), past(*[(0, 100 * USD)] * 9), MONDAY)
    assert early.median_pusd == 100 * USD


def test_nine_days_give_an_interval_of_their_order_and_fewer_a_wider_one() -> None:
    rests = [(0, (index + 1) * USD) for index in range(9)]
    nine = forecast_day(0, Fraction(1, 2), past(*rests), MONDAY)
    assert (nine.low_pusd, nine.median_pusd, nine.high_pusd) == (USD, 5 * USD, 9 * USD)
    four = forecast_day(0, Fraction(1, 2), past(*rests[:4]), MONDAY)
    assert (four.low_pusd, four.high_pusd, four.days) == (USD // 3, 12 * USD, 4)


def test_without_days_the_clock_says_how_it_goes_on_and_nobody_where_it_ends() -> None:
    found = forecast_day(10 * USD, Fraction(1, 4), past(*[(1, 2)] * 3), MONDAY)
    assert found == Forecast(low_pusd=10 * USD, median_pusd=40 * USD, high_pusd=None, basis=Basis.LINEAR, days=0)
    done = forecast_day(10 * USD, Fraction(1), past(*[(1, 2)] * 9), MONDAY)
    assert (done.low_pusd, done.high_pusd, done.basis) == (10 * USD, 10 * USD, Basis.DONE)


def test_a_working_day_is_compared_with_working_days_where_there_are_enough() -> None:
    many = past(*[(1, 2)] * 28)
    assert len(choose_days(many, MONDAY)) == 20
    assert {one.day.weekday() < 5 for one in choose_days(many, MONDAY)} == {True}
    saturday = MONDAY - timedelta(days=2)
    assert len(choose_days(many, saturday)) == 28  # 8 days of weekends are too few
    assert choose_days(many, many[0].day) == ()


@pytest.mark.parametrize(
    ("spent", "elapsed", "level"), [(-1, Fraction(1, 2), LEVEL), (1, Fraction(2), LEVEL), (1, Fraction(1), Fraction(1))]
)
def test_numbers_outside_their_range_are_refused(spent: int, elapsed: Fraction, level: Fraction) -> None:
    with pytest.raises(InputError, match=r"forecast: .* is not allowed; allowed: spent >= 0, elapsed 0 to 1"):
        forecast_day(spent, elapsed, [], MONDAY, level=level)


def test_a_month_adds_what_was_today_and_days_like_the_earlier_ones() -> None:
    today = Forecast(low_pusd=USD, median_pusd=2 * USD, high_pusd=3 * USD, basis=Basis.SHAPE, days=9)
    days = past(*[(0, 10 * USD)] * 9)
    found = forecast_month(100 * USD, today, days, MONDAY, 5)
    assert (found.low_pusd, found.median_pusd, found.high_pusd) == (151 * USD, 152 * USD, 153 * USD)
    few = forecast_month(100 * USD, today, days[:2], MONDAY, 5)
    assert (few.low_pusd, few.median_pusd, few.high_pusd, few.basis) == (101 * USD, 112 * USD, None, Basis.LINEAR)


amounts = st.integers(0, 10**15)


@given(
    spent=amounts,
    elapsed=st.fractions(0, 1),
    days=st.lists(st.tuples(amounts, amounts), max_size=30),
)
def test_a_forecast_is_ordered_and_never_below_what_is_spent(
    spent: int, elapsed: Fraction, days: list[tuple[int, int]]
) -> None:
    found = forecast_day(spent, elapsed, past(*[(one, one + rest) for one, rest in days]), MONDAY)
    assert spent <= found.low_pusd <= found.median_pusd
    assert found.high_pusd is None or found.median_pusd <= found.high_pusd


@pytest.mark.skipif(not TRACE.exists(), reason="shared/data is not next to the repository")
def test_the_interval_holds_what_a_real_bursty_log_did() -> None:
    """Each hour of each day forecast from the days before it, as docs/budgets.md quotes it."""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(HOURS, [str(TRACE)]).fetchall()
    hours: dict[date, list[int]] = defaultdict(lambda: [0] * 24)
    for day, hour, cost in rows:
        hours[day][hour] = int(cost)
    counts: Counter[tuple[Basis, str]] = Counter()
    for day, costs in hours.items():
        for hour in range(1, 24):
            before = [
                PastDay(day=one, spent_pusd=sum(spent[:hour]), total_pusd=sum(spent)) for one, spent in hours.items()
            ]
            found = forecast_day(sum(costs[:hour]), Fraction(hour, 24), before, day)
            high = found.high_pusd
            where = (
                "below" if sum(costs) < found.low_pusd else "inside" if high is None or sum(costs) <= high else "above"
            )
            counts[found.basis, where] += 1
    assert counts == {
        (Basis.LINEAR, "inside"): 92,
        (Basis.SHAPE, "inside"): 182,
        (Basis.SHAPE, "below"): 28,
        (Basis.SHAPE, "above"): 20,
    }
    assert Fraction(182, 230) > LEVEL - Fraction(1, 50)
