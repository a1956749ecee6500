from __future__ import annotations

import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from tasks.errors import InputError
from tasks.interactions.columns import SCHEMA
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table, rejected_table
from tasks.stores import lake_rows
from tasks.stores.lake import Appended, Lake
from tasks.stores.lake_table import next_commit

DAY = datetime(2024, 3, 1, tzinfo=UTC)
NOTHING = REJECTED_SCHEMA.empty_table()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "the lake")


def call(name: str, time: datetime = DAY, application: str = "support", **values: Any) -> Interaction:
    return Interaction(interaction_id=name, application=application, time=time, status=200, **values)


def store(lake: Lake, *calls: Interaction, source: str = "a", at: int = 0) -> Appended | None:
    return lake.append(source, expected=at, offset=at + 10, interactions=as_table(calls), rejected=NOTHING)


def names(table: pa.Table) -> list[str]:
    return table["interaction_id"].to_pylist()


def test_the_folder_is_for_its_owner_only(lake: Lake) -> None:
    assert stat.S_IMODE(lake.root.stat().st_mode) == 0o700


def test_a_folder_that_delta_cannot_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="remove the characters % "):
        Lake(tmp_path / "50%")


def test_an_offset_is_stored_with_its_rows_and_moves_once(lake: Lake) -> None:
    assert lake.offset("a") == 0
    assert (lake.offsets(["a"]), lake.offsets([])) == ({"a": 0}, {})
    assert store(lake, call("1")) == Appended(stored=1, duplicates=0, rejected=0)
    assert (lake.offset("a"), lake.offset("b")) == (10, 0)
    assert lake.offsets(["b", "a"]) == {"b": 0, "a": 10}
    assert store(lake, call("2")) is None
    assert names(lake.window("support", DAY, DAY + timedelta(days=1), ["interaction_id"])) == ["1"]


def test_an_offset_moves_without_rows_too(lake: Lake) -> None:
    assert store(lake) == Appended(stored=0, duplicates=0, rejected=0)
    assert lake.offset("a") == 10


def test_a_repeated_id_is_a_duplicate_within_rows_and_across_sources(lake: Lake) -> None:
    assert store(lake, call("1"), call("1", input_text="again"), call("2")) == Appended(2, 1, 0)
    assert store(lake, call("2"), call("3"), source="b") == Appended(1, 1, 0)


def test_another_writer_between_check_and_commit_is_noticed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    store(lake, call("0"), source="other")
    real = lake_rows.fresh
    raced: list[bool] = []

    def fresh(root: Path, table: DeltaTable, rows: pa.Table) -> pa.Table:
        found = real(root, table, rows)
        if not raced:
            raced.append(True)
            assert store(lake, call("1")) is not None
        return found

    monkeypatch.setattr(lake_rows, "fresh", fresh)
    assert store(lake, call("1")) is None
    assert DeltaTable(lake.root / "interactions").to_pyarrow_table().num_rows == 2


def test_an_id_that_another_source_stores_meanwhile_is_a_duplicate(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    store(lake, call("0"), source="other")
    real = lake_rows.fresh
    raced: list[bool] = []

    def fresh(root: Path, table: DeltaTable, rows: pa.Table) -> pa.Table:
        found = real(root, table, rows)
        if not raced:
            raced.append(True)
            assert store(lake, call("1"), source="b") is not None
        return found

    monkeypatch.setattr(lake_rows, "fresh", fresh)
    assert store(lake, call("1"), call("2")) == Appended(stored=1, duplicates=1, rejected=0)
    assert DeltaTable(lake.root / "interactions").to_pyarrow_table().num_rows == 3


def test_a_commit_on_an_old_snapshot_fails(lake: Lake) -> None:
    store(lake, call("1"))
    old = DeltaTable(lake.root / "interactions")
    store(lake, call("2"), at=10)
    with pytest.raises(CommitFailedError):
        write_deltalake(old, as_table([call("3")]), mode="append", commit_properties=next_commit({"a": 20}))


def test_a_kill_between_the_two_commits_keeps_a_rejected_line_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = rejected_table("a", [(1, "no", b"x"), (2, "no", b"x")], DAY)
    more = rejected_table("a", [(1, "no", b"x"), (2, "no", b"x"), (9, "no", b"y")], DAY)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lake_rows, "fresh", kill)
        with pytest.raises(KeyboardInterrupt):
            lake.append("a", expected=0, offset=10, interactions=as_table([call("1")]), rejected=rejected)
    assert (lake.offset("a"), lake.rejected("a").num_rows) == (0, 2)
    lake.append("a", expected=0, offset=20, interactions=as_table([call("1")]), rejected=more)
    assert lake.rejected("a")["line_number"].to_pylist() == [1, 2, 9]
    assert DeltaTable(lake.root / "rejected").to_pyarrow_table().num_rows == 3


def test_rejected_lines_are_read_once_even_where_they_are_stored_twice(lake: Lake) -> None:
    assert lake.rejected().schema == REJECTED_SCHEMA
    rejected = rejected_table("o'a", [(1, "no", b"x\xff")], DAY)
    store(lake)
    for _ in range(2):
        write_deltalake(lake.root / "rejected", rejected, mode="append")
    assert lake.rejected("o'a").to_pylist() == rejected.to_pylist()
    assert lake.rejected("b").num_rows == 0


def test_a_window_is_half_open_ordered_and_of_one_application(lake: Lake) -> None:
    first, last = DAY - timedelta(microseconds=1), DAY + timedelta(days=1)
    rows = [call("z", DAY), call("b", first), call("a", DAY), call("c", last), call("x", DAY, "o'ther")]
    store(lake, *rows)
    assert names(lake.window("support", DAY, last, ["interaction_id"])) == ["a", "z"]
    assert names(lake.window("support", first, last + timedelta(seconds=1), ["interaction_id"])) == ["b", "a", "z", "c"]
    assert names(lake.window("o'ther", DAY, last, ["interaction_id"])) == ["x"]
    every = lake.window("support", DAY, last, SCHEMA.names)
    assert every.cast(SCHEMA) == as_table([call("a", DAY), call("z", DAY)])


def test_an_empty_window_has_the_right_types(lake: Lake) -> None:
    columns = ["latency_ms", "time_utc", "date_utc", "status"]
    for _ in range(2):
        found = lake.window("support", DAY, DAY + timedelta(days=1), columns)
        assert (found.num_rows, found.schema.names) == (0, columns)
        assert [field.type for field in found.schema] == [SCHEMA.field(name).type for name in columns]
        store(lake)


def test_a_window_refuses_unknown_columns_and_naive_times(lake: Lake) -> None:
    with pytest.raises(InputError, match="'cost' is not allowed; allowed: interaction_id, "):
        lake.window("support", DAY, DAY, ["cost"])
    with pytest.raises(InputError, match="with a time zone"):
        lake.window("support", DAY.replace(tzinfo=None), DAY, ["status"])


def test_rows_stored_twice_are_seen_once_whatever_their_order(lake: Lake) -> None:
    later = call("1", DAY + timedelta(seconds=5), model="b")
    store(lake)
    for rows in ([later, call("2")], [call("1", model="c")], [call("1", model="a"), call("1", model="a")]):
        write_deltalake(lake.root / "interactions", as_table(rows), mode="append")
    found = lake.window("support", DAY, DAY + timedelta(days=1), ["interaction_id", "model"])
    assert found.to_pylist() == [{"interaction_id": "1", "model": "a"}, {"interaction_id": "2", "model": None}]


def rollup(day: date, application: str, requests: int) -> pa.Table:
    return pa.table(
        {"date_utc": pa.array([day], pa.date32()), "application": [application], "requests": pa.array([requests])}
    )


def test_replace_puts_rows_in_the_place_of_those_with_the_same_keys(lake: Lake) -> None:
    assert lake.read("rollups") is None
    one, two = date(2024, 3, 1), date(2024, 3, 2)
    for day, application, requests in ((one, "o'x", 1), (two, "o'x", 2), (one, "o'x", 3), (one, "y", 4)):
        keys = {"date_utc": day.isoformat(), "application": application}
        lake.replace("rollups", keys, rollup(day, application, requests))
    found = lake.read("rollups")
    assert found is not None
    assert found["requests"].to_pylist() == [3, 4, 2]
    assert lake.read("rollups", {"application": "o'x"})["requests"].to_pylist() == [3, 2]
    assert lake.read("rollups", {"application": "' or true --"}).num_rows == 0
    lake.replace("rollups", {"date_utc": "2024-03-01"}, found.schema.empty_table())
    assert lake.read("rollups", {"date_utc": "2024-03-01"}).num_rows == 0
    assert lake.read("rollups")["requests"].to_pylist() == [2]


def test_replace_refuses_other_rows_unknown_keys_and_the_log(lake: Lake) -> None:
    rows = rollup(date(2024, 3, 1), "y", 1)
    with pytest.raises(InputError, match="replacing application 'x' with rows of application y"):
        lake.replace("rollups", {"application": "x"}, rows)
    with pytest.raises(InputError, match="'release' is not allowed; allowed: date_utc, application"):
        lake.replace("rollups", {"release": "x"}, rows)
    for name in ("interactions", "rejected", "../x"):
        with pytest.raises(InputError, match="neither interactions nor rejected"):
            lake.replace(name, {}, rows)


def test_a_table_of_the_first_version_is_read_and_grows_its_new_columns(lake: Lake) -> None:
    first = pa.schema(list(SCHEMA)[: SCHEMA.get_field_index("schema_version")])
    old = as_table([call("old", DAY)]).select(first.names)
    write_deltalake(lake.root / "interactions", old, partition_by=["date_utc"])
    last = DAY + timedelta(days=1)
    assert lake.window("support", DAY, last, ["interaction_id", "team"]).to_pylist() == [
        {"interaction_id": "old", "team": None}
    ]
    rows = as_table([call("new", DAY, team="search", tags=("b=1", "a=2"), other_usage={"web_search": 2})])
    lake.append("s", expected=0, offset=9, interactions=rows, rejected=NOTHING)
    columns = ["interaction_id", "team", "tags", "other_usage", "schema_version"]
    assert [tuple(row.values()) for row in lake.window("support", DAY, last, columns).to_pylist()] == [
        ("new", "search", ["a=2", "b=1"], '{"web_search":2}', 2),
        ("old", None, None, None, None),
    ]
