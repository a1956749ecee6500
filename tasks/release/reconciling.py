"""What was left undone: failures that nobody undid, ramps that nobody watches. Found from the ledger alone.

Events and automations are the main way from a failed verdict to a rollback. They get lost where a server was down when
the verdict came; the ledger does not, so it is read again from time to time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tasks.experiments.life import ExperimentRecord
from tasks.monitors.alerts import Signal
from tasks.monitors.verdict import Outcome, RecordedVerdict
from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout
from tasks.traffic.plan import Plan

NIGHTLY = "evaluation"
"""The kind of verdict that calls for a rollback by itself; a ramp undoes its own failures."""

EVENT_S = 600.0
"""So old a verdict is, in seconds, until its event is no longer expected, and whoever holds the lease not spared."""
MAX_NIGHT_AGE = timedelta(hours=26)
"""So long ago the last night may have been judged: a day, and two hours for the work itself."""


class Cure(StrEnum):
    """What closes a gap."""

    ROLL_BACK = "roll back"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something that ought to have happened and did not.

    Attributes:
        application: What users call.
        release_digest: The release it is about.
        cure: What closes it.
        reason: Why, for the record.
    """

    application: str
    release_digest: str
    cure: Cure
    reason: str


def find_gaps(
    plan: Plan | None,
    rollouts: Sequence[Rollout],
    verdicts: Sequence[RecordedVerdict],
    experiment: ExperimentRecord | None = None,
) -> tuple[Gap, ...]:
    """Return what an application that nobody changes at the moment has left undone.

    Args:
        plan: The plan in force of the application, None where it has none.
        rollouts: Its rollouts, the latest started first.
        verdicts: Its verdicts in any order.
        experiment: The one that is not over, None where there is none.

    Returns:
        At most one gap a release: a rollback that was not finished, or that a failed night calls for, before a ramp
        without a watch.
    """
    gaps: dict[str, Gap] = {}
    for rollout in rollouts:
        if rollout.is_undoing:
            gaps.setdefault(rollout.release_digest, _gap(rollout, Cure.ROLL_BACK, rollout.reason))
    for failed in find_failed_nights(plan, rollouts, verdicts, experiment):
        gaps.setdefault(failed.release_digest, failed)
    for rollout in rollouts:
        if rollout.state in (State.RAMPING, State.WAITING):
            gaps.setdefault(rollout.release_digest, _gap(rollout, Cure.HOLD, "nobody watches the ramp any more"))
    return tuple(gaps.values())


def find_failed_nights(
    plan: Plan | None,
    rollouts: Sequence[Rollout],
    verdicts: Sequence[RecordedVerdict],
    experiment: ExperimentRecord | None = None,
    recorded_until: datetime | None = None,
) -> tuple[Gap, ...]:
    """Return the releases that serve although their last judged night failed, and that was on record by a moment.

    A verdict older than the latest rollout of its release, or than the experiment it is an arm of, calls for nothing
    any more: those were started in knowledge of it.
    """
    gaps = []
    for digest in plan.counts() if plan else {}:
        begun = [rollout.started for rollout in rollouts if rollout.release_digest == digest]
        if experiment is not None and digest in experiment.arms:
            begun.append(experiment.started)
        failed = _failed_night(digest, max(begun, default=None), verdicts)
        if plan is not None and failed is not None and (recorded_until is None or failed.recorded <= recorded_until):
            reason = failed.verdict.reason
            gaps.append(Gap(application=plan.application, release_digest=digest, cure=Cure.ROLL_BACK, reason=reason))
    return tuple(gaps)


def judge_nights(
    application: str, serving_since: datetime, verdicts: Sequence[RecordedVerdict], now: datetime
) -> Signal:
    """Return whether an application's nights are judged, as the monitor ``evaluation`` says it.

    Args:
        application: What users call.
        serving_since: When it got its first plan, UTC.
        verdicts: Its verdicts in any order.
        now: The time, UTC.
    """
    last = max((row.recorded for row in verdicts if row.kind == NIGHTLY), default=None)
    since = max(last or serving_since, serving_since)
    age_h, limit_h = (now - since) / timedelta(hours=1), MAX_NIGHT_AGE / timedelta(hours=1)
    is_missed = now - since > MAX_NIGHT_AGE
    what = "the last night was judged" if last else "no night was ever judged, and the first plan was written"
    return Signal(
        application=application,
        release_digest="",
        monitor=NIGHTLY,
        outcome=Outcome.ERROR if is_missed else Outcome.PASS,
        reason=f"{what} {age_h:.1f} h ago {'>' if is_missed else '<='} limit {limit_h:.0f} h",
        window_end=since,
    )


def _gap(rollout: Rollout, cure: Cure, reason: str) -> Gap:
    return Gap(application=rollout.application, release_digest=rollout.release_digest, cure=cure, reason=reason)


def _failed_night(digest: str, begun: datetime | None, verdicts: Sequence[RecordedVerdict]) -> RecordedVerdict | None:
    """Return the verdict of the release's last judged night where it failed and came after the release was begun."""
    nights = [row for row in verdicts if row.kind == NIGHTLY and row.verdict.release_digest == digest]
    if begun is None or not nights:
        return None
    last = max(nights, key=lambda row: (row.verdict.window_end, row.recorded))
    return last if last.verdict.outcome is Outcome.FAIL and last.recorded >= begun else None
