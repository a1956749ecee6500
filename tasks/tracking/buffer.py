"""Records that wait in memory for one thread to write them."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, Final, Protocol

from tasks.tracking.records import Kept, Record, Refused, as_line
from tasks.tracking.spool import Line

MAX_PENDING: Final = 10_000
MAX_PENDING_CHARACTERS: Final = 64 * 2**20
_PATIENCE_S: Final = 1.0
_RETRY_S: Final = 0.5
_RECORD_CHARACTERS: Final = 1_000
"""What a record counts for beside its texts."""
_LOGGER = logging.getLogger("tasks.tracking")
_alive: weakref.WeakSet[Buffer] = weakref.WeakSet()


class Store(Protocol):
    """Where lines go. It is called from one thread at a time."""

    def store(self, lines: Sequence[Line]) -> tuple[list[Line], OSError | None]:
        """Keep lines for good; return those that are not kept, and why."""

    def end_half_lines(self) -> int:
        """End what killed writers left unfinished."""

    def renew(self) -> None:
        """Begin anew in a process that was forked off."""

    def close(self) -> bool:
        """Pass on what can be passed on, and return whether nothing waits."""


class Buffer:
    """Takes records without waiting; a thread of its own writes them every so often.

    Up to the bound a record is only put into a list. Beyond it, ``put`` waits for the writer, at most a second and
    only once while nothing moves; then a record is lost, counted and said. What the disk refuses is tried again.

    Args:
        store: Where lines go.
        kept: What is kept of texts.
        flush_interval_s: How often lines are written, seconds.
        max_pending: Most records in memory.
    """

    _thread: threading.Thread | None
    _finalizer: Any
    _pending: list[Record]
    _characters: int
    _held: int
    _held_characters: int
    _is_stuck: bool
    _is_ending: bool
    _unwritten: list[Line]

    def __init__(self, store: Store, kept: Kept, flush_interval_s: float, max_pending: int = MAX_PENDING) -> None:
        self.lost = 0
        self._store = store
        self._kept = kept
        self._interval_s = flush_interval_s
        self._max_pending = max_pending
        self._begin()
        _alive.add(self)

    def put(self, record: Record) -> None:
        """Hand over a record."""
        size = _size_of(record)
        with self._lock:
            self._start()
            is_lost = self._is_full() and not self._await_room()
            if is_lost:
                self.lost += 1
            else:
                self._pending.append(record)
                self._characters += size
                self._some.set()
                if self._is_full():
                    self._hurry.set()
        if self._is_ending:
            self.flush()
        elif is_lost:
            self.warn("lost", "calls are lost: the log cannot be written as fast as calls come")

    def write_now(self, record: Record) -> bool:
        """Write a record in the caller's thread, and return whether it is on the disk."""
        with self._writing:
            left, problem = self._stored([self._line(record)])
            with self._lock:
                is_lost = bool(left) and self._is_full()
                self.lost += is_lost
                if left and not is_lost:
                    self._unwritten += left
                    self._held += 1
                    self._start()
                    self._some.set()
        self._say(problem)
        return not left

    def flush(self) -> bool:
        """Write what is pending, and return whether all of it is on the disk."""
        with self._writing:
            with self._lock:
                taken, self._pending = self._pending, []
                # Until they are written they count against the bound, as what could not be written before.
                self._held, self._held_characters = self._held + len(taken), self._held_characters + self._characters
                self._characters = 0
                self._some.clear()
                self._hurry.clear()
            lines = self._unwritten + [self._line(record) for record in taken]
            self._unwritten, problem = self._stored(lines) if lines else ([], None)
            with self._lock:
                self._held = len(self._unwritten)
                self._held_characters = sum(len(line.content) for line in self._unwritten)
                self._is_stuck = bool(self._unwritten)
                self._room.notify_all()
                if self._unwritten:
                    self._some.set()
        self._say(problem)
        return not self._unwritten

    def close(self) -> bool:
        """Write what is pending and end the thread; a later record starts it again."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._ended.set()
            self._some.set()
            self._hurry.set()
        atexit.unregister(self._end)
        if self._finalizer is not None:
            self._finalizer.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)
        is_written = self.flush()
        self._store.close()
        if self.lost:
            _LOGGER.error("%d calls were lost", self.lost)
        return is_written

    def warn(self, kind: str, text: str) -> None:
        """Say something once for its kind."""
        if kind not in self._said:
            self._said.add(kind)
            _LOGGER.warning("%s (said once)", text)

    def _line(self, record: Record) -> Line:
        try:
            return as_line(record, self._kept)
        except Exception as error:  # noqa: BLE001 - the other records are not lost by it
            reason = f"call: makes no line ({type(error).__name__})"
            self.warn(reason, f"a line is not accepted and will be set aside: {reason}")
            return as_line(Refused("interactions", reason, {}), self._kept)

    def _stored(self, lines: list[Line]) -> tuple[list[Line], OSError | None]:
        try:
            return self._store.store(lines)
        except Exception as error:  # noqa: BLE001 - nothing is lost by what nobody thought of
            return lines, OSError(errno.EIO, type(error).__name__)

    def _say(self, problem: OSError | None) -> None:
        if problem is not None:
            self.warn(f"disk {problem.errno}", f"the log cannot be written and is tried again: {problem.strerror}")

    def _begin(self) -> None:
        # Entered again by who tracks in a signal's handler.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._writing = threading.RLock()
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._ended = threading.Event()
        self._thread = None
        self._pending = []
        self._characters = self._held = self._held_characters = 0
        self._unwritten = []
        self._is_stuck = self._is_ending = False
        self._finalizer = None
        self._said: set[str] = set()

    def renew(self) -> None:
        """Begin anew in a process that was forked off; what was pending is its parent's to write."""
        self._begin()
        self.lost = 0
        self._store.renew()

    def _is_full(self) -> bool:
        characters = self._characters + self._held_characters
        return len(self._pending) + self._held >= self._max_pending or characters >= MAX_PENDING_CHARACTERS

    def _await_room(self) -> bool:
        self._hurry.set()
        limit = time.monotonic() + _PATIENCE_S
        while self._is_full() and not self._is_stuck and (left := limit - time.monotonic()) > 0:
            self._room.wait(left)
        self._is_stuck = self._is_full()
        return not self._is_stuck

    def _start(self) -> None:
        if self._thread is not None or self._is_ending:
            return
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._ended,), name="interaction-log", daemon=True)
        self._thread.start()
        atexit.register(self._end)
        if "multiprocessing.util" in sys.modules:
            # A forked worker of multiprocessing ends without atexit.
            self._finalizer = sys.modules["multiprocessing.util"].Finalize(None, self._end, exitpriority=0)

    def _end(self) -> None:
        # What is tracked from here on, by what else runs at exit, no thread would live to write.
        self._is_ending = True
        if not self.close():
            _LOGGER.error("calls are lost at the end of the process: the log cannot be written")

    def _run(self, ended: threading.Event) -> None:
        with self._writing:
            self._store.end_half_lines()
        while not ended.is_set():
            self._some.wait()
            self._hurry.wait(self._interval_s)
            if not self.flush():
                ended.wait(max(self._interval_s, _RETRY_S))


def _size_of(record: Record) -> int:
    if isinstance(record, Refused):
        texts = tuple(value for value in record.values.values() if isinstance(value, str))
    else:
        names = ("input_text", "context_text", "output_text", "comment")
        texts = tuple(text for name in names if (text := getattr(record, name, None)))
    return _RECORD_CHARACTERS + sum(map(len, texts))


def _renew_all() -> None:
    for buffer in list(_alive):
        buffer.renew()


os.register_at_fork(after_in_child=_renew_all)
