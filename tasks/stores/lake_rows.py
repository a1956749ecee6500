"""The rows of the interactions: stored once, whatever their day, and read by window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from tasks.interactions.columns import SCHEMA
from tasks.interactions.feedback import FEEDBACK_SCHEMA
from tasks.stores.lake_files import append_files
from tasks.stores.lake_ids import IdIndex
from tasks.stores.lake_sql import COLUMNS, FEEDBACK_ONCE, connect, interaction_files, list_files, literal
from tasks.stores.lake_table import commit, count_days, day_key, files_of, hide_statistics, next_commit, number_of

INTERACTIONS = "interactions"
_SAMPLED_FILES = 8
_EPOCH = date(1970, 1, 1)


def commit_rows(root: Path, source: str, rows: pa.Table, numbers: Mapping[str, int], expected: int) -> int | None:
    """Store the rows that are not stored yet, in one commit with numbers.

    Args:
        root: Folder of the lake.
        source: Whose number must still be as expected.
        rows: Rows of ``SCHEMA``.
        numbers: What the commit sets, by key.
        expected: The source's number now.

    Returns:
        How many rows were stored, or None where the source's number is another.

    Raises:
        ConflictError: Other writers were faster every time.
    """

    def attempt() -> int | None:
        table = DeltaTable(root / INTERACTIONS)
        if number_of(table, source) != expected:
            return None
        hide_statistics(table)
        new = fresh(root, table, rows)
        # A table of an earlier version of the columns gets those it lacks with its next rows.
        missing = len(table.schema().fields) < len(SCHEMA)
        written = next_commit({**count_days(table, changed_days(new)), **numbers})
        if missing:
            write_deltalake(table, new, mode="append", schema_mode="merge", commit_properties=written)
        else:
            append_files(root / INTERACTIONS, table, new, written)
        return int(new.num_rows)

    return commit(source, attempt)


def changed_days(rows: pa.Table) -> list[tuple[date, str]]:
    """Return the days and applications of rows, each pair once."""
    pairs = rows.select(["date_utc", "application"]).group_by(["date_utc", "application"]).aggregate([])
    return list(zip(pairs["date_utc"].to_pylist(), pairs["application"].to_pylist(), strict=True))


def fresh(root: Path, table: DeltaTable | None, rows: pa.Table) -> pa.Table:
    """Return the rows whose id is neither stored nor earlier in the rows."""
    if not rows.num_rows:
        return rows
    ids = rows["interaction_id"]
    maybe, days = IdIndex(root / "ids").lookup(files_of(table) if table else [], ids)
    if table is not None and maybe.any():
        stored = _known(table, days, rows.select(["interaction_id"]).filter(pa.array(maybe)))
        rows = rows.filter(pc.invert(pc.is_in(ids, value_set=stored)))
    names = rows["interaction_id"]
    if len(pc.unique(names)) == rows.num_rows:
        return rows
    _, first = np.unique(names.combine_chunks().dictionary_encode().indices.to_numpy(), return_index=True)
    return rows.take(pa.array(np.sort(first)))


def _known(table: DeltaTable, days: Iterable[int], ids: pa.Table) -> pa.Array:
    dates = [(_EPOCH + timedelta(days=day)).isoformat() for day in days]
    files = files_of(table, [("date_utc", "in", dates)]) if dates else []
    if not files:
        return pa.array([], pa.string())
    with connect() as connection:
        connection.register("rows", ids)
        sql = f"SELECT DISTINCT interaction_id FROM {interaction_files(files)} SEMI JOIN rows USING (interaction_id)"  # noqa: S608 -- quoted
        return connection.sql(sql).to_arrow_table()["interaction_id"].combine_chunks()


def day_token(table: DeltaTable | None, day: date, application: str | None) -> str | None:
    """Return the token of a day: the version of the last commit that changed its rows, or "0" for one of before."""
    if table is None:
        return None
    if number := number_of(table, day_key(day, application)):
        return str(number)
    # A table of an earlier version has days without a counter.
    files = files_of(table, [("date_utc", "=", day)])
    if not files:
        return None
    wanted = f"application = {literal(application)}" if application is not None else "true"
    with connect() as connection:
        sql = f"SELECT 1 FROM {interaction_files(files)} WHERE {wanted} LIMIT 1"  # noqa: S608 -- quoted
        return "0" if connection.sql(sql).fetchall() else None


def null_shares(
    table: DeltaTable | None, columns: Sequence[str], days: tuple[date, date], where: Mapping[str, str | None]
) -> tuple[int, dict[str, float]]:
    """Return the rows looked at and the share of NULL of each column; of many files only the last ones are read."""
    pruning: list[tuple[str, str, object]] = [("date_utc", ">=", days[0]), ("date_utc", "<", days[1])]
    files = sorted(files_of(table, pruning), key=lambda file: Path(file).parent)[-_SAMPLED_FILES:] if table else []
    if not files:
        return 0, {}
    counts = ", ".join(f'avg(("{column}" IS NULL)::INT)' for column in columns)
    wanted = " AND ".join(f'"{name}" IS NOT DISTINCT FROM ${name}' for name in where)
    sql = (
        f"SELECT count(*), {counts} FROM "  # noqa: S608 -- names of our own schema
        f"(FROM nothing UNION ALL BY NAME FROM {interaction_files(files)}) WHERE {wanted}"
    )
    with connect() as connection:
        connection.register("nothing", SCHEMA.empty_table())
        ((rows, *shares),) = connection.sql(sql, params=dict(where)).fetchall()
    return int(rows), dict(zip(columns, shares, strict=True)) if rows else {}


def select_stored(table: DeltaTable | None, start: datetime, end: datetime, application: str | None) -> str:
    """Return the SQL of the rows in a half-open window, as often as they are stored; ``nothing`` is an empty view."""
    first, last = start.astimezone(UTC).date(), (end.astimezone(UTC) - timedelta(microseconds=1)).date()
    files = files_of(table, [("date_utc", ">=", first), ("date_utc", "<=", last)]) if table else []
    if not files:
        return "SELECT * FROM nothing"
    wanted = f"application = {literal(application)}" if application is not None else "true"
    return (
        f"SELECT {COLUMNS} FROM (FROM nothing UNION ALL BY NAME FROM {interaction_files(files)}) "  # noqa: S608 -- quoted values
        f"WHERE {wanted} "
        f"AND time_utc >= TIMESTAMPTZ {literal(start.astimezone(UTC).isoformat())} "
        f"AND time_utc < TIMESTAMPTZ {literal(end.astimezone(UTC).isoformat())}"
    )


def register_feedback(connection: duckdb.DuckDBPyConnection, table: DeltaTable | None) -> None:
    """Add the view ``feedback`` on the calls of the view ``interactions``."""
    files = files_of(table) if table else []
    connection.register("no_feedback", FEEDBACK_SCHEMA.empty_table())
    said = f"read_parquet([{list_files(files)}])" if files else "no_feedback"
    connection.execute(FEEDBACK_ONCE.format(said=said))
