"""Which releases may answer in place of one that is away."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout


def promoted_digests(rollouts: Sequence[Rollout]) -> tuple[str, ...]:
    """Return the releases that were promoted, the last one first, each once.

    Args:
        rollouts: Of one application, in any order.
    """
    promoted = sorted(
        (rollout for rollout in rollouts if rollout.state is State.PROMOTED),
        key=lambda rollout: rollout.changed,
        reverse=True,
    )
    return tuple(dict.fromkeys(rollout.release_digest for rollout in promoted))


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
