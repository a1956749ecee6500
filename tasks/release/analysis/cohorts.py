"""Who is compared with whom: each step of a ramp moves some buckets, and others that stay are kept to compare with.

A ramp moves users who have used stable before, so a user may be seen with both releases, and those seen late in a
ramp use the application less than those seen early. Comparing all of one release's users with all of the other's
would count people twice and heavy users against light ones. So a step forms a cohort: the buckets it moves, and as
fair a share of those that stay to the end, reserved for this step alone. Both kinds were stable's users before, both
enter at their first call after the step, buckets are drawn by hash, and no bucket is in two cohorts: under the null
the two arms of a cohort are exchangeable, and each user enters once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from tasks.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The buckets whose users are compared from one step of a ramp on.

    Attributes:
        start: The moment from which the step's plan was in effect, UTC.
        candidate_buckets: Those the step moved to the candidate.
        stable_buckets: Those reserved to compare them with.
    """

    start: datetime
    candidate_buckets: frozenset[int]
    stable_buckets: frozenset[int]

    @property
    def share(self) -> float:
        """The share of the cohort's users who meet the candidate."""
        moved = len(self.candidate_buckets)
        return moved / (moved + len(self.stable_buckets))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """Who is compared.

    Attributes:
        application: What users call.
        candidate, stable: Digests of the releases.
        cohorts: One a step that has begun, in their order; one at least.
        planned_steps: How many steps below 100 % there are in all: each may break a fixed limit by chance.
        salt: Orders the users within a block; the same through the ramp: the id of the rollout.
    """

    application: str
    candidate: str
    stable: str
    cohorts: tuple[Cohort, ...]
    planned_steps: int
    salt: str

    def __post_init__(self) -> None:
        """Refuse a ramp that has not begun, or has more steps than are planned."""
        if not 1 <= len(self.cohorts) <= self.planned_steps:
            raise InputError.of("steps that have begun", len(self.cohorts), f"1 to {self.planned_steps}, those planned")


def form_cohorts(
    plans: Sequence[Sequence[str]], starts: Sequence[datetime], *, candidate: str, stable: str
) -> tuple[Cohort, ...]:
    """Form the cohorts of the steps that have begun.

    Args:
        plans: The release of each bucket before the ramp and at each of its steps below 100 %, also those still to
            come: what the last of them leaves to stable is what can be compared with.
        starts: When each step that has begun was in effect, in the order of the steps.
        candidate: The digest of the release that ramps.
        stable: The digest of the one that gives way.

    Returns:
        One cohort a step that has begun; the same for the same plans, however many steps have begun.

    Raises:
        InputError: No bucket stays with stable, a step takes a bucket back, or more steps began than are planned.
    """
    if len(starts) > len(plans) - 1:
        raise InputError.of("steps that have begun", len(starts), f"at most {len(plans) - 1}, those of the ramp")
    moved = [_moved(before, after, candidate) for before, after in pairwise(plans)]
    kept = [at for at, digest in enumerate(plans[-1]) if digest == stable]
    if len(kept) < len(plans) - 1 or not all(moved):
        text = "a bucket moved in every step, and one left to stable for each of them"
        raise InputError.of("buckets moved and left", ([len(step) for step in moved], len(kept)), text)
    return tuple(
        Cohort(start=start, candidate_buckets=step, stable_buckets=frozenset(kept[begin:end]))
        for start, step, (begin, end) in zip(starts, moved, pairwise(_shared_out(moved, len(kept))), strict=False)
    )


def _shared_out(moved: Sequence[frozenset[int]], kept: int) -> list[int]:
    """Return where each step's share of the kept buckets ends, a 0 first: in proportion to what the steps move."""
    ends, total = [0], sum(len(step) for step in moved)
    for at in range(len(moved)):
        fair = round(kept * sum(map(len, moved[: at + 1])) / total)
        # At least one bucket a step, and one left for each of those to come.
        ends.append(min(max(fair, ends[-1] + 1), kept - (len(moved) - at - 1)))
    return ends


def _moved(before: Sequence[str], after: Sequence[str], candidate: str) -> frozenset[int]:
    if len(before) != len(after) or any(b == candidate != a for b, a in zip(before, after, strict=True)):
        raise InputError.of("plan", "a step that takes buckets back", "shares of the candidate that only grow")
    return frozenset(at for at, digest in enumerate(after) if digest == candidate != before[at])
