"""Tables as files: Parquet with decimals, or CSV that spreadsheets read and never run."""

from __future__ import annotations

import csv
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tasks.errors import InputError

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is a formula to a spreadsheet; written with an apostrophe before it, it stays a text."""
KINDS: Final = ("csv", "parquet")
_USD: Final = pa.decimal128(38, 12)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table into a file, CSV or Parquet by its name, in the place of what was there, whole or not at all.

    Args:
        table: Texts, whole numbers, decimals, days, moments and booleans; a binary float is written as it is.
        path: Ends in ``.csv`` or ``.parquet``.

    Raises:
        InputError: The name has another ending, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in KINDS:
        raise InputError.of("output file", path.name, [f"a name that ends in .{one}" for one in KINDS])
    part = path.with_name(f".{path.name}.part")
    try:
        if kind == "csv":
            _write_csv(table, part)
        else:
            import pyarrow.parquet as pq

            pq.write_table(table, part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another file") from error


def in_usd(table: pa.Table) -> pa.Table:
    """Return a rollup with every ``*_pusd`` column as ``*_usd``, DECIMAL(38, 12): exact."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        if not name.endswith("_pusd"):
            columns[name] = table[name]
            continue
        values = [None if value is None else Decimal(int(value)).scaleb(-12) for value in table[name].to_pylist()]
        columns[f"{name.removesuffix('_pusd')}_usd"] = pa.array(values, _USD)
    return pa.table(columns)


def as_cell(value: object) -> str:
    """Return a value as a cell of a CSV file: empty is NULL, numbers are plain and exact, texts are never formulas.

    >>> as_cell(Decimal("-0.000000000001")), as_cell("=1+1"), as_cell(None)
    ('-0.000000000001', "'=1+1", '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _write_csv(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches():
            for row in batch.to_pylist():
                writer.writerow([as_cell(row[name]) for name in table.column_names])
