"""Care of the lake: small files put together, old rows dropped, old texts emptied.

Rows change in commits of their own that name no user and no text: files are read, and others stand in their place.
Each such commit moves the counters of the days whose rows it changed; putting files together moves none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from tasks.interactions.counts import Cared
from tasks.stores.example_pages import drop_old_pages
from tasks.stores.lake_files import addition, commit_files, partition_of, removal, write_file
from tasks.stores.lake_rows import INTERACTIONS
from tasks.stores.lake_side import ASIDE, FEEDBACK, REJECTED
from tasks.stores.lake_table import commit, count_days, files_of, next_commit, open_table

FEW_FILES: Final = 4
"""A day of more files than these has them put together."""
ORPHAN_HOURS: Final = 24
"""How old a file of no commit must be before it is deleted: no writer is still about to commit it."""
_TEXTS: Final = ("input_text", "context_text", "output_text", "comment", "line")
Change = Callable[[pa.Table], pa.Table]
"""Takes the rows of a file and returns those that are to stand in their place."""


def tables_of(root: Path) -> Iterator[tuple[str, DeltaTable]]:
    """Yield every table of the lake with its name, the interactions last."""
    names = sorted(path.parent.name for path in root.glob("*/_delta_log"))
    for name in sorted(names, key=lambda name: (name == INTERACTIONS, name)):
        if (table := open_table(root / name)) is not None:
            yield name, table


def compact(root: Path, *, dry_run: bool) -> tuple[Cared, ...]:
    """Put the small files of a day together, and those of every other table; rows and offsets stay as they are.

    Other writers may write meanwhile.
    """
    done = []
    for name, table in tables_of(root):
        for filters, files in _crowded(table):
            if dry_run:
                done.append(Cared(table=name, files_before=len(files), files_after=1))
                continue
            metrics = commit(name, lambda f=filters, n=name: DeltaTable(root / n).optimize.compact(partition_filters=f))  # type: ignore[misc]
            counts = (int(metrics["numFilesRemoved"]), int(metrics["numFilesAdded"]))
            done.append(Cared(table=name, files_before=counts[0], files_after=counts[1]))
    return tuple(done)


def _crowded(table: DeltaTable) -> list[tuple[list[tuple[str, str, str]] | None, list[str]]]:
    if not table.metadata().partition_columns:
        files = files_of(table)
        return [(None, files)] if len(files) > FEW_FILES else []
    (column,) = table.metadata().partition_columns
    days: dict[str, list[str]] = {}
    for file in files_of(table):
        days.setdefault(Path(file).parent.name.removeprefix(f"{column}="), []).append(file)
    return [([(column, "=", day)], files) for day, files in sorted(days.items()) if len(files) > FEW_FILES]


def vacuum(root: Path, *, hours: int, dry_run: bool) -> int:
    """Delete files that no row stands in any more.

    Args:
        root: Folder of the lake.
        hours: How long ago they must have been replaced; whoever still reads them longer fails. 0 deletes all.
        dry_run: Only count them.

    Returns:
        How many files.
    """
    count = 0
    for _, table in tables_of(root):
        how: dict[str, Any] = {"dry_run": dry_run, "enforce_retention_duration": False}
        replaced = set(table.vacuum(hours, **how))
        # A file of no commit is that of a killed writer, or of one that is about to commit it.
        orphans = set(table.vacuum(max(hours, ORPHAN_HOURS), full=True, **how))
        count += len(replaced | orphans)
    return count


def retain(
    root: Path, today: date, *, keep_days: int | None, text_days: int | None, dry_run: bool
) -> tuple[Cared, ...]:
    """Drop days that are too old, and empty texts that are.

    Args:
        root: Folder of the lake.
        today: UTC.
        keep_days: Rows of days before ``today - keep_days`` are dropped; None keeps all.
        text_days: Texts of days before ``today - text_days`` become NULL, and rejected lines, which hold texts, are
            dropped; None keeps all.
        dry_run: Only count rows.

    Returns:
        What was dropped or emptied of which table, and of the pages of examples beside the lake, which show texts and
        go as soon as either limit reaches the first day of their window.
    """
    limits = [days for days in (keep_days, text_days) if days is not None]
    done = [drop_old_pages(root, today - timedelta(days=min(limits)), dry_run=dry_run)] if limits else []
    for name, table in tables_of(root):
        if name not in {INTERACTIONS, REJECTED, ASIDE, FEEDBACK}:
            continue
        when = _time_column(table)
        if keep_days is not None:
            done.append(rewrite(root, name, _dropping(when, today - timedelta(days=keep_days)), dry_run=dry_run))
        if text_days is not None:
            change = _dropping if name == REJECTED else _emptying
            done.append(rewrite(root, name, change(when, today - timedelta(days=text_days)), dry_run=dry_run))
    return tuple(one for one in done if one.files_before)


def _time_column(table: DeltaTable) -> str:
    names = [field.name for field in table.schema().fields]
    return next(name for name in ("date_utc", "time_utc", "seen_utc") if name in names)


def _old(rows: pa.Table, when: str, first: date) -> pa.ChunkedArray:
    return pc.less(rows[when].cast(pa.date32()), pa.scalar(first, pa.date32()))


def _dropping(when: str, first: date) -> Change:
    return lambda rows: rows.filter(pc.invert(_old(rows, when, first)))


def _emptying(when: str, first: date) -> Change:
    def change(rows: pa.Table) -> pa.Table:
        old = _old(rows, when, first)
        for name in set(_TEXTS) & set(rows.column_names):
            place, column = rows.column_names.index(name), rows[name]
            if pc.any(pc.and_(old, pc.is_valid(column))).as_py():
                emptied = pc.if_else(old, pa.scalar(None, column.type), column)
                rows = rows.set_column(place, rows.schema.field(place), emptied)
        return rows

    return change


def rewrite(root: Path, name: str, change: Change, *, dry_run: bool) -> Cared:
    """Change the rows of a table, file by file, in one commit; files whose rows stay the same are not touched."""

    def attempt() -> Cared:
        table = DeltaTable(root / name)
        written, touched, gone, days = list[Path](), list[AddAction | RemoveAction](), 0, set[tuple[date, str]]()
        try:
            for file in files_of(table):
                rows = read_file(file, table)
                left = change(rows)
                if left.equals(rows):
                    continue
                gone += _changed(rows, left)
                days |= changed_pairs(rows) if name == INTERACTIONS else set()
                touched.append(removal(root / name, file, table))
                if left.num_rows and not dry_run:
                    written.append(write_file(Path(file).parent, left, table))
                    touched.append(addition(root / name, written[-1], left.num_rows, table))
            if touched and not dry_run:
                commit_files(table, touched, next_commit(count_days(table, days)))
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        removed = sum(isinstance(one, RemoveAction) for one in touched)
        return Cared(table=name, files_before=removed, files_after=len(written), rows=gone)

    return commit(name, attempt)


def read_file(file: str, table: DeltaTable) -> pa.Table:
    """Return the rows of a data file with the value of its partition, and NULL in columns it lacks."""
    rows = pq.ParquetFile(file).read()
    partition = partition_of(Path(file), table)
    schema = pa.schema(table.schema())
    columns = []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(rows[field.name].cast(field.type))
        else:
            value = pa.scalar(partition.get(field.name)).cast(field.type)
            columns.append(pa.chunked_array([pa.repeat(value, rows.num_rows)]))
    return pa.Table.from_arrays(columns, schema=pa.schema([field.with_nullable(nullable=True) for field in schema]))


def changed_pairs(rows: pa.Table) -> set[tuple[date, str]]:
    """Return the days and applications of rows."""
    keys = ["date_utc", "application"]
    return {(row["date_utc"], row["application"]) for row in rows.select(keys).group_by(keys).aggregate([]).to_pylist()}


def _changed(rows: pa.Table, left: pa.Table) -> int:
    if left.num_rows != rows.num_rows:
        return int(rows.num_rows - left.num_rows)
    different = pa.array([False] * rows.num_rows)
    for name in set(_TEXTS) & set(rows.column_names):
        emptied = pc.and_(pc.is_valid(rows[name]), pc.is_null(left[name]))
        different = pc.or_(different, emptied.combine_chunks())
    return int(pc.sum(different).as_py() or 0)
