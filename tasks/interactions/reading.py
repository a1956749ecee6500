"""Reading a log file from a byte offset, in batches of complete lines that are bounded in memory."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from tasks.interactions.feedback import FEEDBACK_SCHEMA
from tasks.interactions.lines import KEPT_BYTES, MAX_LINE_BYTES, LineReader, Lines

BATCH_LINES = 200_000
BATCH_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Batch:
    """Some complete lines of a file.

    Attributes:
        start: Byte offset of the first line.
        end: Byte offset after the last line.
        interactions: The calls in the lines that could be read, in their order.
        rejects: The 1-based line number, the reason and the bytes of each line that could not.
        feedback: The lines of feedback, in their order.
    """

    start: int
    end: int
    interactions: pa.Table
    rejects: tuple[tuple[int, str, bytes], ...]
    feedback: pa.Table = field(default_factory=FEEDBACK_SCHEMA.empty_table)

    @property
    def read(self) -> int:
        """How much was read; blank lines are numbered but count for nothing."""
        return int(self.interactions.num_rows) + len(self.rejects) + int(self.feedback.num_rows)


def read_batches(
    path: Path,
    offset: int = 0,
    *,
    final: bool = False,
    batch_lines: int = BATCH_LINES,
    reader: LineReader | None = None,
) -> Iterator[Batch]:
    """Read a file of one JSON object a line, packed with gzip where its name ends in ``.gz``.

    Args:
        path: The file; it may be growing, unless it is packed.
        offset: Where to begin, bytes of what is unpacked: 0 or the ``end`` of an earlier batch.
        final: The file is closed: a last line without an end of line counts. Otherwise it is left for later.
        batch_lines: Most lines in a batch, at least 1.
        reader: Reads the lines; by default those of the log's own format.

    Yields:
        Batches that follow each other without a gap; none where there is no complete line.
    """
    reader, final = reader or LineReader(), final or is_packed(path)
    with open_log(path) as handle:
        # What is written while we read is for the next time: a busy file would keep us here for ever.
        size = total_bytes(path)
        handle.seek(offset)
        start, number = offset, None
        while start < size or is_packed(path):
            lines = _read_lines(handle, start, final=final, limit=batch_lines)
            if not len(lines):
                return
            end = start + int(lines.sizes.sum())
            interactions, rejects, feedback = reader.read(lines, start)
            if rejects and number is None:
                number = count_lines(path, start)
            placed = tuple((index + 1 + (number or 0), reason, content) for index, reason, content in rejects)
            number = None if number is None else number + len(lines)
            yield Batch(start, end, interactions, placed, feedback)
            start = end


def is_packed(path: Path) -> bool:
    """Return whether a file is packed with gzip, by its name."""
    return path.suffix == ".gz"


def open_log(path: Path) -> BinaryIO:
    """Open a log file for reading what is unpacked."""
    return cast("BinaryIO", gzip.open(path, "rb")) if is_packed(path) else path.open("rb")


def total_bytes(path: Path) -> int:
    """Return the size of what a file holds, bytes unpacked; of a packed file only its lowest 32 bits are known."""
    size = path.stat().st_size
    if not is_packed(path) or size < 4:  # noqa: PLR2004 -- gzip ends with the size in four bytes
        return size
    with path.open("rb") as handle:
        handle.seek(-4, 2)
        return int.from_bytes(handle.read(4), "little")


def count_lines(path: Path, end: int) -> int:
    """Return how many ends of line a file has before a byte offset."""
    counted, left = 0, end
    with open_log(path) as handle:
        while left > 0 and (chunk := handle.read(min(left, 2**20))):
            counted += chunk.count(b"\n")
            left -= len(chunk)
    return counted


def file_identity(path: Path) -> str:
    """Return the name a file's offset is kept under: its path and a digest of how its first line begins.

    A file that was rotated and begun anew under the same path is another source.
    """
    with open_log(path) as handle:
        head = handle.readline(KEPT_BYTES).rstrip(b"\n")
    return f"{path.resolve().as_posix()}@{hashlib.sha256(head).hexdigest()[:12]}"


def _read_lines(handle: BinaryIO, start: int, *, final: bool, limit: int) -> Lines:
    # A few lines are asked for in tests and by who follows a file: they need not read a whole batch each time.
    data = handle.read(BATCH_BYTES if limit >= BATCH_LINES else min(BATCH_BYTES, limit * 4096))
    lines = Lines.of(data, limit)
    if not len(lines):
        del data
        handle.seek(start)
        return _read_one(handle, start, final=final)
    handle.seek(start + int(lines.sizes.sum()))
    return lines


def _read_one(handle: BinaryIO, start: int, *, final: bool) -> Lines:
    """Read one line; of one that is too long only the head is held."""
    content = handle.readline(MAX_LINE_BYTES + 1)
    ended, size = content.endswith(b"\n"), len(content)
    if not ended and size > MAX_LINE_BYTES:
        content = content[:KEPT_BYTES]
        while rest := handle.readline(MAX_LINE_BYTES):
            ended, size = rest.endswith(b"\n"), size + len(rest)
            if ended:
                break
    if not content or not (ended or final):
        handle.seek(start)
        return Lines.of(b"", 1)
    return Lines(content, np.array([len(content)], np.int64), np.array([size], np.int64))
