"""The catalogue's prices are those of its own cases, and what it does not price stays unpriced."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tasks.costs.catalogue import catalogue_rates, snapshot_rates, token_units
from tasks.costs.pricing import price_calls
from tasks.costs.rates import Layer, Rate
from tasks.costs.rollup import add_up
from tasks.costs.usage import UsageKey, find_usage_keys

CONFORMANCE = Path(__file__).parents[3] / "shared" / "data" / "conformance"
needs_data = pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="shared/data is not next to the repository")
DAY = date(2025, 11, 6)
NOON = datetime(2025, 11, 6, 12, tzinfo=UTC)
"""When the vectors were computed."""
COLUMNS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
    "input_audio_tokens": "audio_input_tokens",
    "cache_audio_read_tokens": "cached_audio_input_tokens",
    "output_audio_tokens": "audio_output_tokens",
}
INPUTS = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "cached_audio_input")
OUTPUTS = ("output", "reasoning", "audio_output")


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        yield opened


def read(name: str) -> Any:
    with gzip.open(CONFORMANCE / name, "rt") as file:
        return json.load(file)


def as_call(name: str, provider: str, model: str | None, usage: dict[str, int]) -> dict[str, Any]:
    """Return a call of the log; what the extraction of a whole answer does not name was not used."""
    others = {key: value for key, value in usage.items() if key not in COLUMNS}
    row: dict[str, Any] = {COLUMNS[key]: value for key, value in usage.items() if key in COLUMNS}
    row = {"input_tokens": 0, "output_tokens": 0} | row | {"other_usage": json.dumps(others) if others else None}
    return (
        row
        | {"interaction_id": name, "provider": provider, "model": model, "date_utc": DAY, "application": "a"}
        | {"time_utc": NOON}
    )


def priced(connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], find: Any) -> list[dict[str, Any]]:
    names = sorted({key for row in rows for key in row})
    columns = {name: [row.get(name) for row in rows] for name in names}
    connection.register("interactions", pa.table(columns))
    price_calls(connection, find_usage_keys(connection), find)
    return list(connection.sql("SELECT * FROM priced ORDER BY interaction_id").to_arrow_table().to_pylist())


@pytest.fixture(scope="module")
def snapshots() -> tuple[Any, Any]:
    from genai_prices.data_snapshot import DataSnapshot, get_snapshot
    from genai_prices.types import _providers_from_raw

    return DataSnapshot(
        _providers_from_raw(read("genai_prices_data_slim.json.gz")), from_auto_update=False
    ), get_snapshot()


@needs_data
def test_the_bodies_of_the_catalogue_are_priced_as_its_vectors_say(
    connection: duckdb.DuckDBPyConnection, snapshots: tuple[Any, Any]
) -> None:
    bodies = read("genai_prices_usages.json.gz")
    assert len(bodies) == 1114
    rows, wanted = [], {}
    for number, body in enumerate(bodies):
        for place, found in enumerate(body["extracted"]):
            for at, one in enumerate(found["extractors"]):
                name = f"{number:04}-{place}-{at:02}"
                rows.append(as_call(name, one["provider_id"], body.get("model"), found["usage"]))
                wanted[name] = one
    slim, whole = (
        {row["interaction_id"]: compare(row, wanted[row["interaction_id"]]) for row in priced(connection, rows, find)}
        for find in (cache(lambda key, edition=edition: rates_of(edition, key)) for edition in snapshots)
    )
    # The slim edition of the vectors lacks web searches, three providers' newest models and four prices of images; the
    # edition that is installed has them, and has changed others since.
    assert Counter(slim.values()) == {
        "unpriced as it must be": 10939,
        "as it must be": 2494,
        "known part as it must be": 6,
        "unpriced, though it has a price": 6,
        "another price": 4,
    }
    left = [name for name, said in slim.items() if said not in {"unpriced as it must be", "as it must be"}]
    assert Counter(whole[name] for name in left) == {"as it must be": 15, "unpriced, though it has a price": 1}
    (dropped,) = [name for name in left if whole[name] != "as it must be"]
    assert wanted[dropped]["provider_id"] == "cerebras"


def rates_of(snapshot: Any, key: UsageKey) -> tuple[Rate, ...]:
    if key.provider is None or key.model is None:
        return ()
    return snapshot_rates(snapshot, key.provider, key.model, key.date_utc)


def compare(row: dict[str, Any], wanted: dict[str, str]) -> str:
    cost, inputs, outputs = row["cost_pusd"], wanted.get("input_price"), wanted.get("output_price")
    if inputs is None or outputs is None:
        return "unpriced as it must be" if cost is None else "priced, though it must not be"
    if cost is None:
        return "unpriced, though it has a price"
    mine = [sum(row[f"{part}_pusd"] for part in parts) for parts in (INPUTS, OUTPUTS)]
    if row["cost_status"] == "partial":
        same = mine == [Decimal(price) * 10**12 for price in (inputs, outputs)]
        return "known part as it must be" if same else "another price"
    total = Decimal(wanted.get("total_price", Decimal(inputs) + Decimal(outputs))) * 10**12
    return "as it must be" if (mine[0], cost) == (Decimal(inputs) * 10**12, total) else "another price"


def test_a_model_that_the_catalogue_lists_without_a_tier_is_unpriced_there() -> None:
    day = date(2026, 11, 1)
    standard, batch, flex, priority = (
        catalogue_rates("openai", "gpt-4o", day, tier) for tier in ("standard", "batch", "flex", "priority")
    )
    found = [[rate.input_pusd_per_unit for rate in rates] for rates in (standard, batch, flex, priority)]
    assert found == [[2_500_000], [1_250_000], [], [4_250_000]]
    assert catalogue_rates("openai", "gpt-4o", day, "bacth") == ()
    assert catalogue_rates("openai", "gpt-4o", date(2026, 10, 13), "batch") == ()
    assert len({rate.sha256 for rates in (standard, batch, priority) for rate in rates}) == 3


def test_a_price_by_the_hour_is_that_of_the_hour(connection: duckdb.DuckDBPyConnection, snapshots: Any) -> None:
    rates = snapshot_rates(snapshots[0], "deepseek", "deepseek-reasoner", DAY)
    assert [(rate.from_second, rate.until_second) for rate in rates] == [
        (0, 30 * 60), (30 * 60, 59_400), (59_400, 86_400),
    ]  # fmt: skip
    calls = [
        as_call(f"{hour:02}", "deepseek", "deepseek-reasoner", {"input_tokens": 1_000_000})
        | {"time_utc": datetime(2025, 11, 6, hour, 29, 59, tzinfo=UTC)}
        for hour in (0, 1, 16, 17)
    ]
    rows = priced(connection, calls, lambda _: rates)
    peak = rows[1]["cost_pusd"]
    assert [row["cost_pusd"] for row in rows] == [rows[0]["cost_pusd"], peak, peak, rows[0]["cost_pusd"]]
    assert 0 < rows[0]["cost_pusd"] < peak
    lines = add_up(connection, lambda _: rates)
    assert sum(line.cost_pusd or 0 for line in lines) == sum(row["cost_pusd"] for row in rows)
    assert len(lines) == 2


def test_units_that_are_tokens_cost_as_their_kind_does_and_others_have_a_price_or_are_flagged(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    assert "input_image_tokens" in token_units()
    assert "web_searches" not in token_units()
    day = {"date_utc": date(2026, 11, 1)}
    usage = {"input_tokens": 1000, "output_tokens": 10}
    rows = [
        as_call("1", "openai", "gpt-4o", usage | {"input_image_tokens": 900}) | day,
        as_call("2", "openai", "gpt-4o", usage | {"web_searches": 2}) | day,
        as_call("3", "openai", "gpt-4o", usage | {"tea": 2, "input_image_tokens": 0}) | day,
        as_call("4", "openai", "gpt-4o", usage | {"tea": 0}) | day,
        as_call("5", "openai", "text-embedding-3-small", {"input_tokens": 1000}) | day | {"output_tokens": None},
        as_call("6", "openai", "text-embedding-3-small", usage) | day,
    ]
    found = priced(connection, rows, lambda key: catalogue_rates(key.provider, key.model, key.date_utc))
    assert [(row["cost_status"], row["unknown_units"]) for row in found] == [
        ("priced", None),
        ("priced", None),
        ("partial", ["tea"]),
        ("priced", None),
        ("priced", None),
        ("partial", ["output_tokens"]),
    ]
    assert [row["cost_pusd"] for row in found] == [
        2_600_000_000, 2_600_000_000 + 2 * 10**10, 2_600_000_000, 2_600_000_000, 20_000_000, 20_000_000,
    ]  # fmt: skip
    assert {row["price_layer"] for row in found} == {Layer.CATALOGUE}
