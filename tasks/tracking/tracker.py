"""Applications tell what they answered; they never wait for it and never fail by it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from tasks.errors import InputError
from tasks.interactions.content import Policy
from tasks.interactions.redaction import Hook, Redactor
from tasks.interactions.schema import Interaction, printable
from tasks.monitors.verdict import Check
from tasks.tracking.breaches import Breach, BreachLog
from tasks.tracking.buffer import MAX_PENDING, Buffer
from tasks.tracking.monitors import Monitors
from tasks.tracking.outbox import Outbox
from tasks.tracking.records import (
    Kept,
    Record,
    Refused,
    feedback_of,
    interaction_of,
    new_id,
    raise_refused,
)
from tasks.tracking.spool import Spool

OnBreach = Callable[[Interaction, Check], None]
"""Told of a call and of the limit it broke, in the thread that tracked it: it had better be quick."""
PREFIX: Final = "tracked"
_CALLER_LEFT: Final = 499
_SERVER_ERROR: Final = 500
_LOGGER = logging.getLogger("tasks.tracking")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Tracker:
    """Takes calls and feedback and writes them, in batches, to files that ingestion reads or to a receiver.

    It is safe for threads, for asyncio and for forks: each process writes files of its own.

    Args:
        folder: Where all applications log; with ``url`` where batches wait for the receiver.
        application: What users call, where a call does not say.
        url: A receiver to send to, for example ``http://127.0.0.1:4318``; None writes to the folder alone.
        token: The receiver's token.
        durable: Whether each call is on the disk before it returns. Otherwise a kill loses the last interval.
        flush_interval_s: How often what is pending is written, seconds, above 0 and at most 60.
        max_pending: Most calls in memory, at least 1; see ``Buffer`` for what happens beyond.
        content: What is kept of texts: ``full``, ``hash`` or ``off``.
        redact: What is taken out of texts before they are written, in the writer's thread: a redactor, or a function
            from text to text. A call it fails on is kept without its texts.
        monitors: Limits each call is held against at once; what is broken becomes an alert within minutes.
        on_breach: Told of each limit that is broken, too; by default it is logged.
        strict: Whether a bad value raises, for development. Otherwise its line is set aside by ingestion.
        clock: Returns the time now.

    Raises:
        InputError: A value is not allowed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        application: str | None = None,
        url: str | None = None,
        token: str | None = None,
        durable: bool = False,
        flush_interval_s: float = 0.2,
        max_pending: int = MAX_PENDING,
        content: Policy = "full",
        redact: Redactor | Hook | None = None,
        monitors: Monitors | None = None,
        on_breach: OnBreach | None = None,
        strict: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not 0 < flush_interval_s <= 60:  # noqa: PLR2004 - a minute
            raise InputError.of("Tracker.flush_interval_s", flush_interval_s, "above 0, at most 60 seconds")
        if max_pending < 1:
            raise InputError.of("Tracker.max_pending", max_pending, "1 or more")
        store = Outbox(folder, url, token, clock) if url else Spool(folder, PREFIX, clock)
        kept = Kept.of(content, redact)
        self._buffer = Buffer(store, kept, flush_interval_s, max_pending)
        self._application, self._durable, self._strict = application, durable, strict
        self._monitors, self._on_breach, self._clock = monitors, on_breach, clock
        self._breaches = BreachLog()

    @property
    def lost(self) -> int:
        """How many calls were lost in this process because the log could not be written as fast as calls came."""
        return self._buffer.lost

    def track_interaction(self, **columns: Any) -> str:
        """Take one call and return its id at once; it never raises, unless the tracker is strict.

        Args:
            columns: Columns of the log by their names (docs/interactions.md), and ``user`` (kept as ``unit`` and as
                ``user_hash``), ``session`` and ``tags`` (a mapping, or ``name=value`` each). The id, the time (now less
                ``latency_ms``) and ``status`` (200, or 500 where there is an ``error_type``) are filled in.

        Raises:
            InputError: A value is not allowed, and the tracker is strict.
        """
        now = self._clock()
        values = {"interaction_id": new_id(now), "application": self._application}
        values |= {name: value for name, value in columns.items() if value is not None}
        record = interaction_of(values, now)
        self._take(record)
        if isinstance(record, Interaction) and self._monitors:
            self._check(self._monitors, record)
        return str(values["interaction_id"])

    def track_feedback(
        self,
        interaction_id: str,
        *,
        value: float | None = None,
        label: str | None = None,
        comment: str | None = None,
        kind: str = "feedback",
        **others: Any,
    ) -> str:
        """Take what somebody says of an answer, as ``track_interaction`` takes a call, and return the feedback's id.

        Args:
            interaction_id: The call it is about, as ``track_interaction`` returned it.
            value: A number; True and False are 1 and 0.
            label: A word instead of a number.
            comment: What a person wrote.
            kind: What was judged, such as ``thumbs`` or ``resolved``.
            others: ``application``, ``time``, ``source`` and ``feedback_id``.

        Raises:
            InputError: A value is not allowed, and the tracker is strict.
        """
        now = self._clock()
        values: dict[str, Any] = {"feedback_id": new_id(now), "application": self._application}
        values |= {"interaction_id": interaction_id, "kind": kind, "value": value, "label": label, "comment": comment}
        values |= {name: said for name, said in others.items() if said is not None}
        self._take(feedback_of(values, now))
        return str(values["feedback_id"])

    def interaction(self, **columns: Any) -> Timed:
        """Return a block, or a decorator, that measures one call and takes it when it ends, however it ends."""
        return Timed(self, columns)

    def flush(self) -> bool:
        """Write what is pending, and return whether all of it is on the disk."""
        return self._buffer.flush()

    def close(self) -> bool:
        """Write what is pending and end; it happens by itself at a clean exit of the process."""
        for breach in self._breaches.rest():
            self._take(breach)
        return self._buffer.close()

    def __enter__(self) -> Self:
        """Return the tracker; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the tracker."""
        self.close()

    def _take(self, record: Record) -> None:
        if self._strict:
            raise_refused(record)
        if isinstance(record, Refused):
            self._buffer.warn(record.reason, f"a line is not accepted and will be set aside: {record.reason}")
        try:
            if self._durable:
                self._buffer.write_now(record)
            else:
                self._buffer.put(record)
        except Exception as error:  # noqa: BLE001 - the application's answer stands, whatever becomes of its log
            self._buffer.warn(type(error).__name__, f"calls are not logged: {type(error).__name__}")

    def _check(self, monitors: Monitors, call: Interaction) -> None:
        for check in monitors.breaches(call):
            if (breach := Breach.of(call, check, self._clock())) and (due := self._breaches.add(breach)):
                self._take(due)
            try:
                if self._on_breach:
                    self._on_breach(call, check)
                else:
                    _LOGGER.warning("interaction %s: %s", call.interaction_id, check.statement)
            except Exception as error:  # noqa: BLE001 - as above
                self._buffer.warn(f"on_breach {type(error).__name__}", f"on_breach failed: {type(error).__name__}")


class Call:
    """One call while it is being answered.

    Attributes:
        interaction_id: Its id, for feedback that comes later.
        question: What the user asked.
        answer: What was answered.
    """

    def __init__(self, interaction_id: str) -> None:
        self.interaction_id = interaction_id
        self.question: str | None = None
        self.answer: str | None = None
        self.columns: dict[str, Any] = {}

    def note(self, **columns: Any) -> None:
        """Add columns of the log, such as ``input_tokens``."""
        self.columns |= columns


class Timed:
    """A block that measures one call, or a decorator of which each run is one call.

    An exception gives status 500 and its type, and passes on; a cancelled call is one the caller left.
    """

    def __init__(self, tracker: Tracker, columns: dict[str, Any]) -> None:
        self._tracker = tracker
        self._columns = columns

    def __enter__(self) -> Call:
        """Begin to measure."""
        self._time = self._tracker._clock()  # noqa: SLF001 - of the same module
        self._began = time.perf_counter()
        self._call = Call(str(self._columns.get("interaction_id") or new_id(self._time)))
        return self._call

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Take the call."""
        call = self._call
        columns = self._columns | {"interaction_id": call.interaction_id, "time": self._time}
        columns["latency_ms"] = (time.perf_counter() - self._began) * 1000
        if call.question is not None:
            columns["input_text"] = call.question
        if call.answer is not None:
            columns["output_text"] = call.answer
        self._tracker.track_interaction(**(columns | call.columns | _outcome(kind)))

    def __call__(self, function: _Function) -> _Function:
        """Return the function with each of its runs taken as a call; a text it returns is the answer.

        Raises:
            InputError: It is a generator, whose answer comes after it has returned.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(f"{function.__name__}: a generator cannot be decorated; use a block around what it yields")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_later(*arguments: Any, **named: Any) -> Any:
                with Timed(self._tracker, self._columns) as call:
                    return _answered(call, await function(*arguments, **named))

            return cast("_Function", run_later)

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            with Timed(self._tracker, self._columns) as call:
                return _answered(call, function(*arguments, **named))

        return cast("_Function", run)


def _answered(call: Call, result: Any) -> Any:
    if isinstance(result, str):
        call.answer = result
    return result


def _outcome(kind: type[BaseException] | None) -> dict[str, Any]:
    if kind is None:
        return {}
    if issubclass(kind, asyncio.CancelledError | GeneratorExit):
        return {"status": _CALLER_LEFT, "error_type": "ClientDisconnect"}
    return {"status": _SERVER_ERROR, "error_type": printable(kind.__name__)}
