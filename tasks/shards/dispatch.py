"""Sends orders out, at most so many at once, until each has its result; what is lost or left lying is sent out again.

How an order runs is the runner's matter: a flow run on a work pool, a task on Dask. Clock and pause come in as
arguments. A shard that is thought lost and is not does the same work again, which changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from tasks.errors import DeliveryError, UnreachableError

Run = TypeVar("Run")


class ShardError(DeliveryError):
    """A shard failed as often as it may."""


class Stage(StrEnum):
    """How far one attempt of an order is."""

    WAITING = "waiting"
    """Nobody has taken it."""
    TAKEN = "taken"
    """Somebody has, and makes room for it."""
    RUNNING = "running"
    DONE = "done"
    """Its result is there."""
    LOST = "lost"
    """It ended without a result."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a runner sees of an attempt.

    Attributes:
        stage: How far it is.
        beat: Its last sign of life.
        why: What happened, for people; no text of a user.
    """

    stage: Stage
    beat: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Errand:
    """An order on its way.

    Attributes:
        name: Of the order.
        label: The order for people.
        attempt: Counted from 1.
    """

    name: str
    label: str
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an order is given.

    Attributes:
        at_once: How many orders may be out at the same time.
        attempts: How often one is sent out at most.
        wait_s: How long an order may lie untaken while no other moves either, or be taken without running.
        silent_s: How long a running one may give no sign of life.
        poll_s: How often is looked.
    """

    at_once: int
    attempts: int
    wait_s: float
    silent_s: float
    poll_s: float = 1.0


class Runner(Protocol[Run]):
    """Runs orders somewhere."""

    def start(self, errand: Errand) -> Run:
        """Begin an attempt."""
        ...

    def look(self, runs: Sequence[Run]) -> Sequence[Seen]:
        """Return how far attempts are, in their order."""
        ...

    def drop(self, run: Run, why: str, *, lost: bool) -> None:
        """Give an attempt up; a lost one is nobody's to end."""
        ...

    def trouble(self) -> str:
        """Return why nobody may take an order, and what to do about it."""
        ...


@dataclass(slots=True)
class _Flight(Generic[Run]):
    errand: Errand
    run: Run
    since: float
    """When it last moved."""
    seen: Seen = Seen(Stage.WAITING)


@dataclass(slots=True)
class Dispatch(Generic[Run]):
    """Sends orders out.

    Args:
        runner: Where they run.
        limits: What each is given.
        clock: Seconds that only grow.
        pause: Waits so many seconds.
        tell: Told of every attempt that was in vain.
        done: Told how many orders are done.
    """

    runner: Runner[Run]
    limits: Limits
    clock: Callable[[], float]
    pause: Callable[[float], None]
    tell: Callable[[str], None] = lambda _: None
    done: Callable[[int], None] = lambda _: None
    _out: list[_Flight[Run]] = field(default_factory=list)
    _moved: float = 0.0
    """When any order moved last."""

    def run(self, errands: Sequence[Errand]) -> None:
        """Send orders out until each has its result.

        Raises:
            ShardError: An order failed as often as it may.
            UnreachableError: Nobody took one.
        """
        todo = deque(errands)
        try:
            while todo or self._out:
                while todo and len(self._out) < self.limits.at_once:
                    self._begin(todo.popleft())
                self._look()
                todo.extendleft(again for flight in list(self._out) if (again := self._judge(flight)) is not None)
                self.done(len(errands) - len(todo) - len(self._out))
                if self._out:
                    self.pause(self.limits.poll_s)
        except BaseException:
            for flight in self._out:
                with suppress(Exception):  # what comes up is said already
                    self.runner.drop(flight.run, "the parent run ended", lost=False)
            raise

    def _begin(self, errand: Errand) -> None:
        self._moved = self.clock()
        self._out.append(_Flight(errand, self.runner.start(errand), self._moved))

    def _look(self) -> None:
        found, now = self.runner.look([flight.run for flight in self._out]), self.clock()
        for flight, seen in zip(self._out, found, strict=True):
            if (seen.stage, seen.beat) != (flight.seen.stage, flight.seen.beat):
                flight.since = self._moved = now
            flight.seen = seen

    def _judge(self, flight: _Flight[Run]) -> Errand | None:
        """Take an order in that is done or in vain, and return its next attempt."""
        errand, seen = flight.errand, flight.seen
        why = "" if seen.stage is Stage.DONE else self._in_vain(flight)
        if not why and seen.stage is not Stage.DONE:
            return None
        self._out.remove(flight)
        self._moved = self.clock()
        if not why:
            return None
        self.tell(f"{errand.label}: attempt {errand.attempt} of {self.limits.attempts}: {why}")
        if seen.stage is not Stage.LOST:
            self.runner.drop(flight.run, why, lost=seen.stage is Stage.RUNNING)
        if errand.attempt < self.limits.attempts:
            return replace(errand, attempt=errand.attempt + 1)
        error = UnreachableError if seen.stage is Stage.WAITING else ShardError
        raise error(f"{errand.label}: given up after {errand.attempt} attempts; the last one: {why}")

    def _in_vain(self, flight: _Flight[Run]) -> str:
        """Return why nothing will come of an attempt; empty while something may."""
        seen, limits, now = flight.seen, self.limits, self.clock()
        quiet_s = now - flight.since
        if seen.stage is Stage.LOST:
            return seen.why
        # While any other moves, the pool works, and this one waits for its turn.
        if seen.stage is Stage.WAITING and now - self._moved >= limits.wait_s:
            return f"nobody took it in {limits.wait_s:g} s: {self.runner.trouble()}"
        if seen.stage is Stage.TAKEN and quiet_s >= limits.wait_s:
            return f"it was taken and did not start in {limits.wait_s:g} s"
        if seen.stage is Stage.RUNNING and quiet_s >= limits.silent_s:
            return seen.why or f"no sign of life for {limits.silent_s:g} s: its process or machine is lost"
        return ""
