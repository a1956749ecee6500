"""The lake: Delta tables on a folder, read with DuckDB; the only module that imports deltalake.

A source's byte offset is written in the same commit as its rows. Delta records such an offset without enforcing
it, so a commit here may only follow directly on the snapshot the offset was checked in: whoever comes second
fails, looks again and finds the offset moved. Rejected lines are committed before the interactions and hold their
own key (source, line number, line), so a kill between the two commits neither loses nor doubles one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from tasks.errors import ConflictError, InputError
from tasks.interactions.columns import SCHEMA
from tasks.interactions.schema import REJECTED_SCHEMA
from tasks.stores.lake_sql import COLUMNS, ONCE, connect, interaction_files, list_files, literal, match_keys

INTERACTIONS = "interactions"
REJECTED = "rejected"
COMMIT_ATTEMPTS = 60
"""How often a commit is tried against other writers before it is given up, about a minute in all."""
_SMALL_TABLE = re.compile(r"^[a-z][a-z0-9_]{0,63}$")


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append came to; the three add up to the rows it was given."""

    stored: int
    duplicates: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Lake:
    """The tables under one folder, which is created readable by its owner only.

    Args:
        root: Folder of the tables; no character that is special in a URL or a file pattern.

    Raises:
        InputError: The folder's name cannot be used.
    """

    root: Path

    def __post_init__(self) -> None:
        if special := set(str(self.root)) & set("%*?[]#"):
            raise InputError(
                f"lake folder {self.root}: remove the characters {' '.join(sorted(special))} from its path"
            )
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)

    def offset(self, source: str) -> int:
        """Return up to which byte a source has been stored; 0 where it is new."""
        return self.offsets([source])[source]

    def offsets(self, sources: Iterable[str]) -> dict[str, int]:
        """Return up to which byte each source has been stored, all at one moment; 0 where it is new."""
        table = self._open(INTERACTIONS)
        return {source: _offset(table, source) if table else 0 for source in sources}

    def append(
        self, source: str, *, expected: int, offset: int, interactions: pa.Table, rejected: pa.Table
    ) -> Appended | None:
        """Store the rows of a source up to an offset, exactly once.

        An interaction whose id is stored already on one of the same UTC dates, or stands earlier in the same rows, is
        a duplicate and not stored.

        Args:
            source: Names the file; the same file must always have the same name.
            expected: The offset the rows start at, bytes.
            offset: The offset they end at, bytes.
            interactions: Rows of ``SCHEMA``.
            rejected: Rows of ``REJECTED_SCHEMA``.

        Returns:
            What was stored, or None where the source is no longer at ``expected``: nothing was stored, read again.

        Raises:
            ConflictError: Other writers were faster every time.
        """
        self._create(REJECTED, REJECTED_SCHEMA)
        self._create(INTERACTIONS, SCHEMA, ["date_utc"])
        for attempt in range(COMMIT_ATTEMPTS):
            table = DeltaTable(self.root / INTERACTIONS)
            if _offset(table, source) != expected:
                return None
            try:
                self._append_rejected(source, expected, offset, rejected)
                fresh = _fresh(table, interactions)
                # A table of an earlier version of the columns gets those it lacks with its next rows.
                missing = len(table.schema().fields) < len(SCHEMA)
                write_deltalake(
                    table,
                    fresh,
                    mode="append",
                    schema_mode="merge" if missing else None,
                    commit_properties=_next_commit(source, offset),
                )
            except CommitFailedError:
                time.sleep(min(0.02 * (attempt + 1), 2.0))
            else:
                return Appended(fresh.num_rows, interactions.num_rows - fresh.num_rows, rejected.num_rows)
        raise ConflictError(f"{source}: other writers were faster {COMMIT_ATTEMPTS} times; run the ingestion again")

    def window(self, application: str, start: datetime, end: datetime, columns: Sequence[str]) -> pa.Table:
        """Return the interactions of an application in a half-open UTC window, each once.

        Args:
            application: What users call.
            start: First moment, with a time zone.
            end: First moment after the window, with a time zone.
            columns: Which columns of ``SCHEMA``, in which order.

        Returns:
            Rows in the order of (time_utc, interaction_id); no row, with the right types, where there is nothing.

        Raises:
            InputError: A column is not in the schema, or a time has no time zone.
        """
        for column in columns:
            if column not in SCHEMA.names:
                raise InputError.of("columns", column, SCHEMA.names)
        chosen = ", ".join(f'"{column}"' for column in columns)
        with self.query(start, end, application) as connection:
            found = connection.sql(f"SELECT {chosen} FROM interactions ORDER BY time_utc, interaction_id")  # noqa: S608 -- names of our own schema
            return found.to_arrow_table().cast(pa.schema([pa.field(c, SCHEMA.field(c).type) for c in columns]))

    @contextmanager
    def query(
        self, start: datetime, end: datetime, application: str | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a DuckDB connection in UTC with a view ``interactions`` of a half-open window, each interaction once.

        Rows of one id are the same call: the smallest by all columns, in the order of ``SCHEMA``, stands for it.
        """
        if start.tzinfo is None or end.tzinfo is None:
            raise InputError(f"window {start} to {end}: give both times with a time zone")
        with connect() as connection:
            connection.register("nothing", SCHEMA.empty_table())
            connection.execute(f"CREATE TEMP VIEW stored AS {self._stored(start, end, application)}")
            connection.execute(ONCE)
            yield connection

    def rejected(self, source: str | None = None) -> pa.Table:
        """Return the rejected lines, each once, in the order of (source, line_number)."""
        table = self._open(REJECTED)
        files = _files(table) if table else []
        if not files:
            return REJECTED_SCHEMA.empty_table()
        sql = (
            "SELECT source, line_number, min(reason) AS reason, line, min(seen_utc) AS seen_utc "  # noqa: S608 -- quoted
            f"FROM read_parquet([{list_files(files)}]) WHERE $source IS NULL OR source = $source "
            "GROUP BY source, line_number, line ORDER BY source, line_number, line"
        )
        with connect() as connection:
            return connection.sql(sql, params={"source": source}).to_arrow_table().cast(REJECTED_SCHEMA)

    def replace(self, table: str, keys: Mapping[str, str], rows: pa.Table) -> None:
        """Put rows in the place of all rows with the given keys, in one commit; the table is created if need be.

        Args:
            table: Name of a small table such as ``rollups``.
            keys: Values of text or date columns that all the rows have; none replaces the whole table.
            rows: The new rows; none deletes the old ones.

        Raises:
            InputError: The table's name or a key is not allowed, or a row has other keys.
            ConflictError: Other writers were faster every time.
        """
        predicate = match_keys(_small(table), keys, rows)
        self._create(table, rows.schema)
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                write_deltalake(DeltaTable(self.root / table), rows, mode="overwrite", predicate=predicate)
            except CommitFailedError:
                time.sleep(min(0.02 * (attempt + 1), 2.0))
            else:
                return
        raise ConflictError(f"{table}: other writers were faster {COMMIT_ATTEMPTS} times; run it again")

    def read(self, table: str, keys: Mapping[str, str] | None = None) -> pa.Table | None:
        """Return the rows of a small table with the given keys, ordered by all columns; None without a table.

        Raises:
            InputError: The table's name or a key is not allowed.
        """
        opened = self._open(_small(table))
        if opened is None:
            return None
        schema = pa.schema(opened.schema())
        where = match_keys(table, keys or {}, schema.empty_table()) or "true"
        if not (files := _files(opened)):
            return schema.empty_table()
        with connect() as connection:
            sql = f"SELECT * FROM read_parquet([{list_files(files)}]) WHERE {where} ORDER BY ALL"  # noqa: S608 -- quoted
            return connection.sql(sql).to_arrow_table().cast(schema)

    def _open(self, name: str) -> DeltaTable | None:
        path = self.root / name
        return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None

    def _create(self, name: str, schema: pa.Schema, partition_by: list[str] | None = None) -> None:
        if self._open(name) is None:
            try:
                DeltaTable.create(self.root / name, schema, mode="ignore", partition_by=partition_by)
            except DeltaError:
                if self._open(name) is None:  # otherwise somebody else created it meanwhile
                    raise

    def _append_rejected(self, source: str, expected: int, offset: int, rejected: pa.Table) -> None:
        if not rejected.num_rows:
            return
        table = DeltaTable(self.root / REJECTED)
        if _offset(table, source) > expected:  # a writer was killed after this commit, or is between its two
            known = self.rejected(source).select(["line_number", "line"]).to_pylist()
            seen = {(row["line_number"], row["line"]) for row in known}
            keys = zip(rejected["line_number"].to_pylist(), rejected["line"].to_pylist(), strict=True)
            rejected = rejected.filter(pa.array([key not in seen for key in keys], pa.bool_()))
        if rejected.num_rows:
            write_deltalake(table, rejected, mode="append", commit_properties=_next_commit(source, offset))

    def _stored(self, start: datetime, end: datetime, application: str | None) -> str:
        first, last = start.astimezone(UTC).date(), (end.astimezone(UTC) - timedelta(microseconds=1)).date()
        table = self._open(INTERACTIONS)
        files = _files(table, [("date_utc", ">=", first), ("date_utc", "<=", last)]) if table else []
        if not files:
            return "SELECT * FROM nothing"
        wanted = f"application = {literal(application)}" if application is not None else "true"
        return (
            f"SELECT {COLUMNS} FROM (FROM nothing UNION ALL BY NAME FROM {interaction_files(files)}) "  # noqa: S608 -- quoted values
            f"WHERE {wanted} "
            f"AND time_utc >= TIMESTAMPTZ {literal(start.astimezone(UTC).isoformat())} "
            f"AND time_utc < TIMESTAMPTZ {literal(end.astimezone(UTC).isoformat())}"
        )


def _offset(table: DeltaTable, source: str) -> int:
    return table.transaction_version(source) or 0


def _next_commit(source: str, offset: int) -> CommitProperties:
    # Without retries the commit must follow directly on the snapshot it was checked against.
    return CommitProperties(app_transactions=[Transaction(source, offset)], max_commit_retries=0)


def _files(table: DeltaTable, pruning: list[tuple[str, str, object]] | None = None) -> list[str]:
    uris = table.file_uris(file_pruning_predicate=pruning)
    return [unquote(uri) for uri in uris]


def _fresh(table: DeltaTable, rows: pa.Table) -> pa.Table:
    """Return the rows whose id is neither stored on the same dates nor earlier in the rows."""
    if not rows.num_rows:
        return rows
    seen = _known(_files(table, [("date_utc", "in", rows["date_utc"].unique().to_pylist())]), rows)
    fresh = []
    for name in rows["interaction_id"].to_pylist():
        fresh.append(name not in seen)
        seen.add(name)
    return rows.filter(pa.array(fresh, pa.bool_()))


def _known(files: list[str], rows: pa.Table) -> set[str]:
    if not files:
        return set()
    with connect() as connection:
        connection.register("rows", rows.select(["interaction_id"]))
        sql = f"SELECT interaction_id FROM {interaction_files(files)} SEMI JOIN rows USING (interaction_id)"  # noqa: S608 -- quoted file names
        return {name for (name,) in connection.sql(sql).fetchall()}


def _small(table: str) -> str:
    if not _SMALL_TABLE.fullmatch(table) or table in {INTERACTIONS, REJECTED}:
        raise InputError.of("table", table, f"a name like rollups, but neither {INTERACTIONS} nor {REJECTED}")
    return table
