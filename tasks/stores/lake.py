"""The lake: Delta tables on a folder, read with DuckDB; ``lake*.py`` are the only modules that import deltalake.

A source's byte offset is written in the same commit as its rows. Delta records such an offset without enforcing
it, so a commit here may only follow directly on the snapshot the offset was checked in: whoever comes second
fails, looks again and finds the offset moved. What is stored beside the interactions is committed before them and has
keys of its own, so a kill between the commits neither loses nor doubles anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from tasks.errors import InputError, NotFoundError
from tasks.interactions.columns import SCHEMA
from tasks.interactions.feedback import FEEDBACK_SCHEMA
from tasks.stores import lake_side
from tasks.stores.lake_rows import (
    INTERACTIONS,
    commit_rows,
    day_token,
    fresh,
    null_shares,
    register_feedback,
    select_stored,
)
from tasks.stores.lake_side import ASIDE, FEEDBACK, REJECTED, RELEASED, WAITING, SetAside
from tasks.stores.lake_sql import ONCE, connect, list_files, match_keys
from tasks.stores.lake_table import ASIDE_KEY, KEYS, commit, create_table, files_of, number_of, open_table

_OWN_TABLES = (INTERACTIONS, REJECTED, ASIDE, FEEDBACK)
_SMALL_TABLE = re.compile(r"^[a-z][a-z0-9_]{0,63}$")


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append came to; ``stored``, ``duplicates`` and ``rejected`` add up to the rows it was given.

    Attributes:
        stored: Interactions and feedback that are stored now.
        duplicates: Those whose id was stored before.
        rejected: Lines that could not be read, and the interactions that were set aside.
        set_aside: The interactions that were set aside.
    """

    stored: int
    duplicates: int
    rejected: int
    set_aside: int = 0


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
        return {source: number_of(table, source) if table else 0 for source in sources}

    def append(
        self,
        source: str,
        *,
        expected: int,
        offset: int,
        interactions: pa.Table,
        rejected: pa.Table,
        feedback: pa.Table | None = None,
        aside: SetAside | None = None,
    ) -> Appended | None:
        """Store the rows of a source up to an offset, exactly once.

        An interaction whose id is stored already, whatever its day, or stands earlier in the same rows, is a duplicate
        and not stored: the first one stands.

        Args:
            source: Names the file; the same file must always have the same name.
            expected: The offset the rows start at, bytes.
            offset: The offset they end at, bytes.
            interactions: Rows of ``SCHEMA``.
            rejected: Rows of ``REJECTED_SCHEMA``.
            feedback: Rows of ``FEEDBACK_SCHEMA``.
            aside: Why the interactions are not to be trusted: they are set aside instead.

        Returns:
            What was stored, or None where the source is no longer at ``expected``: nothing was stored, read again.

        Raises:
            ConflictError: Other writers were faster every time.
        """
        if source.startswith(KEYS):
            raise InputError.of("source", source, f"a name that does not begin with {' or '.join(KEYS)}")
        self._create()
        words = feedback if feedback is not None else FEEDBACK_SCHEMA.empty_table()
        if number_of(DeltaTable(self.root / INTERACTIONS), source) != expected:
            return None
        lake_side.append_rejected(self.root, source, expected, offset, rejected)
        said = lake_side.append_feedback(self.root, words)
        rows, numbers = interactions, {source: offset}
        if aside is not None:
            lake_side.append_aside(self.root, aside, interactions)
            rows, numbers = SCHEMA.empty_table(), {**numbers, ASIDE_KEY + aside.aside_id: WAITING}
        stored = commit_rows(self.root, source, rows, numbers, expected)
        if stored is None:
            return None
        held = interactions.num_rows - rows.num_rows
        total = rows.num_rows + words.num_rows
        return Appended(stored + said, total - stored - said, rejected.num_rows + held, held)

    def release_set_aside(self, aside_id: str) -> Appended:
        """Store the interactions of a batch that was set aside; a second time nothing is stored.

        Raises:
            NotFoundError: No such batch was set aside.
        """
        table, key = self._open(INTERACTIONS), ASIDE_KEY + aside_id
        state = number_of(table, key) if table else 0
        if state == 0:
            waiting = ", ".join(batch.aside_id for batch in self.set_aside()) or "none"
            raise NotFoundError(f"{aside_id}: no such batch was set aside; those that wait: {waiting}")
        rows = lake_side.read_aside_rows(self.root, aside_id)
        stored = commit_rows(self.root, key, rows, {key: RELEASED}, WAITING) if state == WAITING else None
        return Appended(0, 0, 0) if stored is None else Appended(stored, rows.num_rows - stored, 0)

    def set_aside(self) -> tuple[SetAside, ...]:
        """Return the batches that were set aside and wait to be released, the oldest first."""
        return lake_side.read_aside(self.root, self._open(INTERACTIONS))

    def day_token(self, day: date, application: str | None = None) -> str | None:
        """Return a token that is another one if and only if the rows of a day are others; None if it never had any.

        Args:
            day: UTC.
            application: What users call; None is every application.
        """
        return day_token(self._open(INTERACTIONS), day, application)

    def days(self) -> tuple[date, ...]:
        """Return the UTC days that have interactions, in their order."""
        table = self._open(INTERACTIONS)
        found = table.partitions() if table else []
        return tuple(sorted({date.fromisoformat(str(partition["date_utc"])) for partition in found}))

    def not_stored(self, interactions: pa.Table) -> pa.Table:
        """Return the interactions that an append would store now; nothing is stored."""
        table = self._open(INTERACTIONS)
        return fresh(self.root, table, interactions)

    def null_shares(
        self, columns: Sequence[str], start: date, end: date, where: Mapping[str, str | None]
    ) -> tuple[int, dict[str, float]]:
        """Return how many rows were looked at in some days, and which share of each column is NULL in them.

        Args:
            columns: Columns of ``SCHEMA``.
            start: First UTC day.
            end: First UTC day after them.
            where: Values of text columns.
        """
        return null_shares(self._open(INTERACTIONS), columns, (start, end), where)

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
        """Open a DuckDB connection in UTC with the interactions of a half-open window, and their feedback.

        The views are ``interactions``, each once, and ``feedback`` on them, each once.

        Rows of one id are the same call: the smallest by all columns, in the order of ``SCHEMA``, stands for it.
        """
        if start.tzinfo is None or end.tzinfo is None:
            raise InputError(f"window {start} to {end}: give both times with a time zone")
        with connect() as connection:
            connection.register("nothing", SCHEMA.empty_table())
            connection.execute(
                f"CREATE TEMP VIEW stored AS {select_stored(self._open(INTERACTIONS), start, end, application)}"
            )
            connection.execute(ONCE)
            register_feedback(connection, self._open(FEEDBACK))
            yield connection

    def feedback(self, start: datetime, end: datetime, application: str | None = None) -> pa.Table:
        """Return the feedback on the interactions of a half-open UTC window, each once, whenever it arrived.

        Returns:
            Rows of ``FEEDBACK_SCHEMA`` in the order of (time_utc, feedback_id).
        """
        with self.query(start, end, application) as connection:
            found = connection.sql("FROM feedback ORDER BY time_utc, feedback_id")
            return found.to_arrow_table().cast(FEEDBACK_SCHEMA)

    def rejected(self, source: str | None = None) -> pa.Table:
        """Return the rejected lines, each once, in the order of (source, line_number)."""
        return lake_side.read_rejected(self.root, source)

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
        create_table(self.root / table, rows.schema)
        commit(
            table,
            lambda: write_deltalake(DeltaTable(self.root / table), rows, mode="overwrite", predicate=predicate),
        )

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
        if not (files := files_of(opened)):
            return schema.empty_table()
        with connect() as connection:
            sql = f"SELECT * FROM read_parquet([{list_files(files)}]) WHERE {where} ORDER BY ALL"  # noqa: S608 -- quoted
            return connection.sql(sql).to_arrow_table().cast(schema)

    def _open(self, name: str) -> DeltaTable | None:
        return open_table(self.root / name)

    def _create(self) -> None:
        if self._open(INTERACTIONS) is None:
            create_table(self.root / INTERACTIONS, SCHEMA, ["date_utc"])


def _small(table: str) -> str:
    if not _SMALL_TABLE.fullmatch(table) or table in _OWN_TABLES:
        raise InputError.of(
            "table", table, f"a name like rollups, but neither {INTERACTIONS} nor {', '.join(_OWN_TABLES[1:])}"
        )
    return table
