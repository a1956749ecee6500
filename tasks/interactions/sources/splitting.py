"""How a file is cut into documents: lines, the values of a JSON file, and the rows of CSV and Parquet.

Nothing is lost in the cutting: what cannot be cut comes out as one piece, for its format to refuse with a reason.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from tasks.errors import InputError

MAX_LINE_BYTES: Final = 4 * 2**20
"""A longer line is cut there, and refused as what it then is."""
MAX_JSON_BYTES: Final = 512 * 2**20
_ROWS: Final = 10_000
_SPACE: Final = " \t\r\n"
_BROKEN: Final = ["a row that is none"]
_BOM: Final = b"\xef\xbb\xbf"


def split(path: Path) -> Iterator[tuple[int, bytes]]:
    """Cut a file into documents.

    Args:
        path: A file; its name says what it is: ``.csv``, ``.parquet``, ``.json``, and lines of JSON for any other,
            each also with ``.gz``.

    Yields:
        The ordinal of each document from 1, which for lines is the number of the line, and its bytes: JSON, if the
        file is what its name says.

    Raises:
        InputError: It is no Parquet file, or a JSON file that is too large to hold.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    if kind == [".parquet"]:
        yield from _parquet_rows(path)
        return
    with cast("BinaryIO", gzip.open(path, "rb")) if packed else path.open("rb") as handle:
        yield from _CUTTERS.get(kind[0], split_lines)(handle)


def split_lines(handle: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Cut lines; blank ones are numbered and left out."""
    number = 0
    while line := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        document = (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
        rest = line
        while not rest.endswith(b"\n") and len(rest) > MAX_LINE_BYTES:
            rest = handle.readline(MAX_LINE_BYTES + 1)
        if document.strip():
            yield number, document


def split_json(handle: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Cut a JSON file into the items of its lists and its other values, each as it is written."""
    held = handle.read(MAX_JSON_BYTES + 1)
    if len(held) > MAX_JSON_BYTES:
        raise InputError(f"a JSON file is larger than {MAX_JSON_BYTES} bytes; write one document a line instead")
    try:
        text = held.removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        yield 1, held
        return
    for ordinal, piece in enumerate(_values(text), 1):
        yield ordinal, piece.encode()


def split_csv(handle: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Cut CSV with a header into rows, each a JSON object of texts; one with other cells than the header is a list."""
    text = io.TextIOWrapper(handle, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _csv_rows(csv.reader(text))
    finally:
        text.detach()  # the handle is its opener's to close


def _csv_rows(rows: Iterator[list[str]]) -> Iterator[tuple[int, bytes]]:
    header: list[str] | None = None
    ordinal = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            row = _BROKEN
        if header is None:
            header = row
        elif row:
            ordinal += 1
            held: Any = dict(zip(header, row, strict=True)) if len(row) == len(header) and row is not _BROKEN else row
            yield ordinal, json.dumps(held).encode()


def _values(text: str) -> Iterator[str]:
    decoder, at, within = json.JSONDecoder(), 0, False
    while True:
        at = _skip(text, at, f"{_SPACE}," if within else _SPACE)
        if at >= len(text):
            return
        if not within and text[at] == "[":
            at, within = at + 1, True
        elif within and text[at] == "]":
            at, within = at + 1, False
        else:
            try:
                _, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                yield text[at:]
                return
            yield text[at:end]
            at = end


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _parquet_rows(path: Path) -> Iterator[tuple[int, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            ordinal = 0
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in _rows(pa, batch):
                    ordinal += 1
                    yield ordinal, json.dumps(row, default=_plain).encode()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: is no Parquet file that can be read; write it anew") from error


def _rows(pa: Any, batch: Any) -> Iterable[dict[str, Any]]:
    schema = batch.schema
    for at, field in enumerate(schema):
        if pa.types.is_timestamp(field.type):
            # Nanoseconds have no type of Python's; the log keeps microseconds.
            schema = schema.set(at, field.with_type(pa.timestamp("us", tz=field.type.tz)))
    rows: list[dict[str, Any]] = pa.Table.from_batches([batch]).cast(schema, safe=False).to_pylist()
    for row in rows:
        yield {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124 - NaN


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime | date) else str(value) if isinstance(value, Decimal) else ""


_CUTTERS: Final[dict[str, Callable[[BinaryIO], Iterator[tuple[int, bytes]]]]] = {
    ".csv": split_csv,
    ".json": split_json,
}
