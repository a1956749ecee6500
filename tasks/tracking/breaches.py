"""Limits that single calls broke, on their way to an alert: a few lines beside the log, and what alerts make of them.

A line holds no text of a call and no word of an application but its name. Of calls that break the same limit one after
the other one line a minute is written, with how many they were, so an outage fills no disk and no look takes long.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.interactions.schema import EARLIEST, LATEST, Digest, Interaction
from tasks.monitors.alerts import Alert, Signal
from tasks.monitors.verdict import Check, Outcome

SUFFIX: Final = ".breaches"
"""Of their files, which are no part of the log: ingestion does not read them."""
QUIET: Final = timedelta(hours=6)
"""So long after the last call that broke a limit its alert resolves itself."""
MOST: Final = 500
"""Applications, releases and monitors of which alerts are made at once; made-up names flood nobody."""
_EVERY: Final = timedelta(minutes=1)
_PREFIX: Final = "call:"
_Number = Annotated[float, Field(allow_inf_nan=False)]


class Key(NamedTuple):
    """What an alert is about."""

    application: str
    release_digest: str
    monitor: str


class Breach(BaseModel):
    """Calls that broke one limit, as one JSON object a line.

    Attributes:
        application: What users call.
        release_digest: The release that answered; None where that is not known.
        monitor: Which limit.
        time: Of the latest of them.
        value: Of the latest of them: milliseconds, status, or US dollars.
        limit: In the same unit.
        calls: How many they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    application: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
    release_digest: Digest | None = None
    monitor: Literal["latency", "errors", "cost"]
    time: Annotated[AwareDatetime, Field(ge=EARLIEST, lt=LATEST)]
    value: _Number
    limit: _Number
    calls: Annotated[int, Field(ge=1, le=2**53)]

    @classmethod
    def of(cls, call: Interaction, check: Check, now: datetime) -> Self | None:
        """Return the breach of one call; None where no alert can be about it, as its application's name is too long."""
        values = {"application": call.application, "release_digest": call.release_digest, "monitor": check.monitor}
        numbers = {"value": float(check.value or 0.0), "limit": float(check.limit or 0.0), "calls": 1}
        try:
            return cls.model_validate({**values, **numbers, "time": now})
        except ValidationError:
            return None

    @property
    def key(self) -> Key:
        """What its alert is about."""
        return Key(self.application, self.release_digest or "", _PREFIX + self.monitor)

    @property
    def statement(self) -> str:
        """The inequality of the latest call."""
        if self.monitor == "latency":
            return f"latency {self.value:.0f} ms > limit {self.limit:.0f} ms"
        if self.monitor == "cost":
            return f"cost {self.value:.6f} USD > limit {self.limit:.6f} USD"
        return f"a call failed with status {self.value:.0f}"

    def and_before(self, earlier: Breach) -> Breach:
        """Return this one with the calls of an earlier one."""
        return self.model_copy(update={"calls": self.calls + earlier.calls})


class BreachLog:
    """Says which breaches to write: the first at once, those that follow one line a minute; for threads too."""

    def __init__(self, every: timedelta = _EVERY) -> None:
        self._every = every
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._written: dict[Key, datetime] = {}
        self._pending: dict[Key, Breach] = {}

    def add(self, breach: Breach) -> Breach | None:
        """Take a breach and return what is to be written now, None where that can wait."""
        if self._pid != os.getpid():
            self._renew()  # forked off: what was pending is the parent's to write
        with self._lock:
            if len(self._written) >= MOST and breach.key not in self._written:
                return None  # names that are made up anew for each call
            if (earlier := self._pending.get(breach.key)) is not None:
                breach = breach.and_before(earlier)
            last = self._written.get(breach.key)
            # A clock that was set back makes nobody wait.
            if last is not None and timedelta() <= breach.time - last < self._every:
                self._pending[breach.key] = breach
                return None
            self._written[breach.key] = breach.time
            self._pending.pop(breach.key, None)
            return breach

    def rest(self) -> tuple[Breach, ...]:
        """Return what waits, once."""
        if self._pid != os.getpid():
            self._renew()
        with self._lock:
            found, self._pending = tuple(self._pending.values()), {}
            return found


@dataclass(frozen=True, slots=True)
class Broken:
    """What the files say of some hours.

    Attributes:
        latest: The latest breach of each thing an alert can be about, with how many calls broke it.
        left_out: How many more there were than ``MOST``.
    """

    latest: Mapping[Key, Breach]
    left_out: int = 0


def parse_breach(line: bytes) -> Breach | str:
    """Read one line; return the reason, naming the field alone, where it is none."""
    try:
        return Breach.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = str(first["loc"][0]) if first["loc"] else "line"
        return f"{place if place in Breach.model_fields else 'breach'}: {first['msg'][:200]}"


def read_breaches(folder: Path, now: datetime, *, since: timedelta = QUIET) -> Broken:
    """Return what broke limits in the last hours, from the files of all applications, without what cannot be read.

    Args:
        folder: Where all applications log.
        now: The time, UTC; what says to be later waits until then.
        since: How far back.
    """
    latest: dict[Key, Breach] = {}
    left_out: set[Key] = set()
    for breach in _breaches(folder, (now - since).astimezone(UTC).date()):
        if not now - since < breach.time <= now:
            continue
        known = latest.get(breach.key)
        if known is None and len(latest) >= MOST:
            left_out.add(breach.key)
            continue
        first, last = sorted((known or breach, breach), key=lambda one: one.time)
        latest[breach.key] = breach if known is None else last.and_before(first)
    return Broken(latest, len(left_out))


def find_signals(broken: Broken, known: Iterable[Alert], now: datetime) -> tuple[Signal, ...]:
    """Return what single calls say of their alerts: what is new, and what broke no limit for some hours.

    Args:
        broken: What the files say of the last ``QUIET`` hours.
        known: The alerts that are not resolved.
        now: The time, UTC.
    """
    open_ones = {Key(one.application, one.release_digest, one.monitor): one for one in known}
    hours = f"{QUIET / timedelta(hours=1):g} h"
    is_new = {key: key not in open_ones or one.time > open_ones[key].window_end for key, one in broken.latest.items()}
    failed = (
        _signal(key, Outcome.FAIL, f"{breach.statement} ({breach.calls} calls in {hours})", breach.time)
        for key, breach in broken.latest.items()
        if is_new[key]
    )
    over = (key for key in open_ones if key.monitor.startswith(_PREFIX) and key not in broken.latest)
    return (*failed, *(_signal(key, Outcome.PASS, f"no call broke the limit for {hours}", now) for key in over))


def _signal(key: Key, outcome: Outcome, reason: str, end: datetime) -> Signal:
    return Signal(**key._asdict(), outcome=outcome, reason=reason, window_end=end)


def _breaches(folder: Path, first: date) -> Iterator[Breach]:
    for path in sorted(folder.glob(f"*/*/*{SUFFIX}")):
        # By the day of the writer's clock; the times in the lines decide.
        if path.parent.name < first.isoformat():
            continue
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and not isinstance(found := parse_breach(line), str):
                    yield found
