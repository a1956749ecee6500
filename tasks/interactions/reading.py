"""Reading a log file from a byte offset, in batches of complete lines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.interactions.schema import Interaction, parse_line

MAX_LINE_BYTES = 4 * 2**20
"""A longer line is rejected without being held in memory."""
BATCH_LINES = 20_000
BATCH_BYTES = 64 * 2**20
KEPT_BYTES = 4096
"""How much of a line that is too long is kept with its reason; the whole of it is still in its file."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Batch:
    """Some complete lines of a file.

    Attributes:
        start: Byte offset of the first line.
        end: Byte offset after the last line.
        interactions: The lines that could be read, in their order.
        rejects: The 1-based line number, the reason and the bytes of each line that could not.
    """

    start: int
    end: int
    interactions: tuple[Interaction, ...]
    rejects: tuple[tuple[int, str, bytes], ...]

    @property
    def read(self) -> int:
        """How many lines were read; blank lines are numbered but count for nothing."""
        return len(self.interactions) + len(self.rejects)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a file: its bytes without the end of line, or the head of one that is too long."""

    content: bytes
    size_bytes: int


def read_batches(
    path: Path, offset: int = 0, *, final: bool = False, batch_lines: int = BATCH_LINES
) -> Iterator[Batch]:
    """Read a file of one JSON object a line.

    Args:
        path: The file; it may be growing.
        offset: Where to begin, bytes: 0 or the ``end`` of an earlier batch.
        final: The file is closed: a last line without an end of line counts. Otherwise it is left for later.
        batch_lines: Most lines in a batch, at least 1.

    Yields:
        Batches that follow each other without a gap; none where there is no complete line.
    """
    with path.open("rb") as handle:
        # What is written while we read is for the next time: a busy file would keep us here for ever.
        size = handle.seek(0, 2)
        handle.seek(offset)
        number: int | None = None
        while handle.tell() < size:
            start, lines = handle.tell(), _read_lines(handle, final=final, limit=batch_lines)
            if not lines:
                return
            interactions, rejects = _parse(lines, first_of_file=start == 0)
            if rejects and number is None:
                number = count_lines(path, start)
            placed = tuple((index + 1 + (number or 0), reason, content) for index, reason, content in rejects)
            number = None if number is None else number + len(lines)
            yield Batch(start, handle.tell(), tuple(interactions), placed)


def count_lines(path: Path, end: int) -> int:
    """Return how many ends of line a file has before a byte offset."""
    counted, left = 0, end
    with path.open("rb") as handle:
        while left > 0 and (chunk := handle.read(min(left, 2**20))):
            counted += chunk.count(b"\n")
            left -= len(chunk)
    return counted


def file_identity(path: Path) -> str:
    """Return the name a file's offset is kept under: its path and a digest of how its first line begins.

    A file that was rotated and begun anew under the same path is another source.
    """
    with path.open("rb") as handle:
        head = handle.readline(KEPT_BYTES).rstrip(b"\n")
    return f"{path.resolve().as_posix()}@{hashlib.sha256(head).hexdigest()[:12]}"


def _read_lines(handle: BinaryIO, *, final: bool, limit: int) -> list[_Line]:
    lines: list[_Line] = []
    held = 0
    while len(lines) < limit and held < BATCH_BYTES:
        start = handle.tell()
        content, ended = _read_line(handle)
        if not content or not (ended or final):
            handle.seek(start)
            break
        lines.append(_Line(content, handle.tell() - start))
        held += len(content)
    return lines


def _read_line(handle: BinaryIO) -> tuple[bytes, bool]:
    """Read to the next end of line; of a line that is too long only the head is kept."""
    content = handle.readline(MAX_LINE_BYTES + 1)
    if content.endswith(b"\n") or len(content) <= MAX_LINE_BYTES:
        return content, content.endswith(b"\n")
    rest = content
    while rest and not rest.endswith(b"\n"):
        rest = handle.readline(MAX_LINE_BYTES)
    return content[:KEPT_BYTES], bool(rest)


def _parse(lines: list[_Line], *, first_of_file: bool) -> tuple[list[Interaction], list[tuple[int, str, bytes]]]:
    interactions: list[Interaction] = []
    rejects: list[tuple[int, str, bytes]] = []
    for index, line in enumerate(lines):
        content = line.content.removeprefix(_BOM) if first_of_file and not index else line.content
        if not content.strip() and line.size_bytes == len(line.content):
            continue
        if line.size_bytes > MAX_LINE_BYTES:
            rejects.append((index, f"line: {line.size_bytes} bytes > limit {MAX_LINE_BYTES} bytes", content))
            continue
        read = parse_line(content)
        if isinstance(read, str):
            rejects.append((index, read, content.rstrip(b"\r\n")))
        else:
            interactions.append(read)
    return interactions, rejects
