"""The tables beside the interactions: rejected lines, batches set aside, feedback.

Each is committed before the interactions, whose commit moves the offset. So a kill in between leaves rows that are
read again; each row has a key of its own, by which it is stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from tasks.interactions.columns import SCHEMA
from tasks.interactions.feedback import FEEDBACK_SCHEMA
from tasks.interactions.schema import REJECTED_SCHEMA
from tasks.stores.lake_sql import connect, list_files
from tasks.stores.lake_table import ASIDE_KEY, commit, create_table, files_of, next_commit, number_of, open_table

REJECTED: Final = "rejected"
ASIDE: Final = "set_aside"
FEEDBACK: Final = "feedback"
WAITING, RELEASED = 1, 2
"""The states of a batch that was set aside, as the table of interactions has them; 0 is one of a killed writer."""
ASIDE_SCHEMA: Final = pa.schema(
    [
        pa.field("aside_id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("start_byte", pa.int64(), nullable=False),
        pa.field("end_byte", pa.int64(), nullable=False),
        pa.field("reasons", pa.string(), nullable=False),
        pa.field("report", pa.string()),
        pa.field("seen", pa.timestamp("us", tz="UTC"), nullable=False),
        *SCHEMA,
    ]
)
"""The rows of batches that were set aside, as they would have been stored, with where they stood and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A batch that is not trusted.

    Attributes:
        aside_id: Names it.
        file: The source it was read from.
        start_byte: Where it begins there.
        end_byte: Where it ends there.
        rows: Its interactions.
        reasons: What does not hold of it.
        report: The page that shows it, relative to the state folder; None where none was written.
        seen: When.
    """

    aside_id: str
    file: str
    start_byte: int
    end_byte: int
    rows: int
    reasons: tuple[str, ...]
    report: str | None
    seen: datetime


def aside_id(source: str, start: int, end: int, rows: pa.Table) -> str:
    """Return the id of a batch: the same rows of the same place always have the same."""
    digest = hashlib.sha256(f"{source}\n{start}\n{end}\n".encode())
    for name in rows["interaction_id"].to_pylist():
        digest.update(name.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def append_rejected(root: Path, source: str, expected: int, offset: int, rejected: pa.Table) -> None:
    """Store rejected lines; those of a killed writer are there already."""
    if not rejected.num_rows:
        return
    create_table(root / REJECTED, REJECTED_SCHEMA)

    def attempt() -> None:
        table, fresh = DeltaTable(root / REJECTED), rejected
        if number_of(table, source) > expected:  # a writer was killed after this commit, or is between its two
            known = read_rejected(root, source).select(["line_number", "line"]).to_pylist()
            seen = {(row["line_number"], row["line"]) for row in known}
            keys = zip(fresh["line_number"].to_pylist(), fresh["line"].to_pylist(), strict=True)
            fresh = fresh.filter(pa.array([key not in seen for key in keys], pa.bool_()))
        if fresh.num_rows:
            write_deltalake(
                table,
                fresh,
                mode="append",
                commit_properties=next_commit({source: max(offset, number_of(table, source))}),
            )

    commit(REJECTED, attempt)


def read_rejected(root: Path, source: str | None) -> pa.Table:
    """Return the rejected lines, each once, in the order of (source, line_number)."""
    table = open_table(root / REJECTED)
    files = files_of(table) if table else []
    if not files:
        return REJECTED_SCHEMA.empty_table()
    sql = (
        "SELECT source, line_number, min(reason) AS reason, line, min(seen_utc) AS seen_utc "  # noqa: S608 -- quoted
        f"FROM read_parquet([{list_files(files)}]) WHERE $source IS NULL OR source = $source "
        "GROUP BY source, line_number, line ORDER BY source, line_number, line"
    )
    with connect() as connection:
        return connection.sql(sql, params={"source": source}).to_arrow_table().cast(REJECTED_SCHEMA)


def append_feedback(root: Path, rows: pa.Table) -> int:
    """Store feedback whose id is not stored yet, the first of each id; return how much that was."""
    if not rows.num_rows:
        return 0
    create_table(root / FEEDBACK, FEEDBACK_SCHEMA)

    def attempt() -> int:
        table = DeltaTable(root / FEEDBACK)
        with connect() as connection:
            connection.register("rows", rows.append_column("place", pa.array(range(rows.num_rows))))
            files = files_of(table)
            known = f"ANTI JOIN read_parquet([{list_files(files)}]) USING (feedback_id)" if files else ""
            sql = (
                f"FROM rows {known} QUALIFY row_number() OVER (PARTITION BY feedback_id ORDER BY place) = 1 "
                "ORDER BY place"
            )
            fresh = connection.sql(sql).to_arrow_table().drop_columns(["place"]).cast(FEEDBACK_SCHEMA)
        if fresh.num_rows:
            write_deltalake(table, fresh, mode="append", commit_properties=next_commit({}))
        return int(fresh.num_rows)

    return commit(FEEDBACK, attempt)


def append_aside(root: Path, aside: SetAside, rows: pa.Table) -> None:
    """Keep the rows of a batch that is to be set aside; it is so when the interactions' commit says so."""
    create_table(root / ASIDE, ASIDE_SCHEMA)
    values = (
        *(aside.aside_id, aside.file, aside.start_byte, aside.end_byte),
        *(json.dumps(aside.reasons), aside.report, aside.seen),
    )
    heads = [pa.array([value] * rows.num_rows, field.type) for value, field in zip(values, ASIDE_SCHEMA, strict=False)]
    table = pa.Table.from_arrays([*heads, *(rows[name] for name in SCHEMA.names)], schema=ASIDE_SCHEMA)

    def attempt() -> None:
        stored = DeltaTable(root / ASIDE)
        if not number_of(stored, aside.aside_id):
            write_deltalake(stored, table, mode="append", commit_properties=next_commit({aside.aside_id: 1}))

    commit(ASIDE, attempt)


def read_aside(root: Path, interactions: DeltaTable | None) -> tuple[SetAside, ...]:
    """Return the batches that wait, the oldest first."""
    table = open_table(root / ASIDE)
    files = files_of(table) if table else []
    if not files or interactions is None:
        return ()
    heads = ASIDE_SCHEMA.names[: ASIDE_SCHEMA.get_field_index("seen") + 1]
    sql = (
        f"SELECT {', '.join(heads)}, count(*) AS n FROM read_parquet([{list_files(files)}]) "  # noqa: S608 -- quoted
        "GROUP BY ALL ORDER BY seen, file, start_byte"
    )
    with connect() as connection:
        found = connection.sql(sql).fetchall()
    return tuple(
        SetAside(**dict(zip(heads, row[:-1], strict=True)) | {"reasons": tuple(json.loads(row[4])), "rows": row[-1]})
        for row in found
        if number_of(interactions, ASIDE_KEY + row[0]) == WAITING
    )


def read_aside_rows(root: Path, name: str) -> pa.Table:
    """Return the interactions of a batch that was set aside, whatever its state."""
    table = open_table(root / ASIDE)
    files: Sequence[str] = files_of(table) if table else []
    if not files:
        return SCHEMA.empty_table()
    columns = ", ".join(f'"{column}"' for column in SCHEMA.names)
    with connect() as connection:
        sql = f"SELECT {columns} FROM read_parquet([{list_files(files)}]) WHERE aside_id = $name"  # noqa: S608 -- quoted
        return connection.sql(sql, params={"name": name}).to_arrow_table().cast(SCHEMA)
