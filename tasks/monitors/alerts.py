"""The life of an alert: one for each application, release, monitor and segment, however often the monitor fails.

A failed check opens it, or opens it again; a passed one resolves it. A check that is inconclusive says nothing and
changes nothing. What a window says is passed over where a later window has spoken, so an old night that is judged
again neither opens nor resolves anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from tasks.errors import InputError
from tasks.monitors.verdict import SEVERITY, Check, Outcome, Verdict, worst

WATCHES_DATA: Final = ("coverage",)
"""Monitors of missing data: for them inconclusive is what they are there to find."""
ROLLBACK: Final = "rollback"
"""The alert of a release that failed: open while nothing can take its place, resolved once it is out."""


class AlertState(StrEnum):
    """Where an alert stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    SILENCED = "silenced"
    RESOLVED = "resolved"


class Turn(StrEnum):
    """What happens to an alert: a monitor fails or passes, the clock ends a silence, the others come from people."""

    FAIL = "fail"
    PASS = "pass"  # noqa: S105 - no password
    EXPIRE = "expire"
    ACKNOWLEDGE = "acknowledge"
    SILENCE = "silence"
    RESOLVE = "resolve"


class News(StrEnum):
    """What people are told about."""

    OPENED = "opened"
    REOPENED = "reopened"
    WORSE = "worse"
    STILL = "still failing"
    RESOLVED = "resolved"
    ROLLED_BACK = "rolled back"


_OPEN, _SEEN, _SILENT, _OVER = AlertState.OPEN, AlertState.ACKNOWLEDGED, AlertState.SILENCED, AlertState.RESOLVED
TRANSITIONS: Final = {
    (_OPEN, Turn.FAIL): _OPEN,
    (_OPEN, Turn.PASS): _OVER,
    (_OPEN, Turn.ACKNOWLEDGE): _SEEN,
    (_OPEN, Turn.SILENCE): _SILENT,
    (_OPEN, Turn.RESOLVE): _OVER,
    (_SEEN, Turn.FAIL): _SEEN,
    (_SEEN, Turn.PASS): _OVER,
    (_SEEN, Turn.SILENCE): _SILENT,
    (_SEEN, Turn.RESOLVE): _OVER,
    (_SILENT, Turn.FAIL): _SILENT,
    (_SILENT, Turn.PASS): _OVER,
    (_SILENT, Turn.EXPIRE): _OPEN,
    (_SILENT, Turn.ACKNOWLEDGE): _SEEN,
    (_SILENT, Turn.SILENCE): _SILENT,
    (_SILENT, Turn.RESOLVE): _OVER,
    (_OVER, Turn.FAIL): _OPEN,
    (_OVER, Turn.PASS): _OVER,
}
"""Where a turn leads; what is not here cannot happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What one monitor said of one window.

    Attributes:
        application, release_digest, monitor: What was watched; no digest: the application as a whole.
        segment: ``column=value``, empty for the whole release.
        outcome: ``pass`` clears an alert; ``fail`` and ``error`` raise it.
        reason: The inequality that decided.
        window_end: First moment after the window, UTC.
    """

    application: str
    release_digest: str
    monitor: str
    segment: str = ""
    outcome: Outcome
    reason: str
    window_end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert as the ledger keeps it.

    Attributes:
        alert_id: 32 hex digits; the same when it is opened again.
        application, release_digest, monitor, segment: What it is about; there is one alert for each.
        state: Where it stands.
        outcome: What the monitor came to, last it failed.
        reason: The inequality that decided, or what the person said who resolved it.
        opened: Since when it is open, UTC.
        changed: When its state changed, UTC.
        window_end: The end of the latest window that it rests on.
        failures: How many windows failed since it was opened.
        who: Who acknowledged, silenced or resolved it; empty: nobody.
        silenced_until: Until when nothing is told, UTC.
    """

    alert_id: str
    application: str
    release_digest: str
    monitor: str
    segment: str
    state: AlertState
    outcome: Outcome
    reason: str
    opened: datetime
    changed: datetime
    window_end: datetime
    failures: int = 1
    who: str = ""
    silenced_until: datetime | None = None

    @property
    def label(self) -> str:
        """What it is about, for people."""
        of = f" of {self.segment}" if self.segment else ""
        release = f", release {self.release_digest[:12]}" if self.release_digest else ""
        return f"{self.application}{release}: {self.monitor}{of}"


def find_signals(verdict: Verdict, warnings: Iterable[tuple[str, Check]] = ()) -> tuple[Signal, ...]:
    """Return what the monitors of a verdict say of their alerts; an inconclusive check says nothing.

    Args:
        verdict: The checks of one release; several of one monitor count as the gravest of them.
        warnings: Checks of segments, each with its ``column=value``.
    """
    found: dict[tuple[str, str], list[Check]] = {}
    for segment, check in [*(("", check) for check in verdict.checks), *warnings]:
        found.setdefault((check.monitor, segment), []).append(check)
    signals = (_signal(verdict, monitor, segment, checks) for (monitor, segment), checks in found.items())
    return tuple(signal for signal in signals if signal.outcome is not Outcome.INCONCLUSIVE)


def apply_signal(found: Alert | None, signal: Signal, now: datetime, new_id: str) -> tuple[Alert, News | None] | None:
    """Return the alert after a signal and what is to be told; None where nothing changes.

    Args:
        found: The alert as it stands, None where there never was one.
        signal: What its monitor said.
        now: The time, UTC.
        new_id: The id of an alert that is opened for the first time.
    """
    passed = signal.outcome is Outcome.PASS
    if found is None:
        return None if passed else (_opened(signal, now, new_id), News.OPENED)
    if signal.window_end < found.window_end or (passed and found.state is _OVER):
        return None
    if passed:
        return turn(found, Turn.PASS, now, reason=signal.reason, window_end=signal.window_end)
    if found.state is _OVER and found.who and signal.window_end == found.window_end:
        return None  # a person resolved it knowing of this window
    return _failed_again(found, signal, now)


def turn(
    alert: Alert,
    happened: Turn,
    now: datetime,
    *,
    reason: str,
    who: str = "",
    until: datetime | None = None,
    window_end: datetime | None = None,
) -> tuple[Alert, News | None]:
    """Return an alert after a turn, and what is to be told.

    Args:
        alert: As it stands.
        happened: The turn.
        now: The time, UTC.
        reason: The inequality of a window that passed, or what the person said who resolves it.
        who: The person, with a turn of people.
        until: Until when, with ``silence``.
        window_end: Of the window that passed.

    Raises:
        InputError: The turn cannot be taken where the alert stands, or a silence ends in the past.
    """
    after = TRANSITIONS.get((alert.state, happened))
    if after is None:
        allowed = sorted(str(other) for state, other in TRANSITIONS if state is alert.state)
        raise InputError.of(f"alert {alert.alert_id[:12]}, which is {alert.state}", str(happened), allowed)
    if happened is Turn.SILENCE and (until is None or until <= now):
        raise InputError.of("until", str(until), f"a time after {now:%Y-%m-%d %H:%M} UTC")
    changed = replace(
        alert,
        state=after,
        changed=now,
        reason=alert.reason if happened in {Turn.ACKNOWLEDGE, Turn.SILENCE, Turn.EXPIRE} else reason,
        who=who,
        silenced_until=until if after is _SILENT else None,
        window_end=window_end or alert.window_end,
    )
    return changed, _news(alert.state, happened)


def rolled_back(found: Alert | None, done: Alert) -> tuple[Alert, News] | None:
    """Return the alert of a rollback that is done, and that it is told; None where it was told before.

    Args:
        found: The ``ROLLBACK`` alert of the release as it stands, None where there never was one.
        done: The same, resolved; its ``window_end`` is the moment the release failed.
    """
    if found is None:
        return done, News.ROLLED_BACK
    if found.state is _OVER and found.window_end >= done.window_end:
        return None
    opened = done.opened if found.state is _OVER else found.opened
    return replace(done, alert_id=found.alert_id, opened=opened), News.ROLLED_BACK


def _news(before: AlertState, happened: Turn) -> News | None:
    if happened is Turn.EXPIRE:
        return News.STILL
    if happened in {Turn.PASS, Turn.RESOLVE}:
        return News.RESOLVED if before in {_OPEN, _SEEN} else None
    return None


def _failed_again(found: Alert, signal: Signal, now: datetime) -> tuple[Alert, News | None]:
    again = replace(found, outcome=signal.outcome, reason=signal.reason, window_end=signal.window_end)
    if found.state is _OVER:
        opened = replace(again, state=_OPEN, opened=now, changed=now, failures=1, who="", silenced_until=None)
        return opened, News.REOPENED
    counted = found.failures + (signal.window_end > found.window_end)
    is_worse = SEVERITY.index(signal.outcome) > SEVERITY.index(found.outcome)
    told = News.WORSE if is_worse and found.state is not _SILENT else None
    return replace(again, failures=counted), told


def _opened(signal: Signal, now: datetime, new_id: str) -> Alert:
    return Alert(
        alert_id=new_id,
        application=signal.application,
        release_digest=signal.release_digest,
        monitor=signal.monitor,
        segment=signal.segment,
        state=_OPEN,
        outcome=signal.outcome,
        reason=signal.reason,
        opened=now,
        changed=now,
        window_end=signal.window_end,
    )


def _signal(verdict: Verdict, monitor: str, segment: str, checks: list[Check]) -> Signal:
    outcome = worst(check.outcome for check in checks)
    said = "; ".join(check.statement for check in checks if check.outcome is outcome)
    if outcome is Outcome.INCONCLUSIVE and monitor in WATCHES_DATA:
        outcome = Outcome.ERROR
    return Signal(
        application=verdict.application,
        release_digest=verdict.release_digest,
        monitor=monitor,
        segment=segment,
        outcome=outcome,
        reason=said,
        window_end=verdict.window_end,
    )
