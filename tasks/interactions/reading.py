"""Reading a log file from a byte offset, in batches of complete lines that are bounded in memory."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import pyarrow as pa

from tasks.interactions.feedback import FEEDBACK_SCHEMA
from tasks.interactions.lines import KEPT_BYTES, LineReader, Lines

BATCH_LINES = 200_000
BATCH_BYTES = 64 * 2**20
BLOCK_BYTES = 24 * 2**20
"""So much of a file is held at once; more than the longest line there may be."""
_SMALL: Final = 2**16


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
    reader = reader or LineReader()
    with open_log(path) as handle:
        # What is written while we read is for the next time: a busy file would keep us here for ever.
        size = total_bytes(path)
        handle.seek(offset)
        few = batch_lines < BATCH_LINES
        blocks = _Blocks(handle, final=final or is_packed(path), chunk=batch_lines * 4096 if few else BLOCK_BYTES)
        at, number = offset, None
        batch = _Growing(offset)
        while at < size or is_packed(path):
            lines = blocks.read(batch_lines - batch.lines)
            if not len(lines):
                break
            interactions, rejects, feedback = reader.read(lines, at)
            if rejects and number is None:
                number = count_lines(path, at)
            before = 1 + (number or 0)
            batch.add(interactions, ((index + before, reason, line) for index, reason, line in rejects), feedback)
            at, number = at + int(lines.sizes.sum()), None if number is None else number + len(lines)
            batch.lines, batch.end = batch.lines + len(lines), at
            if batch.lines >= batch_lines or at - batch.start + BLOCK_BYTES > BATCH_BYTES:
                yield batch.done()
                batch = _Growing(at)
        if batch.lines:
            yield batch.done()


@dataclass
class _Growing:
    """A batch that grows block by block; the file's bytes are gone when its rows are here."""

    start: int
    end: int = 0
    lines: int = 0
    interactions: list[pa.Table] = field(default_factory=list)
    rejects: list[tuple[int, str, bytes]] = field(default_factory=list)
    feedback: list[pa.Table] = field(default_factory=list)

    def add(self, interactions: pa.Table, rejects: Iterable[tuple[int, str, bytes]], feedback: pa.Table) -> None:
        self.interactions.append(interactions)
        self.rejects.extend(rejects)
        self.feedback.append(feedback)

    def done(self) -> Batch:
        rows, said = pa.concat_tables(self.interactions), pa.concat_tables(self.feedback)
        return Batch(self.start, self.end, rows, tuple(self.rejects), said)


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


class _Blocks:
    """Complete lines of a file, block by block through the same memory; nothing is read twice."""

    def __init__(self, handle: BinaryIO, *, final: bool, chunk: int) -> None:
        self._handle, self._final, self._chunk = handle, final, chunk
        # Memory that is not touched is not used.
        self._memory = np.empty(BLOCK_BYTES, np.uint8).data
        self._begin = self._end = 0

    def read(self, most: int) -> Lines:
        """Return the next lines, at most so many; none at the end. Those before them are overwritten."""
        lines = Lines.of(self._memory[self._begin : self._end], most)
        while not len(lines):
            self._memory[: self._end - self._begin] = self._memory[self._begin : self._end]
            self._begin, self._end = 0, self._end - self._begin
            if self._end == BLOCK_BYTES:
                return self._read_long()
            if not (count := self._fill()):
                return self._read_last()
            # A long line that comes in small pieces is not searched from its begin each time.
            if count > _SMALL or b"\n" in self._memory[self._end - count : self._end].tobytes():
                lines = Lines.of(self._memory[: self._end], most)
        self._begin += int(lines.ends[-1])
        return lines

    def _fill(self) -> int:
        room = self._memory[self._end : min(self._end + self._chunk, BLOCK_BYTES)]
        count = int(self._handle.readinto(room))  # type: ignore[attr-defined] # of binary files, though not of all
        self._end += count
        return count

    def _read_last(self) -> Lines:
        """Return a last line without an end."""
        size = self._end - self._begin
        if not size or not self._final:
            return Lines.of(b"", 1)
        self._begin = self._end
        return Lines(self._memory[:size], np.array([size], np.int64), np.array([size], np.int64))

    def _read_long(self) -> Lines:
        """Return a line that fills all of the memory, of which only the head is held."""
        head, size = bytes(self._memory[:KEPT_BYTES]), self._end
        while True:
            self._begin = self._end = 0
            if not self._fill():
                break
            ends = Lines.of(self._memory[: self._end], 1).ends
            size += int(ends[0]) if len(ends) else self._end
            if len(ends):
                self._begin = int(ends[0])
                return Lines(head, np.array([len(head)], np.int64), np.array([size], np.int64))
        if not self._final:
            return Lines.of(b"", 1)
        return Lines(head, np.array([len(head)], np.int64), np.array([size], np.int64))
