"""Calls that may fail, hang or cost money: threads of our own, with a time limit for each call and retries.

A call ends in one of three states, and none of them is mistaken for another: it gave a value, it failed, or it never
ran. A thread that hangs cannot be stopped in Python. It is given up: its call is an error, its late answer is thrown
away, and another thread takes its place. A call that holds the interpreter in compiled code and never lets go of it
stops everything; only a process of its own would help, and that cannot carry any scorer.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from tasks.errors import DeliveryError, InputError

T = TypeVar("T")
MAX_HUNG: Final = 8
"""Threads given up in one run; after that many the calls that are left do not run."""
_LONGEST_WAIT_S: Final = 30.0


class State(StrEnum):
    """What became of a call."""

    SCORED = "scored"
    ERROR = "error"
    NOT_RUN = "not run"


class CallError(DeliveryError):
    """A call failed in a way whose text is fit to be shown: it repeats nothing of prompts, answers or keys.

    Attributes:
        retry: Whether another attempt can help.
        after_s: How long the server asks to wait first, seconds; None where it does not say.
    """

    def __init__(self, text: str, *, retry: bool = False, after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry = retry
        self.after_s = after_s


class NotRunError(DeliveryError):
    """A call was not made on purpose, for example because a budget is spent; its text says why."""


class _GivenUpError(BaseException):
    """Ends a thread that was given up, when it next runs Python code."""


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What became of one call.

    Attributes:
        state: Whether there is a value.
        value: None unless it was scored.
        reason: What went wrong or why it did not run; it repeats no text that was judged.
    """

    state: State
    value: T | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How calls are made.

    Attributes:
        workers: Calls at the same time, 1 to 64.
        timeout_s: How long one attempt may take, seconds.
        retries: Further attempts after one that failed, 0 to 10. One that took too long is not tried again.
        backoff_s: Pause before the first of them, seconds; it doubles.
        total_s: How long all calls may take before no other is begun, seconds; None is without end.
    """

    workers: int = 4
    timeout_s: float = 30.0
    retries: int = 0
    backoff_s: float = 0.5
    total_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that cannot be kept."""
        for name, value, low, high in (
            ("workers", self.workers, 1, 64),
            ("timeout_s", self.timeout_s, 0.001, 3600.0),
            ("retries", self.retries, 0, 10),
            ("backoff_s", self.backoff_s, 0.0, 60.0),
        ):
            if not low <= value <= high:
                raise InputError.of(f"limits.{name}", value, f"{low:g} to {high:g}")


def run_calls(call: Callable[[int], T], count: int, limits: Limits) -> list[Done[T]]:
    """Make calls, several at a time.

    Args:
        call: Makes the call of a number from 0 on. It may raise: ``CallError`` and ``NotRunError`` are told in their
            own words, any other exception by the name of its type only, because its text may repeat what was judged.
        count: How many calls there are.
        limits: How they are made.

    Returns:
        What became of each, in order.
    """
    return _Run(call, count, limits).finish() if count else []


class _Run(Generic[T]):
    """One run: the calls, the threads that make them, and the watch over those."""

    def __init__(self, call: Callable[[int], T], count: int, limits: Limits) -> None:
        self.call = call
        self.count = count
        self.limits = limits
        self.results: list[Done[T] | None] = [None] * count
        self.numbers = itertools.count()
        self.stop = threading.Event()
        self.ended = threading.Event()
        self.why = ""
        self.lock = threading.Lock()
        self.working: set[_Worker[T]] = set()
        self.hung = 0

    def finish(self) -> list[Done[T]]:
        began = time.monotonic()
        with self.lock:
            for _ in range(min(self.limits.workers, self.count)):
                self._hire()
        tick_s = min(0.05, self.limits.timeout_s / 4)
        while not self.ended.wait(tick_s):
            now = time.monotonic()
            if self.limits.total_s is not None and now - began > self.limits.total_s:
                self._end(f"the run took longer than {self.limits.total_s:g} s")
            self._give_up_hung(now)
        missing: Done[T] = Done(State.NOT_RUN, reason=self.why or "the run ended early")
        return [missing if result is None else result for result in self.results]

    def leave(self, worker: _Worker[T]) -> None:
        with self.lock:
            self.working.discard(worker)
            if not self.working:
                self.ended.set()

    def _hire(self) -> None:
        worker = _Worker(self)
        self.working.add(worker)
        worker.start()

    def _end(self, why: str) -> None:
        self.why = self.why or why
        self.stop.set()

    def _give_up_hung(self, now: float) -> None:
        with self.lock:
            for worker in [one for one in self.working if one.is_hung(now)]:
                if not worker.give_up(f"timed out after {self.limits.timeout_s:g} s"):
                    continue
                self.working.discard(worker)
                self.hung += 1
                if self.hung < MAX_HUNG:
                    self._hire()
                else:
                    self._end(f"{self.hung} calls hung")
            if not self.working:
                self.ended.set()


class _Worker(threading.Thread, Generic[T]):
    """A thread that makes one call after the other until none is left or it is given up."""

    def __init__(self, run: _Run[T]) -> None:
        super().__init__(daemon=True, name="scorer")
        self.owner = run
        self.since: float | None = None
        self.at = -1
        self.given_up = False
        self.guard = threading.Lock()

    def run(self) -> None:
        try:
            while not self.owner.stop.is_set() and (at := next(self.owner.numbers)) < self.owner.count:
                self.at = at
                result = self._attempts(at)
                with self.guard:
                    if self.given_up:
                        return
                    self.since = None
                    self.owner.results[at] = result
        except _GivenUpError:
            return
        finally:
            self.owner.leave(self)

    def is_hung(self, now: float) -> bool:
        since = self.since
        return since is not None and now - since > self.owner.limits.timeout_s

    def give_up(self, reason: str) -> bool:
        """Return whether the thread was given up: not if its call ended a moment ago."""
        with self.guard:
            if self.since is None:
                return False
            self.given_up = True
            self.owner.results[self.at] = Done(State.ERROR, reason=reason)
        if self.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(_GivenUpError))
        return True

    def _attempts(self, at: int) -> Done[T]:
        limits = self.owner.limits
        for attempt in range(limits.retries + 1):
            self.since = time.monotonic()
            try:
                return Done(State.SCORED, self.owner.call(at))
            except NotRunError as error:
                return Done(State.NOT_RUN, reason=str(error))
            except _GivenUpError:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever somebody else's scorer raises, also SystemExit
                failed: Done[T] = Done(State.ERROR, reason=_reason(error))
                if attempt == limits.retries or (isinstance(error, CallError) and not error.retry):
                    return failed
                asked = error.after_s if isinstance(error, CallError) else None
            self.since = None
            pause_s = limits.backoff_s * 2**attempt if asked is None else asked
            if self.owner.stop.wait(min(pause_s, _LONGEST_WAIT_S)):
                return failed
        raise AssertionError("unreachable")


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, CallError) else type(error).__name__
