from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rates import Rate
from tasks.costs.usage import UsageKey
from tasks.evaluation.assess import assess
from tasks.evaluation.evidence import Cost, Evidence
from tasks.evaluation.expectations import Gate
from tasks.evaluation.spending import cost_of_releases
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import DAY, HOUR, Window
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Monitors, Price

START = datetime(2026, 1, 5, tzinfo=UTC)
USD_A_CALL = 2
Call = tuple[timedelta, int, int | None, str]
"""When it came, its status, its tokens, and its model; a million tokens of the model ``known`` cost two dollars."""


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        opened.execute("SET TimeZone = 'UTC'")
        opened.execute(
            "CREATE TABLE interactions (interaction_id VARCHAR, application VARCHAR, release_digest VARCHAR, "
            "model VARCHAR, time_utc TIMESTAMPTZ, date_utc DATE, status INTEGER, input_tokens BIGINT, "
            "output_tokens BIGINT)"
        )
        yield opened


def prices(key: UsageKey) -> tuple[Rate, ...]:
    own = Price(input_usd_per_mtok=Decimal(USD_A_CALL), output_usd_per_mtok=Decimal(0))
    return find_rates(PriceBook(()), None, key.model, key.date_utc, own) if key.model == "known" else ()


def held(connection: duckdb.DuckDBPyConnection, window: Window, calls: Sequence[Call], limit: float) -> Check:
    rows: list[Any] = [
        (str(at), "faq", "d", model, time, time.date(), status, tokens, None if tokens is None else 0)
        for at, (after, status, tokens, model) in enumerate(calls)
        for time in (START + after,)
    ]
    connection.executemany("INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    found: Cost = cost_of_releases(connection, prices, window)["d"]
    evidence = Evidence(summary=Summary(n=len(calls)), cost=found)
    checks = assess(evidence, Monitors(cost_usd_per_day=limit), Gate(success=True, n=len(calls), expectations=1))
    (check,) = [one for one in checks if one.monitor == "cost"]
    return check


PAID: Call = (10 * HOUR, 200, 1_000_000, "known")
UNKNOWN: Call = (10 * HOUR, 200, 1_000_000, "new")
BUSY: Call = (10 * HOUR, 429, None, "known")


def test_refused_calls_are_no_prices_of_a_release_whose_answers_have_none(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    check = held(connection, Window(start=START, end=START + DAY), [BUSY] * 3 + [UNKNOWN] * 97, 50)
    assert (check.outcome, check.value) == (Outcome.INCONCLUSIVE, None)
    assert check.statement == "cost: none of 97 calls has a price, not known to be <= budget 50.00 USD (n=97)"


def test_without_a_refused_call_too_a_release_that_has_no_price_does_not_pass(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    check = held(connection, Window(start=START, end=START + DAY), [UNKNOWN] * 40, 50)
    assert (check.outcome, check.n) == (Outcome.INCONCLUSIVE, 40)


def test_unpriced_calls_are_as_dear_as_the_dearest_that_was_not_refused(connection: duckdb.DuckDBPyConnection) -> None:
    check = held(connection, Window(start=START, end=START + DAY), [PAID, BUSY, *[UNKNOWN] * 3], 7)
    assert (check.outcome, check.statement) == (
        Outcome.INCONCLUSIVE,
        "cost 2.00 USD a day <= budget 7.00 USD, 25.0% of calls priced, 8.00 USD at most by the dearest call (n=4)",
    )


@pytest.mark.parametrize(
    ("first", "last", "at", "limit", "outcome", "words"),
    [
        # One hour of 6 USD is no day of 144 USD, and one beyond the budget is beyond it whatever else the day brings.
        (10, 11, [10, 10, 10], 100, Outcome.INCONCLUSIVE, "6.00 USD in a part of a day <= budget 100.00 USD"),
        (10, 11, [10, 10, 10], 150, Outcome.PASS, "6.00 USD in a part of a day <= budget 150.00 USD"),
        (10, 11, [10, 10, 10], 5, Outcome.FAIL, "6.00 USD in a part of a day > budget 5.00 USD"),
        (0, 24, [10, 10, 10], 7, Outcome.PASS, "6.00 USD a day <= budget 7.00 USD"),
        (0, 24, [10, 10, 10], 5, Outcome.FAIL, "6.00 USD a day > budget 5.00 USD"),
        # Two cheap days do not pay for a dear one.
        (0, 72, [1, 30, 30, 30, 60], 5, Outcome.FAIL, "6.00 USD on the dearest day > budget 5.00 USD"),
        (0, 72, [1, 30, 30, 60, 60], 5, Outcome.PASS, "4.00 USD on the dearest day <= budget 5.00 USD"),
        # A day's length across midnight is two parts, and neither is known to be the whole.
        (12, 36, [20, 20, 30], 5, Outcome.INCONCLUSIVE, "4.00 USD in a part of a day <= budget 5.00 USD"),
    ],
)
def test_a_days_budget_is_held_against_whole_days(
    connection: duckdb.DuckDBPyConnection,
    *,
    first: int,
    last: int,
    at: list[int],
    limit: float,
    outcome: Outcome,
    words: str,
) -> None:
    calls = [(hour * HOUR, *PAID[1:]) for hour in at]
    check = held(connection, Window(start=START + first * HOUR, end=START + last * HOUR), calls, limit)
    assert (check.outcome, check.statement) == (
        outcome,
        f"cost {words}, 100.0% of calls priced (n={len(at)})",
    )
