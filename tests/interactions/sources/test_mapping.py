"""Tables of any shape, by a declared mapping."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import InputError
from tasks.interactions.schema import Interaction
from tasks.interactions.sources import FORMATS, Context, Mapping, read_mapping, split

FIXTURES = Path(__file__).parents[1] / "formats"
SHARED = Path(__file__).parents[4] / "shared" / "data"
BURSTGPT = """
columns:
  time: {column: Timestamp, unit: s}
  model: Model
  input_tokens: Request tokens
  output_tokens: Response tokens
  route: Log Type
constants: {application: burst, provider: openai}
origin: 2023-01-01T00:00:00+00:00
"""
AIDER = """
columns:
  time: {column: time, unit: s}
  user: user
  model: {column: main_model, unknown: ["None", "REDACTED"]}
  input_tokens: prompt_tokens
  output_tokens: completion_tokens
  reported_cost_pusd: {column: cost, unit: usd}
constants: {application: aider}
"""


def read(text: str, folder: Path, table: Path) -> list[Interaction | str]:
    place = folder / "mapping.yaml"
    place.write_text(text, encoding="utf-8")
    context = Context(mapping=read_mapping(place))
    return [row for _, document in split(table) for row in FORMATS["mapped"].parse(document, context)]


def mapped(row: dict[str, Any], place: str | None = None, **mapping: Any) -> Interaction | str:
    columns = {"time": "t", **mapping.pop("columns", {})}
    made = Mapping.model_validate({"columns": columns, "constants": {"application": "a"}, **mapping})
    document = json.dumps({"t": "2026-01-01T00:00:00", **row}).encode()
    (found,) = FORMATS["mapped"].parse(document, Context(mapping=made, place=place))
    return found


def test_a_csv_of_seconds_since_an_origin(tmp_path: Path) -> None:
    rows = read(BURSTGPT, tmp_path, FIXTURES / "burstgpt.csv")

    assert len(rows) == 54
    first = rows[0]
    assert isinstance(first, Interaction)
    assert first.time == datetime(2023, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert (first.application, first.provider, first.model, first.route) == (
        "burst",
        "openai",
        "ChatGPT",
        "Conversation log",
    )
    assert (first.input_tokens, first.output_tokens, first.status, first.source) == (472, 18, 200, "mapped")
    assert sum(row.input_tokens or 0 for row in rows if isinstance(row, Interaction)) == 29_159


def test_lines_with_epochs_users_and_money(tmp_path: Path) -> None:
    rows = read(AIDER, tmp_path, FIXTURES / "aider_usage.jsonl")

    assert [row.reported_cost_pusd for row in rows if isinstance(row, Interaction)] == [
        110_700_000,
        52_005_000_000,
        52_761_000_000,
        110_700_000,
        110_700_000,
    ]
    first = rows[0]
    assert isinstance(first, Interaction)
    assert (first.time, first.unit) == (datetime(2024, 8, 13, 14, 40, 43, tzinfo=UTC), "u5")


def test_every_line_of_the_real_bill_is_there_to_the_pico(tmp_path: Path) -> None:
    table = SHARED / "traces" / "aider_usage.jsonl.gz"
    if not table.exists():
        pytest.skip(f"no shared data at {SHARED}")

    rows = [row for row in read(AIDER, tmp_path, table) if isinstance(row, Interaction)]

    assert len(rows) == 2668
    assert len({row.interaction_id for row in rows}) == 2668
    exact = [_cost(line) * 10**12 for line in gzip.decompress(table.read_bytes()).splitlines()]
    # A third of them were computed in binary and are finer than a pico-USD; each of them is rounded by itself.
    assert [row.reported_cost_pusd or 0 for row in rows] == [round(cost) for cost in exact]
    assert abs(sum(row.reported_cost_pusd or 0 for row in rows) - sum(exact, Decimal(0))) < 1


def _cost(line: bytes) -> Decimal:
    cost = json.loads(line, parse_float=Decimal)["cost"]
    return Decimal(cost or 0)


def test_a_parquet_of_nanoseconds(tmp_path: Path) -> None:
    table = tmp_path / "calls.parquet"
    times = pa.array([1_700_158_546_680_590_123, None], pa.timestamp("ns", tz="UTC"))
    day = pa.array([date(2026, 1, 1)] * 2)
    pq.write_table(pa.table({"ts": times, "in": [374.0, float("nan")], "day": day}), table)

    first, second = read("columns: {time: ts, input_tokens: in}\nconstants: {application: azure}\n", tmp_path, table)

    assert isinstance(first, Interaction)
    assert (first.time, first.input_tokens) == (datetime(2023, 11, 16, 18, 15, 46, 680590, tzinfo=UTC), 374)
    assert second == "time: the document does not say it; say when it was received"


def test_rows_alike_are_two_calls_only_where_their_place_tells_them_apart() -> None:
    def ids(identity: str) -> set[str]:
        rows = [mapped({}, f"file#{number}", identity=identity) for number in range(2)]
        return {row.interaction_id for row in rows if isinstance(row, Interaction)}

    assert (len(ids("content")), len(ids("place"))) == (1, 2)
    assert mapped({}, identity="place") == "place: is unknown: rows that are told apart by it need it"


@pytest.mark.parametrize(("inclusive", "whole"), [(True, 100), (False, 190)])
def test_the_mapping_says_whether_input_counts_the_cache(inclusive: bool, whole: int) -> None:
    columns = {"input_tokens": "i", "cached_input_tokens": "c", "cache_write_tokens": "w"}

    row = mapped({"i": 100, "c": 60, "w": 30}, columns=columns, inclusive_cache=inclusive)

    assert isinstance(row, Interaction)
    assert (row.input_tokens, row.cached_input_tokens) == (whole, 60)


@pytest.mark.parametrize(
    ("column", "value", "time"),
    [
        ({"unit": "ms"}, 1767225600123, "2026-01-01T00:00:00.123000Z"),
        ({"unit": "ns"}, "1767225600000001000", "2026-01-01T00:00:00.000001Z"),
        ({"format": "%d/%m/%Y %H:%M"}, "01/02/2026 10:30", "2026-02-01T10:30:00Z"),
        ({"format": "%Y-%m-%dT%H:%M%z"}, "2026-01-01T01:00+0100", "2026-01-01T00:00:00Z"),
        ({}, "2026-01-01 00:00:00", "2026-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_read_as_declared(column: dict[str, str], value: object, time: str) -> None:
    row = mapped({"t": value}, columns={"time": {"column": "t", **column}})

    assert isinstance(row, Interaction)
    assert json.loads(row.model_dump_json())["time"] == time


def test_durations_and_nested_columns() -> None:
    columns = {"latency_ms": {"column": "meta.took", "unit": "s"}, "service_tier": "tier", "tags": "labels"}

    row = mapped({"meta": {"took": "0.25"}, "tier": "default", "labels": ["b", "a"]}, columns=columns)

    assert isinstance(row, Interaction)
    assert (row.latency_ms, row.service_tier, row.tags) == (250.0, "standard", ("a", "b"))


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        ({}, {"model": "m"}, "model: the row has no column 'm'"),
        ({"i": "7.5"}, {"input_tokens": "i"}, "input_tokens: must be a whole number from 0 to 2**53"),
        ({"i": "many"}, {"input_tokens": "i"}, "input_tokens: must be a number"),
        ({"t": 5}, {}, "time: is a number; say its unit"),
        ({"t": "soon"}, {}, "time: must be a time in ISO 8601, or seconds since 1970"),
    ],
)
def test_a_row_is_refused_by_the_field_and_without_its_content(
    row: dict[str, Any], columns: dict[str, Any], reason: str
) -> None:
    assert mapped(row, columns=columns) == reason


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("columns: {model: m}", "columns.time is missing"),
        ("columns: {time: t, colour: c}", "columns.colour is no field of the log; allowed: application,"),
        ("columns: {time: t, latency_ms: l}", "columns.latency_ms.unit is None; allowed: s, ms, us, ns"),
        ("columns: {time: t, reported_cost_pusd: {column: c, unit: s}}", "unit is 's'; allowed: usd, usd_cents, pusd"),
        ("columns: {time: t, cached_input_tokens: c}", "inclusive_cache: say whether input tokens count the cached"),
        ("columns: {time: t}\nconstants: {status: 42}", "constants: status: Input should be greater than or equal"),
        ("columns: {time: t}\nzone: UTC", "zone: Extra inputs are not permitted"),
    ],
)
def test_a_mapping_is_read_strictly(mapping: str, message: str, tmp_path: Path) -> None:
    place = tmp_path / "mapping.yaml"
    place.write_text(mapping, encoding="utf-8")

    with pytest.raises(InputError) as error:
        read_mapping(place)

    assert message in str(error.value)
    assert str(place) in str(error.value)


def test_the_mapping_of_the_documents_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "interactions.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n# mapping\.yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mapping.yaml").write_text(shown, encoding="utf-8")

    assert read_mapping(tmp_path / "mapping.yaml").identity == "place"
