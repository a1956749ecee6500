"""Every call's parts and status, and that the rollup's shorter way comes to the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.costs.line import Rollup, add_lines, known_sum
from tasks.costs.pricing import price_calls
from tasks.costs.rates import PARTS, Layer, Rate, UsdPerMtok, make_rate, with_list
from tasks.costs.rollup import add_up
from tasks.costs.usage import find_usage_keys

DAY = date(2024, 3, 1)
INTEGERS = (
    *("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("reasoning_tokens", "audio_input_tokens", "cached_audio_input_tokens", "audio_output_tokens"),
)
SCHEMA = pa.schema(
    [("date_utc", pa.date32())]
    + [(name, pa.string()) for name in ("interaction_id", "application", "provider", "model", "error_type")]
    + [(name, pa.int64()) for name in (*INTEGERS, "reported_cost_pusd")]
    + [("status", pa.int32()), ("other_usage", pa.string()), ("tokens_estimated", pa.bool_())]
)
FULL = {
    "cached_input_usd_per_mtok": "0.5", "cache_write_usd_per_mtok": "1.25", "cache_write_1h_usd_per_mtok": "2",
    "audio_input_usd_per_mtok": "10", "cached_audio_input_usd_per_mtok": "3", "reasoning_usd_per_mtok": "5",
    "audio_output_usd_per_mtok": "20", "usd_per_request": "0.001",
}  # fmt: skip


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        yield opened


def rate(inputs: str = "1", outputs: str | None = "4", **parts: Any) -> Rate:
    values: dict[str, Any] = {
        name: Decimal(value) if isinstance(value, str) else value for name, value in parts.items()
    }
    price = UsdPerMtok(
        **{"cached_input_usd_per_mtok": None, **values},
        input_usd_per_mtok=Decimal(inputs),
        output_usd_per_mtok=None if outputs is None else Decimal(outputs),
    )
    made = make_rate(price, provider="p", model="m", day=DAY, layer=Layer.BOOK, sha256="s")
    assert made is not None
    return made


def call(**values: Any) -> dict[str, Any]:
    given = {"date_utc": DAY, "application": "a", "provider": "p", "model": "m", "status": 200, **values}
    return {name: given.get(name) for name in SCHEMA.names}


def priced(connection: duckdb.DuckDBPyConnection, calls: list[dict[str, Any]], *rates: Rate) -> list[dict[str, Any]]:
    rows = [{**row, "interaction_id": f"{at:04}"} for at, row in enumerate(calls)]
    connection.register("interactions", pa.Table.from_pylist(rows, schema=SCHEMA))
    price_calls(connection, find_usage_keys(connection), lambda _: rates)
    return list(connection.sql("SELECT * FROM priced ORDER BY interaction_id").to_arrow_table().to_pylist())


def test_every_part_has_its_price(connection: duckdb.DuckDBPyConnection) -> None:
    tokens = dict(zip(INTEGERS, (1000, 100, 300, 200, 50, 30, 90, 40, 20), strict=True))
    units = {("web_searches", None): Fraction(1, 100), ("input_image_tokens", "input"): Fraction(2, 10**6)}
    usage = {"other_usage": json.dumps({"input_image_tokens": 100, "web_searches": 3})}
    (row,) = priced(connection, [call(**tokens, **usage)], rate(**FULL, usd_per_unit=units))
    counts = (350, 260, 150, 50, 50, 40, 50, 30, 20, 1, 103)
    assert tuple(row[f"{part}_count"] for part in PARTS) == counts
    usd = ("1", "0.5", "1.25", "2", "10", "3", "4", "5", "20", "1000")
    other = 3 * 10**10 + 100 * 2 * 10**6
    costs = tuple(int(n * Decimal(price) * 10**6) for n, price in zip(counts, usd, strict=False))
    assert tuple(row[f"{part}_pusd"] for part in PARTS) == (*costs, other)
    assert row["cost_pusd"] == sum(costs) + other
    assert sum(counts[:6]) + 100 == 1000
    assert sum(counts[6:9]) == 100


def test_a_part_without_a_price_costs_what_it_is_a_part_of(connection: duckdb.DuckDBPyConnection) -> None:
    tokens = dict(zip(INTEGERS, (1000, 100, 300, 200, 50, 30, 90, 40, 20), strict=True))
    (row,) = priced(connection, [call(**tokens)], rate())
    assert row["cost_pusd"] == 1000 * 10**6 + 100 * 4 * 10**6
    dearest = rate(cached_input_usd_per_mtok="0.5", audio_input_usd_per_mtok="3").part_rates()[5]
    assert dearest == 3 * 10**6


REFUSALS: list[tuple[int, str | None]] = [
    (400, None),
    (401, None),
    (404, None),
    (422, None),
    (429, None),
    (503, None),
    (529, None),
]
REFUSALS += [(502, "endpoint.ConnectError"), (504, "endpoint.ConnectTimeout"), (502, "endpoint.status_401")]
UNKNOWNS: list[tuple[int, str | None]] = [
    (200, None),
    (408, None),
    (409, None),
    (499, None),
    (500, None),
    (502, "endpoint.ReadError"),
]
UNKNOWNS += [
    (502, "endpoint.ReadError"),
    (504, "endpoint.ReadTimeout"),
    (429, "ClientDisconnect"),
    (200, "endpoint.ReadError"),
]


def test_calls_that_no_model_worked_on_are_free_and_others_without_usage_are_unknown(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    calls = [call(status=status, error_type=kind) for status, kind in (*REFUSALS, *UNKNOWNS)]
    calls += [call(status=429, reported_cost_pusd=5), call(status=429, input_tokens=7), call(status=429, model=None)]
    rows = priced(connection, calls, rate())
    wanted = ["free"] * len(REFUSALS) + ["unpriced"] * (len(UNKNOWNS) + 2) + ["free"]
    assert [row["cost_status"] for row in rows] == wanted
    assert {row["cost_pusd"] for row in rows if row["cost_status"] == "free"} == {0}
    assert {row["cost_pusd"] for row in rows if row["cost_status"] == "unpriced"} == {None}
    lines = add_up(connection, lambda _: (rate(),))
    assert sum(line.free_requests for line in lines) == len(REFUSALS) + 1
    assert sum(line.unpriced_requests for line in lines) == len(UNKNOWNS) + 2
    (answered,) = priced(connection, [call(status=500, input_tokens=10, output_tokens=1)], rate())
    assert (answered["cost_status"], answered["cost_pusd"]) == ("priced", 14 * 10**6)


def test_a_status_says_how_far_a_cost_is_known(connection: duckdb.DuckDBPyConnection) -> None:
    usage = {"input_tokens": 10, "output_tokens": 1}
    calls = [
        call(**usage),
        call(**usage, tokens_estimated=True),
        call(input_tokens=0, output_tokens=0),
        call(**usage, cached_input_tokens=11),
        call(**usage, other_usage='{"web_searches":1}', tokens_estimated=True),
        call(**usage, model="nope"),
    ]
    rows = [{**row, "interaction_id": str(at)} for at, row in enumerate(calls)]
    connection.register("interactions", pa.Table.from_pylist(rows, schema=SCHEMA))
    find = lambda key: (rate(),) if key.model == "m" else ()  # noqa: E731
    price_calls(connection, find_usage_keys(connection), find)
    found = connection.sql("SELECT cost_status, cost_pusd FROM priced ORDER BY interaction_id").fetchall()
    assert found == [
        ("priced", 14_000_000), ("estimated", 14_000_000), ("free", 0), ("unpriced", None), ("partial", 14_000_000),
        ("unpriced", None),
    ]  # fmt: skip
    (free,) = priced(connection, [call(**usage)], rate("0", "0"))
    assert (free["cost_status"], free["cost_pusd"]) == ("free", 0)
    (empty,) = priced(connection, [call(input_tokens=0, output_tokens=0)], rate(usd_per_request="0.5"))
    assert (empty["cost_status"], empty["cost_pusd"]) == ("priced", 5 * 10**11)


def test_the_list_price_stands_beside_the_agreed_one(connection: duckdb.DuckDBPyConnection) -> None:
    listed = (rate("2", max_input_tokens=100), rate("3", min_input_tokens=101))
    agreed = with_list((rate("1"),), listed)
    assert [(one.min_input_tokens, one.max_input_tokens) for one in agreed] == [(0, 100), (101, None)]
    rows = priced(connection, [call(input_tokens=n, output_tokens=0) for n in (100, 101)], *agreed)
    assert [(row["cost_pusd"], row["list_cost_pusd"]) for row in rows] == [
        (100 * 10**6, 200 * 10**6),
        (101 * 10**6, 303 * 10**6),
    ]
    assert sum(line.list_cost_pusd or 0 for line in add_up(connection, lambda _: agreed)) == 503 * 10**6
    (row,) = priced(connection, [call(input_tokens=1, output_tokens=0)], rate("1"))
    assert row["list_cost_pusd"] is None


count = st.none() | st.integers(0, 300)
large = st.none() | st.integers(0, 2**53)
calls = st.lists(
    st.builds(
        call,
        **dict.fromkeys(INTEGERS[2:], count),
        input_tokens=st.one_of(st.none(), st.integers(0, 2000), large),
        output_tokens=st.one_of(st.none(), st.integers(0, 2000), large),
        status=st.sampled_from([200, 200, 400, 500]),
        tokens_estimated=st.sampled_from([None, True, False]),
        other_usage=st.sampled_from([None, None, '{"web_searches":2}', '{"input_image_tokens":9,"tea":1}']),
        model=st.sampled_from(["m", "nope"]),
    ),
    min_size=1,
    max_size=25,
)
usd = st.decimals(0, 100, places=6) | st.decimals(0, Decimal("0.001"), places=9)


@settings(max_examples=12)
@given(calls=calls, prices=st.tuples(usd, usd, usd, usd), request=usd, has_units=st.booleans())
def test_the_rollup_is_the_sum_of_the_priced_calls_and_these_are_the_sums_of_their_parts(
    connection: duckdb.DuckDBPyConnection,
    calls: list[dict[str, Any]],
    prices: tuple[Decimal, ...],
    request: Decimal,
    has_units: bool,
) -> None:
    units = {("web_searches", None): Fraction(1, 3), ("input_image_tokens", "input"): Fraction(1, 10**6)}
    one = rate(
        str(prices[0]), str(prices[1]), cached_input_usd_per_mtok=str(prices[2]), reasoning_usd_per_mtok=str(prices[3]),
        usd_per_request=str(request), usd_per_unit=units if has_units else {}, max_input_tokens=1000,
    )  # fmt: skip
    two = rate(str(prices[1]), str(prices[0]), min_input_tokens=1001)
    rates = with_list((one, two), (one, two))
    find = lambda key: rates if key.model == "m" else ()  # noqa: E731
    rows = [{**row, "interaction_id": str(at)} for at, row in enumerate(calls)]
    connection.register("interactions", pa.Table.from_pylist(rows, schema=SCHEMA))
    lines = add_up(connection, find)
    price_calls(connection, find_usage_keys(connection), find)
    found = connection.sql("SELECT * FROM priced").to_arrow_table().to_pylist()
    for row in found:
        parts = [row[f"{part}_pusd"] for part in PARTS]
        assert row["cost_pusd"] == (None if parts[0] is None else sum(parts))
        assert (row["cost_pusd"] is None) == (row["cost_status"] == "unpriced")
        assert all(part is None or part >= 0 for part in parts)
    whole = {name: known_sum(row[name] for row in found) for name in ("cost_pusd", "list_cost_pusd")}
    assert {name: known_sum(getattr(line, name) for line in lines) for name in whole} == whole
    for at, part in enumerate(PARTS):
        assert known_sum(line.counts[at] for line in lines) == known_sum(row[f"{part}_count"] for row in found)
        assert known_sum(line.parts_pusd[at] for line in lines) == known_sum(row[f"{part}_pusd"] for row in found)
    assert _statuses(lines) == {name: sum(row["cost_status"] == name for row in found) for name in _statuses(lines)}
    assert add_lines(reversed(lines)) == lines


def _statuses(lines: tuple[Rollup, ...]) -> dict[str, int]:
    return {
        "free": sum(line.free_requests for line in lines),
        "estimated": sum(line.estimated_requests for line in lines),
        "partial": sum(line.partial_requests for line in lines),
        "unpriced": sum(line.unpriced_requests for line in lines),
    }
