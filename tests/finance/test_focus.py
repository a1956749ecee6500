from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.costs.contracts import Contract
from tasks.costs.line import as_table as rollup_table
from tasks.costs.prices import PriceBook, PriceEntry, find_rates
from tasks.costs.pricing import price_calls
from tasks.costs.rates import Rate
from tasks.costs.rollup import add_up
from tasks.costs.usage import UsageKey, find_usage_keys
from tasks.errors import InputError
from tasks.finance.exports import as_cell, in_usd, write_table
from tasks.finance.focus import FOCUS_SCHEMA, FocusExport, export_focus
from tasks.finance.focus_rules import Problem, check_focus_file
from tasks.interactions.schema import Interaction, as_table

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "formats" / "focus_1_0_sample.csv"
CONTRACT = {"provider": "p", "from_utc": "2024-05-13", "source": "test"}
PRICE = {"from_utc": "2024-05-13", "source": "test", "provider": "p"}
FINE = {"input_usd_per_mtok": "0.000003", "output_usd_per_mtok": "0", "usd_per_request": "0.01"}
PLAIN = {"input_usd_per_mtok": "5", "cached_input_usd_per_mtok": "1", "output_usd_per_mtok": "15"}
CUT = {"input_usd_per_mtok": "0.000007", "output_usd_per_mtok": "0"}
BOOK = PriceBook(
    tuple(
        PriceEntry.model_validate(PRICE | {"model": model} | usd)
        for model, usd in (("m", PLAIN), ("fine", FINE), ("cut", CUT))
    ),
    (Contract.model_validate({"name": "c", "model": "cut", "percent_off": "33.3"} | CONTRACT),),
)
NOON = datetime(2024, 6, 30, 12, tzinfo=UTC)


def call(name: str, **values: Any) -> Interaction:
    given: dict[str, Any] = {"application": "support", "provider": "p", "model": "m", "time": NOON, "status": 200}
    return Interaction(interaction_id=name, **(given | {"input_tokens": 1000, "output_tokens": 100} | values))


def find(key: UsageKey) -> tuple[Rate, ...]:
    return find_rates(BOOK, key.provider, key.model, key.date_utc, None, team=key.team, tier=key.service_tier)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def export(connection: duckdb.DuckDBPyConnection, *calls: Interaction) -> FocusExport:
    connection.register("interactions", as_table(calls))
    price_calls(connection, find_usage_keys(connection), find)
    return export_focus(connection, "acct-1")


def test_a_row_is_a_day_an_owner_a_model_and_one_kind_of_tokens(connection: duckdb.DuckDBPyConnection) -> None:
    calls = [call("1", cached_input_tokens=400, team="t", tags=("env=prod", "vip")), call("2"), call("?", model="nope")]
    made = export(connection, *calls)
    assert made.table.schema == FOCUS_SCHEMA
    assert (made.calls, made.left_out) == (2, (("p", "nope", 1),))
    rows = made.table.to_pylist()
    assert [
        (row["SubAccountId"], row["x_TokenType"], row["PricingQuantity"], str(row["BilledCost"])) for row in rows
    ] == [
        ("t", "input", Decimal("0.0006"), "0.003000000000"),
        ("t", "cache_read", Decimal("0.0004"), "0.000400000000"),
        ("t", "output", Decimal("0.0001"), "0.001500000000"),
        (None, "input", Decimal("0.001"), "0.005000000000"),
        (None, "output", Decimal("0.0001"), "0.001500000000"),
    ]
    first = rows[0]
    assert json.loads(first["Tags"]) == {"env": "prod", "vip": True}
    assert first["ContractedUnitPrice"] == first["ListUnitPrice"] == 5
    assert (first["PricingUnit"], first["ConsumedUnit"], first["ConsumedQuantity"]) == ("1000000 Tokens", "Tokens", 600)
    assert (first["BillingPeriodEnd"], first["ChargePeriodEnd"]) == (datetime(2024, 7, 1, tzinfo=UTC),) * 2
    assert (first["SkuId"], first["SkuPriceId"]) == ("p/m/input", "p/m/input/standard/0")


amounts = st.integers(0, 10**9)


@settings(max_examples=8)
@given(
    calls=st.lists(
        st.tuples(amounts, amounts, st.sampled_from(["m", "fine", "cut", "nope"]), st.sampled_from(["a", "=b"])),
        max_size=8,
    )
)
def test_the_file_keeps_the_rules_and_adds_up_to_the_rollup(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, int, str, str]]
) -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        asked = [
            call(str(index), input_tokens=one, output_tokens=two, model=model, application=application)
            for index, (one, two, model, application) in enumerate(calls)
        ]
        made = export(connection, *asked)
        cost = sum(line.cost_pusd or 0 for line in add_up(connection, find))
    billed = sum((value.as_py() for value in made.table["BilledCost"]), Decimal(0))
    assert int(billed * 10**12) == made.cost_pusd == cost
    path = tmp_path_factory.mktemp("focus") / "costs.csv"
    write_table(made.table, path)
    assert [problem.describe() for problem in check_focus_file(path)] == []


def test_calls_rounded_one_by_one_have_the_price_they_really_cost(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    made = export(connection, *[call(str(index), model="cut", input_tokens=1, output_tokens=0) for index in range(3)])
    (row,) = made.table.to_pylist()
    assert (row["BilledCost"], row["ListCost"]) == (Decimal("0.000000000015"), Decimal("0.000000000021"))
    assert (row["ContractedUnitPrice"], row["ListUnitPrice"]) == (Decimal("0.000005"), Decimal("0.000007"))
    assert row["x_PriceLayer"] == "contract"
    whole = export(connection, call("1", model="cut", input_tokens=1000, output_tokens=0)).table.to_pylist()
    assert whole[0]["ContractedUnitPrice"] == Decimal("0.000004669")
    write_table(made.table, tmp_path / "cut.csv")
    assert check_focus_file(tmp_path / "cut.csv") == ()


def test_every_call_with_a_cost_is_in_it(connection: duckdb.DuckDBPyConnection) -> None:
    counted = call("1", tokens_estimated=True)
    part = call("2", other_usage={"strange": 3}, model="fine", output_tokens=0)
    refused = call("3", status=429, input_tokens=None, output_tokens=None)
    made = export(connection, counted, part, refused)
    assert [(row["x_CostStatus"], row["x_TokenType"]) for row in made.table.to_pylist()] == [
        ("partial", "input"),
        ("partial", "request"),
        ("estimated", "input"),
        ("estimated", "output"),
    ]
    assert (made.calls, made.left_out) == (3, ())
    assert made.table["PricingUnit"].to_pylist()[1] == "Requests"


@pytest.fixture
def sound(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> list[dict[str, str]]:
    path = tmp_path / "sound.csv"
    write_table(export(connection, call("1"), call("2", model="fine")).table, path)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def changed(**values: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        rows[1] |= values

    return change


def without(name: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            del row[name]

    return change


@pytest.mark.parametrize(
    ("change", "column", "rule"),
    [
        (without("HostProviderName"), "HostProviderName", "is missing; version 1.3 demands it"),
        (changed(BilledCost=""), "BilledCost", "must not be null"),
        (changed(BilledCost="1e-3"), "BilledCost", "must be a plain decimal number"),
        (changed(BilledCost="+1"), "BilledCost", "must be a plain decimal number"),
        (changed(BilledCost="$1"), "BilledCost", "must be a plain decimal number"),
        (changed(ListUnitPrice="-1"), "ListUnitPrice", "must not be negative"),
        (changed(ListCost="0.0015001"), "ListCost", "must be ListUnitPrice times PricingQuantity"),
        (changed(ContractedCost="9"), "ContractedCost", "must be ContractedUnitPrice times PricingQuantity"),
        (changed(ChargeCategory="usage"), "ChargeCategory", "must be one of Usage, Purchase, Tax, Credit, Adjustment"),
        (changed(ChargeCategory="Tax"), "ListUnitPrice", "must be null on a tax"),
        (changed(ChargeCategory="Purchase"), "ConsumedQuantity", "must be null where nothing is used"),
        (changed(ConsumedQuantity="", ConsumedUnit=""), "ConsumedQuantity", "must not be null on Usage"),
        (changed(PricingUnit=""), "PricingUnit", "must be null where PricingQuantity is, and only there"),
        (changed(SkuPriceId=""), "SkuPriceId", "must not be null on Usage"),
        (changed(SkuId="p/other"), "SkuId", ""),
        (changed(ChargePeriodStart="2024-06-30 00:00:00"), "ChargePeriodStart", "must be UTC as 2025-01-31T00:00:00Z"),
        (changed(ChargePeriodStart="2024-06-31T00:00:00Z"), "ChargePeriodStart", "must be UTC as 2025-01-31T00:00:00Z"),
        (changed(ChargePeriodEnd="2024-06-30T00:00:00Z"), "ChargePeriodEnd", "must be after ChargePeriodStart"),
        (changed(Tags='{"a": [1]}'), "Tags", "must be a JSON object of texts, numbers, booleans and nulls"),
        (changed(Tags='{"a": 1, "a": 2}'), "Tags", "must be a JSON object of texts, numbers, booleans and nulls"),
        (changed(BillingCurrency="Dollar"), "BillingCurrency", "must be a code of ISO 4217"),
        (changed(ServiceSubcategory="Caching"), "ServiceSubcategory", "must be one of its ServiceCategory"),
        (changed(PricingUnit="1M-tokens"), "PricingUnit", "should be a unit such as Tokens or 1000000 Tokens"),
    ],
)
def test_every_rule_that_is_broken_is_named(
    sound: list[dict[str, str]], tmp_path: Path, change: Callable[[list[dict[str, str]]], None], column: str, rule: str
) -> None:
    change(sound)
    found = check_focus_file(write_rows(tmp_path, sound))
    if rule:
        assert (column, rule) in [(problem.column, problem.rule) for problem in found]
    else:
        assert found == ()  # a SKU of its own for the price is allowed


def write_rows(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "changed.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_price_id_has_one_sku_and_a_strange_column_begins_with_x(sound: list[dict[str, str]], tmp_path: Path) -> None:
    sound[1]["SkuPriceId"] = sound[0]["SkuPriceId"]
    for row in sound:
        row["Region"] = "eu"
    found = {problem.column: problem for problem in check_focus_file(write_rows(tmp_path, sound))}
    assert found["SkuPriceId"] == Problem(
        column="SkuPriceId", rule="must have one SkuId only", row=2, value="p/fine/input/standard/0"
    )
    assert found["Region"].describe() == "Region: is no column of version 1.3; custom ones begin with x_"


def test_a_row_of_another_length_and_no_file_are_said(sound: list[dict[str, str]], tmp_path: Path) -> None:
    path = write_rows(tmp_path, sound)
    path.write_text(path.read_text() + "1,2\n")
    (problem,) = check_focus_file(path)
    assert (problem.column, problem.rule, problem.row) == (
        "row",
        "must have as many cells as the header",
        len(sound) + 1,
    )
    with pytest.raises(InputError, match="cannot be read as CSV"):
        check_focus_file(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="it has no header"):
        check_focus_file(tmp_path / "empty.csv")


@pytest.mark.skipif(not SAMPLE.exists(), reason="shared/data is not next to the repository")
def test_the_public_sample_of_1_0_breaks_what_it_breaks() -> None:
    """Its times have no zone, a column is not of the specification, and some rows lack prices."""
    found = {(one.column, one.rule): one for one in check_focus_file(SAMPLE, "1.0")}
    moment = "must be UTC as 2025-01-31T00:00:00Z"
    assert {column: one.times for (column, rule), one in found.items() if rule == moment} == dict.fromkeys(
        ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"), 1000
    )
    assert found["ListCost", "must be ListUnitPrice times PricingQuantity"].times == 436
    assert ("Id", "is no column of version 1.0; custom ones begin with x_") in found
    assert not [one for one in found.values() if one.rule.startswith("is missing")]
    newer = check_focus_file(SAMPLE, "1.3")
    missing = [one.column for one in newer if one.rule.startswith("is missing")]
    assert missing == ["HostProviderName", "ServiceProviderName"]


def test_parquet_keeps_decimals_and_a_csv_runs_nothing(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    made = export(connection, call("1", application='=cmd|"/c calc"!A1'))
    write_table(made.table, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").equals(made.table)
    write_table(made.table, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        assert {row["x_Application"] for row in csv.DictReader(file)} == {'\'=cmd|"/c calc"!A1'}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    with pytest.raises(InputError, match=r"output file: 'a\.xlsx' is not allowed"):
        write_table(made.table, tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="cannot be written"):
        write_table(made.table, tmp_path / "no" / "a.csv")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1", "'=1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@a", "'@a"),
        ("\ta", "'\ta"),
        ("a=1", "a=1"),
        (Decimal("-1.500"), "-1.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.00"), "0"),
        (-3, "-3"),
        (True, "true"),
        (None, ""),
        (NOON, "2024-06-30T12:00:00Z"),
        (NOON.date(), "2024-06-30"),
    ],
)
def test_a_cell_is_exact_and_no_formula(value: object, cell: str) -> None:
    assert as_cell(value) == cell


def test_a_rollup_is_exported_in_exact_usd(connection: duckdb.DuckDBPyConnection) -> None:
    connection.register("interactions", as_table([call("1"), call("2", model="nope")]))
    table = in_usd(rollup_table(add_up(connection, find)))
    assert table.schema.field("cost_usd").type == pa.decimal128(38, 12)
    assert table["cost_usd"].to_pylist() == [Decimal("0.0065"), None]
    assert not [name for name in table.column_names if name.endswith("_pusd")]
