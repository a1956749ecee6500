"""The SQL of the lake: quoting, files, and each interaction once."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache

import duckdb
import pyarrow as pa

from tasks.errors import InputError
from tasks.interactions.columns import SCHEMA
from tasks.interactions.feedback import FEEDBACK_SCHEMA

_LOCK = threading.Lock()
COLUMNS = ", ".join(f'"{name}"' for name in SCHEMA.names)
ONCE = f"""
CREATE TEMP VIEW interactions AS
WITH repeated AS (SELECT interaction_id FROM stored GROUP BY interaction_id HAVING count(*) > 1)
SELECT {COLUMNS} FROM stored ANTI JOIN repeated USING (interaction_id)
UNION ALL
SELECT {COLUMNS} FROM stored SEMI JOIN repeated USING (interaction_id)
QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY {COLUMNS}) = 1
"""  # noqa: S608 -- names of our own schema

_FEEDBACK = ", ".join(f'"{name}"' for name in FEEDBACK_SCHEMA.names)
FEEDBACK_ONCE = f"""
CREATE TEMP VIEW feedback AS
SELECT {_FEEDBACK} FROM {{said}} SEMI JOIN interactions USING (interaction_id, application)
QUALIFY row_number() OVER (PARTITION BY feedback_id ORDER BY {_FEEDBACK}) = 1
"""  # noqa: S608 -- names of our own schema


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    # To open one takes longer than most queries here; a copy of a process must not use that of its parent.
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    return duckdb.connect(":memory:", config=config)


def connect() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB connection in memory that works in UTC, downloads nothing, and sees nothing of another one."""
    with _LOCK:
        connection = _database(os.getpid()).cursor()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def literal(value: str) -> str:
    """Return a text as a quoted SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def interaction_files(files: Sequence[str]) -> str:
    """Return the SQL that reads files of the interactions, with the date from their folders."""
    options = "hive_partitioning = true, hive_types = {'date_utc': DATE}, union_by_name = true"
    return f"read_parquet([{list_files(files)}], {options})"


def list_files(files: Sequence[str]) -> str:
    """Return file names as a quoted SQL list in a fixed order."""
    return ", ".join(literal(file) for file in sorted(files))


def match_keys(table: str, keys: Mapping[str, str], rows: pa.Table) -> str | None:
    """Return the SQL condition for the keys, after checking that every row has them."""
    allowed = [field.name for field in rows.schema if pa.types.is_string(field.type) or pa.types.is_date(field.type)]
    for key, value in keys.items():
        if key not in allowed:
            raise InputError.of(f"{table} key", key, allowed)
        others = {str(found) for found in rows[key].unique().to_pylist()} - {value}
        if others:
            raise InputError(f"{table}: replacing {key} {value!r} with rows of {key} {', '.join(sorted(others))}")
    return " AND ".join(f'"{key}" = {literal(value)}' for key, value in keys.items()) or None
