"""Decide what a rollback takes out and what it puts back."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from tasks.errors import InputError
from tasks.experiments.life import ExperimentRecord
from tasks.release.proven import promoted_digests
from tasks.release.rollout import Rollout
from tasks.traffic.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a rollback is going to do.

    Attributes:
        bad: Digest of the release to take out; empty where there is nothing to do.
        serves: Whether it has users who must be given to somebody else.
        candidates: Digests of proven releases that may take them, the best first.
        explanation: Why, in one line.
        is_stranded: Nobody may take its users, and nothing of its own is under way: a rollback changes nothing.
    """

    bad: str
    serves: bool
    candidates: tuple[str, ...]
    explanation: str
    is_stranded: bool = False


def decide_restoration(  # noqa: PLR0917 - all that is on record
    plan: Plan | None,
    rollouts: Sequence[Rollout],
    quarantined: AbstractSet[str],
    bad: str | None,
    experiment: ExperimentRecord | None = None,
    failed_at: datetime | None = None,
) -> Restoration:
    """Decide which release goes and which may take its users.

    Args:
        plan: The plan in force, None where the application has none.
        rollouts: The application's rollouts, the latest started first.
        quarantined: Digests that failed before.
        bad: The release that failed. None: the one whose rollout is under way or half undone, else the arm that an
            experiment compares with its control, else the one most users get.
        experiment: The application's experiment that is not over, None where there is none. A rollback ends it:
            nobody guards its other arms any more.
        failed_at: When the failure was put on record that is acted on; None: a person asks. A rollout without users
            that was begun after it was begun in knowledge of it.

    Returns:
        The decision. A release that neither serves nor is being rolled out or compared needs no rollback.

    Raises:
        InputError: No release is named, and an experiment has more than one arm that could be meant.
    """
    serving = plan.counts() if plan else {}
    open_one = next((rollout for rollout in rollouts if not rollout.is_finished), None)
    target = bad or (open_one.release_digest if open_one else _arm(experiment) or next(iter(serving), ""))
    latest = next((rollout for rollout in rollouts if rollout.release_digest == target), None)
    if target in serving:
        candidates = _candidates(rollouts, _beside(latest, experiment), quarantined | {target})
        return Restoration(
            bad=target,
            serves=True,
            candidates=candidates,
            explanation=f"release {target[:12]} serves {serving[target] / 10:g} % of the users",
            is_stranded=not candidates and (latest is None or latest.is_finished),
        )
    if latest is not None and not latest.is_finished:
        if failed_at is not None and not latest.is_undoing and latest.started > failed_at:
            why = f"release {target[:12]} has no users, and its rollout was begun after it had failed"
            return Restoration(bad="", serves=False, candidates=(), explanation=why)
        state = f"the rollout of {target[:12]} is {latest.state}, and no user is given to it"
        return Restoration(bad=target, serves=False, candidates=(), explanation=state)
    if experiment is not None and target in experiment.arms:
        state = f"experiment {experiment.name} is {experiment.stage}, and no user is given to {target[:12]}"
        return Restoration(bad=target, serves=False, candidates=(), explanation=state)
    why = f"release {target[:12]} serves nobody" if target else "the application serves nobody yet"
    return Restoration(bad="", serves=False, candidates=(), explanation=why)


def _arm(experiment: ExperimentRecord | None) -> str:
    if experiment is None:
        return ""
    if len(experiment.treatments) > 1:
        arms = ", ".join(arm[:12] for arm in experiment.treatments)
        stop = f"or end the experiment: delivery experiment stop {experiment.application}"
        raise InputError.of("release", None, f"one of the arms of experiment {experiment.name}: {arms}; {stop}")
    return experiment.treatments[0]


def _beside(latest: Rollout | None, experiment: ExperimentRecord | None) -> list[str]:
    rollout = [latest.stable_digest] if latest is not None and not latest.is_finished else []
    return [*rollout, *([experiment.control] if experiment is not None else [])]


def _candidates(rollouts: Sequence[Rollout], beside: list[str], excluded: AbstractSet[str]) -> tuple[str, ...]:
    """Return who may take the users: the one a candidate stands beside, then the last promoted, then older ones.

    Also one that is being rolled out again: it was proven before, and its users are answered by it already. Not one
    that is being taken back.
    """
    failed = {rollout.release_digest for rollout in rollouts if rollout.is_undoing}
    found = dict.fromkeys([*beside, *promoted_digests(rollouts)])
    return tuple(digest for digest in found if digest and digest not in excluded | failed)
