"""Checks and verdicts: what was measured, against which limit, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Outcome(StrEnum):
    """What a check, or a set of checks, came to."""

    PASS = "pass"  # noqa: S105 - no password
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    FAIL = "fail"


SEVERITY = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.ERROR, Outcome.FAIL)
"""From harmless to grave. A failed check outranks one that could not be made: it must be acted on."""


NEWS = timedelta(hours=48)
"""So long after its window ended a verdict calls for action by itself; one on older days is for people to read."""


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the gravest outcome; nothing at all is inconclusive, because no data is never a pass."""
    return max(outcomes, key=SEVERITY.index, default=Outcome.INCONCLUSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One monitor held against its limit.

    Attributes:
        monitor: What was watched: ``latency``, ``quality``, ``toxicity``, ``drift``, ``errors`` or ``data``.
        outcome: What it came to.
        statement: The inequality that decided, for people: ``p95 latency 1340 ms > limit 1000 ms (n=812)``.
        value: The measured value in the monitor's unit, or None where there was nothing to measure.
        limit: The limit in the same unit, or None where none applies.
        n: How many interactions the value rests on.
    """

    monitor: str
    outcome: Outcome
    statement: str
    value: float | None
    limit: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All checks of one release over one half-open UTC window."""

    application: str
    release_digest: str
    window_start: datetime
    window_end: datetime
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        """The gravest outcome of the checks."""
        return worst(check.outcome for check in self.checks)

    @property
    def deciding(self) -> tuple[Check, ...]:
        """The checks that made the verdict what it is, in their order."""
        return tuple(check for check in self.checks if check.outcome is self.outcome)

    @property
    def reason(self) -> str:
        """The deciding inequalities in one line."""
        return "; ".join(check.statement for check in self.deciding) or "nothing was checked"


def is_news(verdict: Verdict, judged: datetime) -> bool:
    """Return whether a verdict that was reached at a moment, UTC, calls for action by itself."""
    return judged - verdict.window_end <= NEWS


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedVerdict:
    """A verdict as the ledger keeps it.

    Attributes:
        verdict_id: Its id, the same when the same window is judged again.
        kind: What judged: ``smoke``, ``ramp``, ``evaluation``, ``costs``, ``experiment`` or ``shadow``.
        recorded: When it was written, UTC.
        verdict: The checks and what follows from them.
    """

    verdict_id: str
    kind: str
    recorded: datetime
    verdict: Verdict

    @property
    def is_news(self) -> bool:
        """Whether it was judged soon enough after its window to call for action by itself."""
        return is_news(self.verdict, self.recorded)
