"""Which releases may answer in place of one that is away."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout


def promoted_digests(rollouts: Sequence[Rollout]) -> tuple[str, ...]:
    """Return the releases whose last rollout to users promoted them, the last one first.

    One that was promoted long ago and failed when it was tried again is proven no more; one that was rejected then had
    no users who could have shown anything.

    Args:
        rollouts: Of one application, in any order.
    """
    latest: dict[str, Rollout] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.started, reverse=True):
        if rollout.is_finished and rollout.state is not State.REJECTED:
            latest.setdefault(rollout.release_digest, rollout)
    return tuple(digest for digest, rollout in latest.items() if rollout.state is State.PROMOTED)


def proven_digests(rollouts: Sequence[Rollout], quarantined: AbstractSet[str]) -> tuple[str, ...]:
    """Return the releases that may answer in place of another one, the best first.

    A candidate is none of them, however well its ramp goes; neither is a release that failed, nor one that is being
    rolled out again or taken back.

    Args:
        rollouts: Of one application, in any order.
        quarantined: Digests of releases that failed.
    """
    in_doubt = {rollout.release_digest for rollout in rollouts if not rollout.is_finished}
    return tuple(digest for digest in promoted_digests(rollouts) if digest not in in_doubt | quarantined)
