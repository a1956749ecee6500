"""Which releases may answer in place of one that is away."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout


def promoted_digests(rollouts: Sequence[Rollout]) -> tuple[str, ...]:
    """Return the releases that were promoted and are not being rolled out or taken back now, the last one first.

    Args:
        rollouts: Of one application, in any order.
    """
    promoted = sorted(
        (rollout for rollout in rollouts if rollout.state is State.PROMOTED),
        key=lambda rollout: rollout.changed,
        reverse=True,
    )
    in_doubt = {rollout.release_digest for rollout in rollouts if not rollout.is_finished}
    found = dict.fromkeys(rollout.release_digest for rollout in promoted)
    return tuple(digest for digest in found if digest not in in_doubt)


def proven_digests(rollouts: Sequence[Rollout], quarantined: AbstractSet[str]) -> tuple[str, ...]:
    """Return the releases that may answer in place of another one, the best first.

    A candidate is none of them, however well its ramp goes; neither is a release that failed.

    Args:
        rollouts: Of one application, in any order.
        quarantined: Digests of releases that failed.
    """
    return tuple(digest for digest in promoted_digests(rollouts) if digest not in quarantined)
