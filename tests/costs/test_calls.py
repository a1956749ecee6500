"""What each call costs where releases are compared: as on the bill, and unknown where that is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sample_release import release_of

from tasks.costs import calls as costs_of_calls
from tasks.costs.calls import CallCosts, answer_cost, with_costs
from tasks.costs.prices import PriceBook, PriceEntry
from tasks.release.model import Price, Release

A = "a" * 64
ENTRY = PriceEntry(
    provider="openai",
    model="m",
    from_utc=date(2026, 1, 1),
    input_usd_per_mtok=Decimal(2),
    cached_input_usd_per_mtok=Decimal(1),
    output_usd_per_mtok=Decimal(10),
    source="test",
)


def calls(*rows: tuple[str, int | None, int, int | None], status: int = 200) -> pa.Table:
    return pa.table(
        {
            "interaction_id": [f"call-{number}" for number in range(len(rows))],
            "release_digest": [A] * len(rows),
            "provider": ["openai"] * len(rows),
            "model": [row[0] for row in rows],
            "date_utc": pa.array([date(2026, 3, 1)] * len(rows), pa.date32()),
            "status": pa.array([status] * len(rows), pa.int32()),
            "error_type": pa.array([None] * len(rows), pa.string()),
            "input_tokens": pa.array([row[1] for row in rows], pa.int64()),
            "output_tokens": pa.array([row[2] for row in rows], pa.int64()),
            "cached_input_tokens": pa.array([row[3] for row in rows], pa.int64()),
        }
    )


def costs(table: pa.Table, releases: dict[str, Release] | None = None) -> np.ndarray:
    return np.array(with_costs(table, releases or {}, PriceBook((ENTRY,)))["cost_pusd"].to_pylist(), dtype=np.float64)


def test_calls_cost_what_the_book_says_and_unknown_is_unknown() -> None:
    found = costs(
        calls(("m", 100, 10, None), ("m", 100, 10, 50), ("m", None, 10, None), ("other", 100, 10, None), ("m", 5, 1, 6))
    )
    assert found[:2].tolist() == [100 * 2e6 + 10 * 10e6, 50 * 2e6 + 50 * 1e6 + 10 * 10e6]
    assert np.isnan(found[2:]).all()


def test_the_price_of_the_release_comes_first() -> None:
    price = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))
    release = release_of(model_id="m", endpoint="models:/m/1", price=price)
    assert costs(calls(("m", 100, 10, None)), {A: release}).tolist() == [110e6]


def test_nothing_costs_nothing() -> None:
    assert costs(calls()).tolist() == []


def known(costs: Sequence[float | None], statuses: list[int]) -> pa.Table:
    return pa.table(
        {
            "cost_pusd": pa.array([float("nan") if cost is None else cost for cost in costs], pa.float64()),
            "status": pa.array(statuses, pa.int32()),
            "error_type": pa.array([None] * len(costs), pa.string()),
        }
    )


def test_an_answer_costs_what_the_failed_calls_cost_too() -> None:
    assert answer_cost(known([100.0] * 30 + [50.0] * 10, [200] * 30 + [500] * 10)) == 3500 / 30


def test_an_average_of_too_few_or_of_unknown_costs_is_none() -> None:
    assert answer_cost(known([100.0] * 29, [200] * 29)) is None
    assert answer_cost(known([100.0] * 35 + [None] * 5, [200] * 40)) is None
    assert answer_cost(known([0.0] * 40, [200] * 40)) is None
    assert answer_cost(known([], [])) is None


def test_calls_that_are_looked_at_again_cost_the_same_and_are_priced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("m" if n % 7 else "other", n if n % 5 else None, 3 * n + 1, n // 2 if n % 3 else None) for n in range(400)]
    table, book = calls(*rows), PriceBook((ENTRY,))
    whole = with_costs(table, {}, book)
    priced: list[int] = []

    def count(given: pa.Table, *others: Any) -> pa.Table:
        priced.append(len(given))
        return with_costs(given, *others)

    monkeypatch.setattr(costs_of_calls, "with_costs", count)
    known = CallCosts()
    for end in (100, 100, 250, 400, 400):
        found = known.attach(table.slice(0, end), {}, book)
        assert _same(found, whole.slice(0, end))
    assert priced == [100, 150, 150]
    assert _same(known.attach(table.take(list(range(399, -1, -1))), {}, book), whole.take(list(range(399, -1, -1))))
    assert priced == [100, 150, 150]


def test_a_new_price_prices_every_call_anew() -> None:
    table, known = calls(("m", 100, 10, None), ("m", 200, 10, None)), CallCosts()
    dearer = PriceBook((ENTRY.model_copy(update={"input_usd_per_mtok": Decimal(4)}),))
    first = known.attach(table, {}, PriceBook((ENTRY,)))
    assert _same(known.attach(table, {}, dearer), with_costs(table, {}, dearer))
    assert not _same(known.attach(table, {}, dearer), first)


def _same(one: pa.Table, other: pa.Table) -> bool:
    return one.schema == other.schema and np.array_equal(
        one["cost_pusd"].to_numpy(), other["cost_pusd"].to_numpy(), equal_nan=True
    )
