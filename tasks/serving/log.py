"""The interaction log of one server: who asked, as the data path says it, and one JSON line a call."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import ValidationError

from tasks.interactions.lines import MAX_LINE_BYTES
from tasks.interactions.schema import Interaction
from tasks.release.model import Release
from tasks.serving.backends import Capture
from tasks.tracking.records import Kept
from tasks.tracking.spool import ROTATE_BYTES

UnitKind = Literal["user", "session", "request"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_MAX_BUCKET = 999
_MAX_REVISION = 2**53
_MAX_UNIT = 200
_STATUSES = range(100, 600)
_SERVER_ERROR = 500
MAX_WAITING_BYTES = 64 * 2**20
"""How much waits in memory where the disk takes no more."""
_ABOVE_TEXT = 4096
"""How many bytes of a line its other columns may need beside the texts."""
_NUMBER = re.compile(r"[0-9]{1,16}")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asked and by which way, as the data path's headers say it.

    Attributes:
        interaction_id: From ``X-Request-Id``, or new.
        unit: What the bucket was drawn from (``X-Unit``).
        bucket: 0 to 999 (``X-Bucket``).
        plan_revision: At least 1 (``X-Plan-Revision``).
        is_smoke: The call is a probe (``X-Purpose: smoke``), not a user's, and is not logged.
    """

    interaction_id: str
    unit: str | None
    unit_kind: UnitKind | None
    bucket: int | None
    plan_revision: int | None
    is_smoke: bool

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Caller:
        """Read the headers; what is missing or invalid is unknown, never an error of the caller.

        Args:
            headers: Names in lower case, values decoded as Latin-1.
        """
        request_id = headers.get("x-request-id", "")
        kind = headers.get("x-unit-kind", "")
        return cls(
            interaction_id=request_id if _REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex,
            unit=_text(headers.get("x-unit", "")),
            unit_kind=cast("UnitKind", kind) if kind in get_args(UnitKind) else None,
            bucket=_number(headers.get("x-bucket", ""), 0, _MAX_BUCKET),
            plan_revision=_number(headers.get("x-plan-revision", ""), 1, _MAX_REVISION),
            is_smoke=headers.get("x-purpose", "").strip().lower() == "smoke",
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One finished call, as the server saw it.

    Attributes:
        time: When the request arrived.
        question: The last user message; None where the body was not understood.
        latency_ms: From request to last byte.
        status: The HTTP status that was answered; 499 where the caller left before the end.
    """

    caller: Caller
    time: datetime
    question: str | None
    capture: Capture
    latency_ms: float
    status: int


class InteractionLog:
    """Appends one JSON line a call to ``{folder}/{application}/{UTC date}/{digest12}-{pid}-{start}.jsonl``.

    A file that is full is followed by one with a number. Every line is one write to a descriptor opened for appending,
    so a kill never leaves half of an earlier line. No two processes share a file, on whatever machines they run.

    Args:
        folder: Where all applications log.
        release: The release that answers.
        started: When the server started; part of the file's name, so that no process shares a file.
        log_content: Whether question, passage and answer are written.
        kept: What is kept of texts that are; by default all.
        rotate_bytes: A file is not continued beyond this size.
    """

    def __init__(
        self,
        folder: Path,
        release: Release,
        started: datetime,
        *,
        log_content: bool = True,
        kept: Kept | None = None,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        self._folder = folder / release.application
        self._release = release
        self._name = f"{release.short}-{os.getpid()}-{started.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
        self._log_content = log_content
        self._kept = kept or Kept()
        self._rotate_bytes = rotate_bytes
        self._date, self._part, self._size, self._is_cut = "", 0, 0, False
        self._descriptor: int | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def write(self, call: Call) -> None:
        """Append one call; a probe's call is not written.

        Where what is known of a call makes no line, a line of its ids, time and status stands for it. A line that
        cannot be written, as on a full disk, waits for the next call or the end, up to ``MAX_WAITING_BYTES`` of them;
        either is reported on the error stream with the call's id, and the answer stands.
        """
        if call.caller.is_smoke:
            return
        line, name = self._line(call), call.caller.interaction_id
        has_room = self._waiting_bytes + len(line) <= MAX_WAITING_BYTES
        if has_room:
            self._waiting.append(line)
            self._waiting_bytes += len(line)
        else:
            _LOGGER.error("interaction %s is not logged: %d lines wait to be written", name, len(self._waiting))
        try:
            self._drain()
        except OSError as error:
            _LOGGER.error("interaction %s waits to be logged, one of %d: %s", name, len(self._waiting), error)  # noqa: TRY400 - one line

    def interaction(self, call: Call) -> Interaction:
        """Return the line of a call."""
        spec, capture, shown = self._release.spec, call.capture, self._log_content
        return Interaction(
            interaction_id=call.caller.interaction_id,
            application=spec.application,
            release_digest=self._release.digest,
            time=call.time,
            unit=call.caller.unit,
            unit_kind=call.caller.unit_kind,
            bucket=call.caller.bucket,
            plan_revision=call.caller.plan_revision,
            provider=spec.provider,
            model=spec.model_id,
            prompt_name=self._release.prompt.name,
            prompt_version=self._release.prompt.version,
            input_text=call.question if shown else None,
            context_text=capture.context_text if shown else None,
            output_text=capture.output_text if shown else None,
            input_tokens=capture.input_tokens,
            output_tokens=capture.output_tokens,
            cached_input_tokens=capture.cached_input_tokens,
            latency_ms=call.latency_ms,
            status=call.status,
            error_type=capture.error_type,
            finish_reason=capture.finish_reason,
        )

    def reduced(self, call: Call) -> Interaction:
        """Return the line of a call of which not everything can be written."""
        return Interaction(
            interaction_id=call.caller.interaction_id,
            application=self._release.application,
            release_digest=self._release.digest,
            time=call.time,
            unit=call.caller.unit,
            unit_kind=call.caller.unit_kind,
            bucket=call.caller.bucket,
            plan_revision=call.caller.plan_revision,
            status=call.status if call.status in _STATUSES else _SERVER_ERROR,
            error_type="Unloggable",
        )

    def close(self) -> None:
        """Write what waits, and close the file; what still cannot be written is reported."""
        try:
            self._drain()
        except OSError as error:
            _LOGGER.error("%d interactions are not logged: %s", len(self._waiting), error)  # noqa: TRY400 - one line
        self._close_file()

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _drain(self) -> None:
        """Write the lines that wait: each with one write, unless the disk takes only a part; the rest is next then."""
        while self._waiting:
            line = self._waiting[0]
            done = os.write(self._open(datetime.now(UTC)), line)
            self._size += done
            self._waiting_bytes -= done
            self._is_cut = done < len(line)
            if self._is_cut:
                self._waiting[0] = line[done:]
            else:
                self._waiting.popleft()

    def _line(self, call: Call) -> bytes:
        try:
            made = self._kept.interaction(self.interaction(call))
            line = made.model_dump_json().encode()
            if len(line) > MAX_LINE_BYTES - _ABOVE_TEXT:
                # Ingestion would set it aside: the call counts even where its text is too long for a line.
                line = Kept("hash", self._kept.redactor).interaction(made).model_dump_json().encode()
        except ValueError as error:  # what pydantic refuses, and a text that has no UTF-8
            places = [str(item["loc"][0]) for item in error.errors()] if isinstance(error, ValidationError) else []
            name = call.caller.interaction_id
            _LOGGER.error("interaction %s is logged without its values: %s", name, ", ".join(places) or "no UTF-8")  # noqa: TRY400 - one line
            line = self._kept.interaction(self.reduced(call)).model_dump_json().encode()
        return line + b"\n"

    def _file(self, part: int) -> str:
        return f"{self._name}-{part}.jsonl" if part else f"{self._name}.jsonl"

    def _open(self, now: datetime) -> int:
        date = now.date().isoformat()
        is_full = self._size >= self._rotate_bytes
        # A line that is cut goes on where it began.
        if self._descriptor is None or ((date != self._date or is_full) and not self._is_cut):
            self._close_file()
            part = self._part + is_full
            folder = self._folder / date
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A new file is nobody else's: on a folder of several machines a process has a number only on its own one.
            mine = 0 if (date, part) == (self._date, self._part) else os.O_EXCL
            while (opened := _append_to(folder / self._file(part), mine)) is None:
                part += 1
            self._descriptor = opened
            self._date, self._part, self._size = date, part, os.fstat(self._descriptor).st_size
        return self._descriptor


def _append_to(path: Path, flags: int) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    except FileExistsError:
        return None


def _text(value: str) -> str | None:
    # The data path hashes bytes; a server reads headers as Latin-1, which would show an UTF-8 name wrongly.
    try:
        text = value.encode("latin-1").decode()
    except UnicodeError:
        return None
    return text if 0 < len(text) <= _MAX_UNIT and text.isprintable() else None


def _number(value: str, low: int, high: int) -> int | None:
    if not _NUMBER.fullmatch(value):
        return None
    return int(value) if low <= int(value) <= high else None
