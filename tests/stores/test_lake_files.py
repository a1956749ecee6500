from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from tasks.interactions.columns import SCHEMA
from tasks.interactions.schema import Interaction, as_table
from tasks.stores.lake_files import append_files
from tasks.stores.lake_table import create_table, next_commit, number_of


def rows(*names: str) -> pa.Table:
    return as_table(
        [
            Interaction(
                interaction_id=name,
                application="a",
                time=datetime(2024, 3, 1 + int(name) % 3, tzinfo=UTC),
                status=200,
                output_text=f"private {name}",
                tags=("x=1", "y=2"),
            )
            for name in names
        ]
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_table(tmp_path / "t", SCHEMA, ["date_utc"])
    return tmp_path / "t"


def files(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("date_utc=*/*.parquet"))


def test_rows_come_back_from_a_file_a_day_and_the_numbers_with_them(root: Path) -> None:
    given = rows("4", "1", "2", "3")
    append_files(root, DeltaTable(root), given, next_commit({"source": 7}))
    table = DeltaTable(root)
    assert files(root) == ["date_utc=2024-03-01", "date_utc=2024-03-02", "date_utc=2024-03-03"]
    assert (table.version(), number_of(table, "source")) == (1, 7)
    found = pa.table(table.to_pyarrow_table()).select(SCHEMA.names).cast(SCHEMA).sort_by("interaction_id")
    assert found.equals(given.sort_by("interaction_id"))


def test_a_commit_that_comes_too_late_leaves_no_file(root: Path) -> None:
    old = DeltaTable(root)
    append_files(root, DeltaTable(root), rows("1"), next_commit({"source": 1}))
    with pytest.raises(CommitFailedError):
        append_files(root, old, rows("2", "3"), next_commit({"source": 2}))
    assert files(root) == ["date_utc=2024-03-02"]
    assert number_of(DeltaTable(root), "source") == 1


def test_no_row_is_a_commit_without_a_file(root: Path) -> None:
    append_files(root, DeltaTable(root), SCHEMA.empty_table(), next_commit({"source": 9}))
    assert (files(root), number_of(DeltaTable(root), "source")) == ([], 9)


def test_neither_the_log_nor_the_end_of_a_file_shows_a_text(root: Path) -> None:
    append_files(root, DeltaTable(root), rows("1"), next_commit({}))
    (path,) = root.glob("date_utc=*/*.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    kept = {group.column(at).path_in_schema for at in range(group.num_columns) if group.column(at).is_stats_set}
    assert kept == {"application", "time_utc"}
    assert not any("private" in log.read_text() for log in root.glob("_delta_log/*.json"))
