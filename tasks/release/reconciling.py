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
from tasks.monitors.verdict import Outcome, RecordedVerdict, Verdict, is_news
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
    for rollout in reversed(rollouts):  # where two are undone, the older one failed; the other stood beside it
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
    any more: those were started in knowledge of it. Nor does one on a window that had ended by then.
    """
    gaps = []
    for digest in plan.counts() if plan else {}:
        begun = [rollout.started for rollout in rollouts if rollout.release_digest == digest]
        if experiment is not None and digest in experiment.arms:
            begun.append(experiment.started)
        failed = last_night(digest, verdicts)
        if plan is None or failed is None or not begun or failed.verdict.outcome is not Outcome.FAIL:
            continue
        is_due = recorded_until is None or failed.recorded <= recorded_until
        if is_due and failed.recorded >= max(begun) and failed.verdict.window_end > max(begun):
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


def is_latest_news(verdict: Verdict, verdicts: Sequence[RecordedVerdict], now: datetime) -> bool:
    """Return whether a verdict that was just reached may call for a rollback: it is on the last night, and in time."""
    last = last_night(verdict.release_digest, verdicts)
    return is_news(verdict, now) and (last is None or last.verdict.window_end <= verdict.window_end)


def last_night(digest: str, verdicts: Sequence[RecordedVerdict]) -> RecordedVerdict | None:
    """Return the verdict on the last night of a release that was judged in time, None where none was.

    Days long past that are judged again, or late, say nothing about whether it may serve now.
    """
    mine = (row for row in verdicts if row.kind == NIGHTLY and row.verdict.release_digest == digest and row.is_news)
    return max(mine, key=lambda row: (row.verdict.window_end, row.recorded), default=None)
