"""Data files of a Delta table that are written here: by Arrow, in half the time Delta's own writer takes.

A file is no part of its table before a commit names it. One that is never named is deleted with the orphans.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction, RemoveAction

_UNLIKE: Final = ("interaction_id", "response_id", "input_text", "context_text", "output_text")
"""A dictionary of what differs in every row is built and thrown away."""
_MEASURED: Final = ("application", "time_utc")
"""Least and largest values are kept of what is looked for by them; those of a text would cost as much as its rows."""


def append_files(root: Path, table: DeltaTable, rows: pa.Table, properties: CommitProperties) -> None:
    """Append rows to a table partitioned by ``date_utc``, one file a day, in one commit.

    Args:
        root: Folder of the table.
        table: The snapshot that the commit must follow on.
        rows: Rows with the columns of the table.
        properties: Of the commit.

    Raises:
        CommitFailedError: Another writer was faster; the files are gone again.
    """
    added = list[AddAction | RemoveAction]()
    written = list[Path]()
    days = rows["date_utc"].unique().to_pylist() if rows.num_rows else []
    try:
        for day in sorted(days):
            some = rows if len(days) == 1 else rows.filter(pc.equal(rows["date_utc"], day))
            written.append(write_file(root / f"date_utc={day.isoformat()}", some, table))
            added.append(addition(root, written[-1], some.num_rows, table))
        commit_files(table, added, properties)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def commit_files(
    table: DeltaTable, actions: Sequence[AddAction | RemoveAction], properties: CommitProperties | None
) -> None:
    """Commit files that were written, and those that are gone."""
    columns = table.metadata().partition_columns
    table.create_write_transaction(list(actions), "append", table.schema(), columns, commit_properties=properties)


def write_file(folder: Path, rows: pa.Table, table: DeltaTable) -> Path:
    """Write rows as a file of a new name in a folder of the table, which is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{uuid.uuid4()}.snappy.parquet"
    required = {field.name: field.nullable for field in pa.schema(table.schema())}
    kept = rows.drop_columns(table.metadata().partition_columns)
    kept = kept.cast(pa.schema([field.with_nullable(required[field.name]) for field in kept.schema]))
    pq.write_table(
        kept,
        path,
        compression="snappy",
        use_dictionary=[name for name in kept.column_names if name not in _UNLIKE],
        write_statistics=[name for name in kept.column_names if name in _MEASURED],
    )
    return path


def addition(root: Path, path: Path, rows: int, table: DeltaTable) -> AddAction:
    """Return the action that makes a file a part of the table."""
    place = path.relative_to(root).as_posix()
    stats, now_ms = json.dumps({"numRecords": rows}), int(time.time() * 1000)
    return AddAction(place, path.stat().st_size, partition_of(path, table), now_ms, True, stats)  # noqa: FBT003


def removal(root: Path, file: str, table: DeltaTable) -> RemoveAction:
    """Return the action that takes a file out of the table."""
    path = Path(file)
    return RemoveAction(
        path.relative_to(root).as_posix(),
        True,  # noqa: FBT003
        int(time.time() * 1000),
        path.stat().st_size,
        partition_of(path, table),
    )


def partition_of(file: Path, table: DeltaTable) -> dict[str, str | None]:
    """Return the values of the partition a file is in, by its folders."""
    columns = table.metadata().partition_columns
    parts = (part.partition("=") for part in file.parent.parts[-len(columns) :]) if columns else ()
    return {name: value for name, _, value in parts}
