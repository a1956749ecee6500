"""The bill of real traces is that of plain decimals over their published rows, to the last digit, however they come."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.costs.line import Rollup, add_lines, known_sum
from tasks.costs.prices import PriceBook, PriceEntry, find_rates
from tasks.costs.rates import Rate
from tasks.costs.rollup import add_up, format_usd
from tasks.costs.usage import FindRates, UsageKey
from tasks.costs.zones import day_window

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not next to the repository")
BERLIN = "CAST(timezone('Europe/Berlin', time_utc) AS DATE)"
USD = {"gpt_4o": ("2.5", "10"), "gpt_4o_mini": ("0.15", "0.6")}


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def rates_at(name: str = "gpt_4o") -> dict[str, tuple[Rate, ...]]:
    entry = PriceEntry(
        provider="openai",
        model="m",
        from_utc=date(2000, 1, 1),
        input_usd_per_mtok=Decimal(USD[name][0]),
        output_usd_per_mtok=Decimal(USD[name][1]),
        source="the truth tables",
    )
    return {"m": find_rates(PriceBook((entry,)), "openai", "m", date(2024, 1, 1))}


def at(name: str = "gpt_4o") -> FindRates:
    rates = rates_at(name)
    return lambda key: rates.get(key.model or "", ())


def truth(name: str) -> list[dict[str, str]]:
    with (DATA / "truth" / name).open() as handle:
        return [row for row in csv.DictReader(handle) if row["utc_day"] != "TOTAL"]


def servegen(connection: duckdb.DuckDBPyConnection, order: str = "") -> None:
    path = DATA / "traces" / "servegen_msmall_14d.parquet"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE calls_read AS SELECT CAST(ts_utc AS TIMESTAMPTZ) AS time_utc, "  # noqa: S608
        "CAST(ts_utc AS DATE) AS date_utc, 'client-' || client AS application, 'openai' AS provider, 'm' AS model, "
        f"CAST(input_tokens AS BIGINT) AS input_tokens, CAST(output_tokens AS BIGINT) AS output_tokens "
        f"FROM read_parquet('{path}') {order}"
    )
    connection.execute("CREATE OR REPLACE TEMP VIEW interactions AS SELECT * FROM calls_read")


def by_group(lines: tuple[Rollup, ...]) -> dict[tuple[str, str], tuple[int, int | None, int | None, int | None]]:
    found: dict[tuple[str, str], list[Rollup]] = defaultdict(list)
    for line in lines:
        found[line.key.day.isoformat(), line.key.application].append(line)
        found[line.key.day.isoformat(), "ALL"].append(line)
    return {
        key: (
            sum(line.requests for line in group),
            known_sum(line.input_tokens for line in group),
            known_sum(line.output_tokens for line in group),
            known_sum(line.cost_pusd for line in group),
        )
        for key, group in found.items()
    }


def expected(name: str, column: str) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    return {
        (row["utc_day"], row["group"]): (
            int(row["requests"]),
            int(row["input_tokens"]),
            int(row["output_tokens"]),
            int(Decimal(row[column]) * 10**12),
        )
        for row in truth(name)
    }


@pytest.mark.parametrize("price", ["gpt_4o", "gpt_4o_mini"])
def test_azure_costs_what_its_rows_cost(connection: duckdb.DuckDBPyConnection, price: str) -> None:
    tables = [pq.read_table(DATA / "traces" / f"azure_llm_2023_{service}.parquet") for service in ("conv", "code")]
    connection.register("trace", pa.concat_tables(tables))
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW interactions AS SELECT CAST(ts_utc AS DATE) AS date_utc, service AS application, "
        "'openai' AS provider, 'm' AS model, CAST(input_tokens AS BIGINT) AS input_tokens, "
        "CAST(output_tokens AS BIGINT) AS output_tokens FROM trace"
    )
    assert by_group(add_up(connection, at(price))) == expected("cost_azure_llm_2023.csv", f"cost_usd_{price}")
    assert expected("cost_azure_llm_2023.csv", "cost_usd_gpt_4o")["2023-11-16", "ALL"][3] == 144_400_220_000_000


def test_two_weeks_across_a_clock_change_cost_the_same_however_they_come(connection: duckdb.DuckDBPyConnection) -> None:
    servegen(connection)
    whole = add_up(connection, at())
    assert sum(line.requests for line in whole) == 1_097_564
    assert by_group(whole) == expected("cost_servegen_msmall_14d.csv", "cost_usd_gpt_4o")
    shards: list[Rollup] = []
    for shard in range(4):
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW interactions AS SELECT * FROM calls_read "  # noqa: S608 -- a number
            f"WHERE hash(time_utc) % 4 = {shard}"
        )
        shards.extend(add_up(connection, at()))
    assert add_lines(shards) == whole
    servegen(connection, "ORDER BY hash(ts_utc, input_tokens)")
    assert add_up(connection, at()) == whole


def test_days_of_berlin_are_23_hours_long_where_the_clocks_change(connection: duckdb.DuckDBPyConnection) -> None:
    start, end = day_window(date(2025, 3, 30), "Europe/Berlin")
    assert (start, end) == (datetime(2025, 3, 29, 23, tzinfo=UTC), datetime(2025, 3, 30, 22, tzinfo=UTC))
    start, end = day_window(date(2025, 10, 26), "Europe/Berlin")
    assert (end - start).total_seconds() == 25 * 3600
    servegen(connection)
    # Four hours later the evening's burst of 66,799 calls falls between 22:00 and 23:00 UTC: in summer time, tomorrow.
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW interactions AS SELECT * REPLACE (time_utc + INTERVAL 4 HOUR AS time_utc, "
        "CAST(time_utc + INTERVAL 4 HOUR AS DATE) AS date_utc) FROM calls_read"
    )
    days = {key[0]: row for key, row in by_group(add_up(connection, at(), BERLIN)).items() if key[1] == "ALL"}
    utc = {key[0]: row for key, row in by_group(add_up(connection, at())).items() if key[1] == "ALL"}
    # The rule is written out here, so that it is not the code's own: summer time began at 01:00 UTC on 2025-03-30.
    found = connection.sql(
        "SELECT CAST(CAST(make_timestamp(epoch_us(time_utc)) + "
        "CASE WHEN time_utc >= TIMESTAMPTZ '2025-03-30 01:00:00Z' THEN INTERVAL 2 HOUR "
        "ELSE INTERVAL 1 HOUR END AS DATE) AS VARCHAR), count(*), sum(input_tokens), "
        "sum(output_tokens), sum(CAST(input_tokens AS HUGEINT) * 2500000 + output_tokens * 10000000) "
        "FROM interactions GROUP BY 1"
    ).fetchall()
    assert days == {day: tuple(row) for day, *row in found}
    assert days["2025-03-31"][0] - utc["2025-03-31"][0] > 60_000
    assert sum(row[0] for row in days.values()) == 1_097_564


def aider(connection: duckdb.DuckDBPyConnection) -> None:
    rows = []
    with gzip.open(DATA / "traces" / "aider_usage.jsonl.gz", "rt") as lines:
        for line in lines:
            read = json.loads(line, parse_float=Decimal)
            name = read["main_model"]
            rows.append(
                {
                    "date_utc": datetime.fromtimestamp(int(read["time"]), UTC).date(),
                    "application": "aider",
                    "provider": "openai",
                    "model": None if name in {None, "None", "REDACTED"} else name,
                    "input_tokens": read["prompt_tokens"],
                    "output_tokens": read["completion_tokens"],
                    "reported_cost_pusd": None if read["cost"] is None else int(Decimal(read["cost"]) * 10**12),
                }
            )
    connection.register("aider_rows", pa.Table.from_pylist(rows))
    connection.execute("CREATE OR REPLACE TEMP VIEW interactions AS SELECT * FROM aider_rows")


def test_aider_at_the_rates_of_gpt_4o(connection: duckdb.DuckDBPyConnection) -> None:
    aider(connection)
    rates = rates_at()["m"]
    lines = add_up(connection, lambda key: rates if key.model is not None else ())
    known = expected("cost_aider_usage_at_gpt4o_rates.csv", "cost_usd_gpt_4o")
    wanted = {key: row for key, row in known.items() if key[1] not in {"ALL", "null", "None", "REDACTED", ""}}
    mine: dict[tuple[str, str], tuple[int, int | None, int | None, int | None]] = {
        (line.key.day.isoformat(), line.key.model): (
            line.requests, line.input_tokens, line.output_tokens, line.cost_pusd,
        )
        for line in lines
        if line.key.model is not None
    }  # fmt: skip
    assert mine == wanted
    nameless = [line for line in lines if line.key.model is None]
    assert nameless
    assert {line.cost_pusd for line in nameless} == {None}
    assert sum(line.requests for line in lines) == 2668


def test_aider_at_list_prices_leaves_what_nobody_knows_unpriced(connection: duckdb.DuckDBPyConnection) -> None:
    aider(connection)
    lines = add_up(connection, lambda key: find_rates(PriceBook(), key.provider, key.model, key.date_utc))
    unknown = [line for line in lines if line.key.model is None]
    assert unknown
    assert {(line.cost_pusd, line.coverage, line.price_layer) for line in unknown} == {(None, 0.0, None)}
    mini = [line for line in lines if line.key.model == "gpt-4o-mini"]
    assert known_sum(line.cost_pusd for line in mini) == sum(
        (line.input_tokens or 0) * 150_000 + (line.output_tokens or 0) * 600_000 for line in mini
    )


def test_what_aider_recorded_is_kept_beside_the_bill(connection: duckdb.DuckDBPyConnection) -> None:
    aider(connection)
    sums = connection.sql(
        "SELECT CAST(date_utc AS VARCHAR), sum(reported_cost_pusd) FROM interactions GROUP BY 1"
    ).fetchall()
    recorded = {row["utc_day"]: row for row in truth("cost_aider_usage_recorded.csv") if row["main_model"] == "ALL"}
    assert len(recorded) == len(sums) > 0
    for day, total in sums:
        assert abs(Decimal(total) / 10**12 - Decimal(recorded[day]["recorded_cost_usd"])) < Decimal("1e-9"), day


def test_amounts_read_as_the_truth_tables_write_them() -> None:
    assert format_usd(144_400_220_000_000) == "144.40022"
    assert UsageKey(date(2024, 1, 1), "a", None, None, None).service_tier == "standard"
