"""Lines of a log into rows, the fast way where a line is proved good and the exact way where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.interactions.columns import SCHEMA
from tasks.interactions.fast import FastReader, Marks
from tasks.interactions.fast_shapes import SHAPES
from tasks.interactions.feedback import MARK, Feedback, Redact, feedback_table, keep_comment, parse_feedback
from tasks.interactions.schema import Interaction, as_table, parse_line

MAX_LINE_BYTES: Final = 4 * 2**20
"""A longer line is rejected without being held in memory."""
KEPT_BYTES: Final = 4096
"""How much of a line that is too long is kept with its reason; the whole of it is still in its file."""
BOM: Final = b"\xef\xbb\xbf"
AUTO: Final = "auto"
FEW_LINES: Final = 64
"""Fewer lines are read one by one: to prove them good would take longer."""
Policy = Literal["off", "hash", "full"]
Parse = Callable[[bytes, int], Sequence[Interaction | str]]
"""Takes a line and the byte it begins at; returns each call in it, or why it is none."""
Keep = Callable[[pa.Table], pa.Table]
"""Takes rows; returns them with the texts that may be kept."""
Reject = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True)
class Lines:
    """Complete lines that follow each other.

    Attributes:
        data: The bytes of all lines with their ends; they may be others when the next lines are read.
        ends: Where each line ends in ``data``.
        sizes: How long each line is in its file; more than in ``data`` where only its head is held.
    """

    data: bytes | memoryview
    ends: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: bytes | memoryview, most: int) -> Lines:
        """Return the first complete lines of data."""
        ends = _find_ends(data)[:most]
        return cls(data, ends, np.diff(ends, prepend=0))

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self.ends)

    def line(self, index: int) -> bytes:
        """Return one line with its end."""
        return bytes(self.data[self.ends[index - 1] if index else 0 : self.ends[index]])

    def array(self) -> pa.Array:
        """Return the lines as Arrow has them, without a copy."""
        offsets = np.concatenate([np.zeros(1, np.int64), self.ends])
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(self), [None, pa.py_buffer(offsets), pa.py_buffer(self.data)]
        )


def _find_ends(data: bytes | memoryview) -> npt.NDArray[np.int64]:
    # In parts that stay in the processor's cache: three times as fast.
    step, view = 2**20, np.frombuffer(data, np.uint8)
    found = [np.flatnonzero(view[at : at + step] == ord("\n")) + (at + 1) for at in range(0, len(view), step)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


@dataclass
class LineReader:
    """Reads the lines of one source.

    Args:
        form: Name of the format, or ``auto``, which looks at every line.
        application: What was called, where a line does not say.
        policy: What is kept of comments.
        keep: Applied to rows before anybody else sees them.
        redact: Applied to comments that are kept.
        parse: Reads a line the exact way; by default one in the log's own format.
    """

    form: str = "native"
    application: str | None = None
    policy: Policy = "full"
    keep: Keep | None = None
    redact: Redact | None = None
    parse: Parse = field(default=lambda line, _: (parse_line(line),))
    detect: Callable[[bytes], str | None] = field(default=lambda _: "native")
    _fast: dict[str, FastReader] = field(default_factory=dict)

    def read(self, lines: Lines, start: int) -> tuple[pa.Table, list[Reject], pa.Table]:
        """Return interactions in the order of their lines, rejects by their index, and feedback.

        Args:
            lines: Complete lines.
            start: The byte of the file they begin at.
        """
        short = lines.sizes <= MAX_LINE_BYTES
        rows, proved = self._read_fast(lines, short)
        slow: list[Interaction] = []
        places: list[int] = []
        rejects: list[Reject] = []
        said: list[Feedback] = []
        for index in np.flatnonzero(~proved).tolist():
            line = lines.line(index)
            content = line.removeprefix(BOM) if not start and not index else line
            if not short[index]:
                size = int(lines.sizes[index])
                kept = content[:KEPT_BYTES]
                rejects.append((index, f"line: {size} bytes > limit {MAX_LINE_BYTES} bytes", kept))
            elif content.strip():
                for found in self._read_exactly(content, start + int(lines.ends[index]) - len(line)):
                    if isinstance(found, str):
                        rejects.append((index, found, content.rstrip(b"\r\n")))
                    elif isinstance(found, Feedback):
                        said.append(keep_comment(found, self.policy, self.redact))
                    else:
                        slow.append(found)
                        places.append(index)
        kept_rows = self._together(rows, np.flatnonzero(proved), slow, places)
        return self.keep(kept_rows) if self.keep else kept_rows, rejects, feedback_table(said)

    def _read_exactly(self, content: bytes, at: int) -> Sequence[Interaction | Feedback | str]:
        if MARK in content and isinstance(said := parse_feedback(content), Feedback):
            return (said,)
        found = self.parse(content, at)
        if MARK in content and len(found) == 1 and isinstance(found[0], str):
            return (str(parse_feedback(content)),)
        return found

    def _read_fast(self, lines: Lines, short: Marks) -> tuple[pa.Table, Marks]:
        reader = self._reader(lines, short)
        if reader is None:
            return SCHEMA.empty_table(), np.zeros(len(lines), np.bool_)
        array, fit = lines.array(), short & _is_utf8(lines)
        if not fit.all():
            array = array.filter(pa.array(fit))
        rows, proved = reader.read(array.cast(pa.large_string()), self.application)
        whole = np.zeros(len(lines), np.bool_)
        whole[np.flatnonzero(fit)] = proved
        return rows, whole

    def _reader(self, lines: Lines, short: Marks) -> FastReader | None:
        form: str | None = self.form
        if len(lines) < FEW_LINES:
            return None
        if form == AUTO:
            some = (lines.line(index) for index in np.flatnonzero(short)[:5].tolist())
            form = next((found for line in some if (found := self.detect(line)) is not None), None)
        if form not in SHAPES:
            return None
        if form not in self._fast:
            self._fast[form] = FastReader(SHAPES[form], lambda line: self.parse(line, 0))
        return self._fast[form]

    @staticmethod
    def _together(rows: pa.Table, fast: npt.NDArray[np.int64], slow: list[Interaction], places: list[int]) -> pa.Table:
        if not slow:
            return rows
        table = pa.concat_tables([rows, as_table(slow)])
        order = np.argsort(np.concatenate([fast, np.array(places, np.int64)]), kind="stable")
        return table.take(pa.array(order)).combine_chunks()


def _is_utf8(lines: Lines) -> Marks:
    try:
        lines.array().cast(pa.large_string())
    except pa.ArrowInvalid:
        return np.array([decodes(lines.line(index)) for index in range(len(lines))], np.bool_)
    return np.ones(len(lines), np.bool_)


def decodes(line: bytes) -> bool:
    """Tell whether a line is UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
