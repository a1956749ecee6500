"""Decide what a rollback restores: the last proven release that is not in quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout
from tasks.traffic.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a rollback is going to do.

    Attributes:
        bad: Digest of the release to take out of traffic; empty where there is nothing to do.
        candidates: Digests of proven releases to try, the best first.
        explanation: Why, in one line.
    """

    bad: str
    candidates: tuple[str, ...]
    explanation: str


def decide_restoration(
    plan: Plan | None, rollouts: Sequence[Rollout], quarantined: AbstractSet[str], bad: str | None
) -> Restoration:
    """Decide which release goes and which may come back.

    Args:
        plan: The plan in force, None where the application has none.
        rollouts: The application's rollouts, the latest started first.
        quarantined: Digests that failed before.
        bad: The release that failed; None is the one most users get.

    Returns:
        The decision. A release that no longer serves needs no rollback, unless an earlier one of it was cut off
        between the plan and its last step: then that one is finished.
    """
    if plan is None:
        return Restoration(bad="", candidates=(), explanation="the application serves nothing yet")
    serving = plan.counts()
    target = bad or next(iter(serving))
    proven = _proven(rollouts, quarantined | {target})
    if target in serving:
        return Restoration(bad=target, candidates=proven, explanation=f"release {target[:12]} is serving")
    latest = next((rollout for rollout in rollouts if rollout.release_digest == target), None)
    if target in quarantined and latest is not None and latest.state is not State.ROLLED_BACK:
        rest = tuple(digest for digest in serving if digest in proven)
        return Restoration(
            bad=target, candidates=rest, explanation=f"an earlier rollback of {target[:12]} was not finished"
        )
    return Restoration(bad="", candidates=(), explanation=f"release {target[:12]} no longer serves anybody")


def _proven(rollouts: Sequence[Rollout], excluded: AbstractSet[str]) -> tuple[str, ...]:
    promoted = sorted(
        (rollout for rollout in rollouts if rollout.state is State.PROMOTED),
        key=lambda rollout: rollout.changed,
        reverse=True,
    )
    return tuple(dict.fromkeys(r.release_digest for r in promoted if r.release_digest not in excluded))
