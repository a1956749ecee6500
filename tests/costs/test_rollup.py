from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.costs.rates import Layer, Rate, UsdPerMtok, make_rate
from tasks.costs.rollup import (
    ROLLUP_SCHEMA,
    Rollup,
    UsageKey,
    add_up,
    as_table,
    find_usage_keys,
    format_usd,
    read_rollups,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not next to the repository")
DAY = date(2024, 3, 1)
COLUMNS = {
    "date_utc": pa.date32(),
    "application": pa.string(),
    "release_digest": pa.string(),
    "provider": pa.string(),
    "model": pa.string(),
    "input_tokens": pa.int64(),
    "output_tokens": pa.int64(),
    "cached_input_tokens": pa.int64(),
}
USD = {"gpt_4o": ("2.5", "10"), "gpt_4o_mini": ("0.15", "0.6")}


def rate(inputs: str, outputs: str, cached: str | None = None, low: int = 0, high: int | None = None) -> Rate:
    usd = UsdPerMtok(
        input_usd_per_mtok=Decimal(inputs),
        cached_input_usd_per_mtok=None if cached is None else Decimal(cached),
        output_usd_per_mtok=Decimal(outputs),
        min_input_tokens=low,
        max_input_tokens=high,
    )
    made = make_rate(usd, provider="p", model="m", day=DAY, layer=Layer.BOOK, sha256="s")
    assert made is not None
    return made


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        yield opened


def usage(*calls: tuple[int | None, int | None, int | None], model: str | None = "m") -> pa.Table:
    n = len(calls)
    constant = {"date_utc": DAY, "application": "a", "release_digest": None, "provider": "p", "model": model}
    columns = {name: [value] * n for name, value in constant.items()}
    for index, name in enumerate(("input_tokens", "output_tokens", "cached_input_tokens")):
        columns[name] = [call[index] for call in calls]
    return pa.table({name: pa.array(values, COLUMNS[name]) for name, values in columns.items()})


def rolled(connection: duckdb.DuckDBPyConnection, rows: pa.Table, *rates: Rate) -> pa.Table:
    connection.register("interactions", rows)
    return as_table(add_up(connection, lambda _: rates))


def truth(name: str, group: str) -> dict[str, dict[str, str]]:
    with (DATA / "truth" / name).open() as handle:
        return {
            row["utc_day"]: row for row in csv.DictReader(handle) if row["group"] == group and row["utc_day"] != "TOTAL"
        }


@needs_data
@pytest.mark.parametrize(
    ("name", "trace", "column", "prefix"),
    [
        ("cost_azure_llm_2023.csv", "azure_llm_2023_conv", "service", ""),
        ("cost_azure_llm_2023.csv", "azure_llm_2023_code", "service", ""),
        ("cost_servegen_msmall_14d.csv", "servegen_msmall_14d", "client", "client-"),
    ],
)
def test_real_traces_cost_what_the_published_rows_cost(
    connection: duckdb.DuckDBPyConnection, name: str, trace: str, column: str, prefix: str
) -> None:
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("trace", pq.read_table(DATA / "traces" / f"{trace}.parquet"))
    rows = connection.sql(
        f"SELECT CAST(ts_utc AS DATE) AS date_utc, '{prefix}' || CAST({column} AS VARCHAR) AS application, "  # noqa: S608
        "CAST(NULL AS VARCHAR) AS release_digest, 'openai' AS provider, 'm' AS model, "
        "CAST(input_tokens AS BIGINT) AS input_tokens, CAST(output_tokens AS BIGINT) AS output_tokens, "
        "CAST(NULL AS BIGINT) AS cached_input_tokens FROM trace"
    ).to_arrow_table()
    for price, usd in USD.items():
        lines = read_rollups(rolled(connection, rows, rate(*usd)))
        assert sum(line.requests for line in lines) == rows.num_rows
        for group in {line.key.application for line in lines}:
            mine = {line.key.day.isoformat(): line for line in lines if line.key.application == group}
            assert_equal(mine, truth(name, group), f"cost_usd_{price}")


def assert_equal(mine: dict[str, Rollup], expected: dict[str, dict[str, str]], column: str) -> None:
    assert mine.keys() == expected.keys()
    for day, row in expected.items():
        line = mine[day]
        assert (line.requests, line.coverage) == (int(row["requests"]), 1)
        assert (line.input_tokens, line.output_tokens) == (int(row["input_tokens"]), int(row["output_tokens"]))
        assert line.cost_pusd is not None
        assert Decimal(format_usd(line.cost_pusd)) == Decimal(row[column])


tokens = st.none() | st.integers(0, 2**53)
prices = st.decimals(0, 10**6, places=6) | st.decimals(0, Decimal("0.00001"), places=14)


@settings(deadline=None, max_examples=25)
@given(
    calls=st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=30), usd=st.tuples(prices, prices, prices)
)
def test_sums_are_those_of_exact_integers(
    connection: duckdb.DuckDBPyConnection,
    calls: list[tuple[int | None, int | None, int | None]],
    usd: tuple[Decimal, Decimal, Decimal],
) -> None:
    line = read_rollups(rolled(connection, usage(*calls), rate(str(usd[0]), str(usd[1]), str(usd[2]))))[0]
    costs = [cost for cost in (expected_pusd(call, usd) for call in calls) if cost is not None]
    assert (line.requests, line.priced_requests) == (len(calls), len(costs))
    assert line.cost_pusd == (sum(costs) if costs else None)
    known = [call[0] for call in calls if call[0] is not None]
    assert line.input_tokens == (sum(known) if known else None)


def expected_pusd(call: tuple[int | None, int | None, int | None], usd: tuple[Decimal, ...]) -> int | None:
    inputs, outputs, cached = call
    if inputs is None or outputs is None or (cached or 0) > inputs:
        return None
    with localcontext(prec=80):
        amount = (inputs - (cached or 0)) * usd[0] + outputs * usd[1] + (cached or 0) * usd[2]
        cost = int((amount * 10**6).to_integral_value(ROUND_HALF_EVEN))
    return cost if cost < 2**63 else None


def test_a_half_pico_usd_is_rounded_to_the_even_neighbour(connection: duckdb.DuckDBPyConnection) -> None:
    costs = [
        read_rollups(rolled(connection, usage((count, 0, 0)), rate("0.0000005", "0")))[0].cost_pusd
        for count in range(8)
    ]
    assert costs == [0, 0, 1, 2, 2, 2, 3, 4]


def test_unknown_is_unpriced_and_never_0(connection: duckdb.DuckDBPyConnection) -> None:
    partly = usage((None, 5, None), (5, None, None), (None, None, None), (10, 1, 11))
    (line,) = read_rollups(rolled(connection, partly, rate("1", "1")))
    assert (line.requests, line.priced_requests, line.coverage, line.cost_pusd) == (4, 0, 0, None)
    (line,) = read_rollups(rolled(connection, usage((1, 1, None))))
    assert (line.priced_requests, line.cost_pusd, line.price_layer) == (0, None, None)
    (line,) = read_rollups(rolled(connection, usage((0, 0, None)), rate("1", "1")))
    assert (line.priced_requests, line.free_requests, line.cost_pusd) == (1, 1, 0)


def test_cached_tokens_are_part_of_the_input(connection: duckdb.DuckDBPyConnection) -> None:
    calls = usage((100, 0, 60), (100, 0, None))
    (line,) = read_rollups(rolled(connection, calls, rate("1", "1", "0.5")))
    assert line.cost_pusd == (40 + 30 + 100) * 10**6
    (line,) = read_rollups(rolled(connection, calls, rate("1", "1")))
    assert line.cost_pusd == 200 * 10**6


def test_a_request_costs_what_its_size_costs(connection: duckdb.DuckDBPyConnection) -> None:
    sizes = usage((200, 1, None), (201, 1, None), (None, 1, None))
    (line,) = read_rollups(rolled(connection, sizes, rate("3", "0", high=200), rate("6", "0", low=201)))
    assert (line.priced_requests, line.cost_pusd) == (2, (600 + 1206) * 10**6)


def test_each_release_has_its_own_rate_and_unknown_names_are_kept(connection: duckdb.DuckDBPyConnection) -> None:
    rows = pa.concat_tables([usage((1, 0, 0)), usage((1, 0, 0), model=None)])
    released = rows.set_column(2, "release_digest", pa.array(["f" * 64] * 2))
    connection.register("interactions", pa.concat_tables([rows, released]))
    keys = find_usage_keys(connection)
    assert keys[:2] == (UsageKey(DAY, "a", None, "p", None), UsageKey(DAY, "a", None, "p", "m"))
    rates = {keys[index]: (rate(str(index), "0"),) for index in range(4)}
    lines = add_up(connection, lambda key: rates.get(key, ()))
    assert [line.cost_pusd for line in lines] == [0, 10**6, 2 * 10**6, 3 * 10**6]


def test_a_rerun_gives_the_same_bytes_in_whatever_order_the_rows_are(connection: duckdb.DuckDBPyConnection) -> None:
    rows = pa.concat_tables([usage(*[(n, n, None)] * 5, model=f"m{n % 7}") for n in range(500)])
    reverse = rows.take(pa.array(range(rows.num_rows - 1, -1, -1)))
    written = {as_bytes(rolled(connection, table, rate("0.1234567", "3"))) for table in (rows, reverse, rows)}
    assert len(written) == 1
    assert rolled(connection, rows, rate("1", "1")).schema == ROLLUP_SCHEMA
    assert pc.sum(rolled(connection, rows)["requests"]).as_py() == 2500


def as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("pusd", "text"),
    [(0, "0.00"), (10**12, "1.00"), (1, "0.000000000001"), (144_400_220_000_000, "144.40022"), (-(10**11), "-0.10")],
)
def test_an_amount_is_written_exactly(pusd: int, text: str) -> None:
    assert format_usd(pusd) == text


@given(st.integers(-(10**38), 10**38))
def test_every_amount_reads_back(pusd: int) -> None:
    with localcontext(prec=80):
        assert Decimal(format_usd(pusd)) * 10**12 == pusd
