"""Who is compared with whom: each step of a ramp moves some buckets, and others that stay are kept to compare with.

A ramp moves users who have used stable before, so a user may be seen with both releases, and those seen late in a
ramp use the application less than those seen early. Comparing all of one release's users with all of the other's
would count people twice and heavy users against light ones. So a step forms a cohort: the buckets it moves, and as
fair a share of those that stay to the end, reserved for this step alone. Both kinds were stable's users before, both
enter at their first call after the step, buckets are drawn by hash, and no bucket is in two cohorts: under the null
the two arms of a cohort are exchangeable, and each user enters once.

Who is meant decides, not who answered: where the servers of a release are gone, a standby answers its users. Such a
call is a failed one of the release that was meant, and nothing of it is the standby's: to leave it out would look like
users that are shared out wrong, and to count it for the standby would compare a release with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.traffic.plan import BUCKETS

NOBODY: Final = -1
"""The cohort of a bucket that is in none."""
STOOD_IN: Final = "answered_by_standby"
"""The kind of error of a call that another release answered than the plan says."""

_US: Final = 1_000_000
_UNAVAILABLE: Final = 503


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


def place(cohorts: Sequence[Cohort], bucket: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the cohort of each call's bucket, ``NOBODY`` where it is in none, and whether its users are moved."""
    cohort_of, is_candidate = np.full(BUCKETS, NOBODY, dtype=np.int64), np.zeros(BUCKETS, dtype=np.bool_)
    for at, cohort in enumerate(cohorts):
        cohort_of[list(cohort.candidate_buckets | cohort.stable_buckets)] = at
        is_candidate[list(cohort.candidate_buckets)] = True
    return cohort_of[bucket], is_candidate[bucket]


def as_meant(calls: pa.Table, ramp: Ramp) -> pa.Table:
    """Return the calls with those that a standby answered as failed ones of the release that was meant.

    Args:
        calls: The application's interaction log since the first step, without calls that an older plan routed:
            ``bucket``, ``time_utc``, ``release_digest``, ``status`` and ``error_type`` at least.
        ramp: Who is compared. Only calls of its cohorts since their steps began are meant for anybody here; the
            others are returned as they are.
    """
    bucket = calls["bucket"]
    cohort, is_moved = place(ramp.cohorts, pc.fill_null(bucket, 0).to_numpy())
    starts_us = np.array([round(one.start.timestamp() * _US) for one in ramp.cohorts], dtype=np.int64)
    time_us = calls["time_utc"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    begun = pc.is_valid(bucket).to_numpy() & (cohort != NOBODY) & (time_us >= starts_us[cohort])
    meant = pc.if_else(pa.array(begun), pc.if_else(pa.array(is_moved), ramp.candidate, ramp.stable), None)
    return count_as_meant(calls, meant)


def count_as_planned(calls: pa.Table, buckets: Sequence[str]) -> pa.Table:
    """Return the calls with those that a standby answered as failed ones of the release that the plan gives them to.

    Args:
        calls: With ``bucket``, and as ``count_as_meant`` wants them.
        buckets: The digest of the release of each bucket; its plan routed every call.
    """
    bucket = calls["bucket"]
    given = np.asarray(buckets, dtype=np.str_)[pc.fill_null(bucket, 0).to_numpy()]
    return count_as_meant(calls, pc.if_else(pc.is_valid(bucket), pa.array(given, pa.string()), None))


def count_as_meant(calls: pa.Table, meant: pa.Array) -> pa.Table:
    """Return the calls with those that another release answered than was meant as failed ones of the one that was.

    Args:
        calls: With ``release_digest``, ``status`` and ``error_type``, perhaps ``cost_pusd``: the release that was
            meant spent nothing on such a call. One without a release stays as it is.
        meant: The digest of the release that each call was meant for; NULL where that is not known.
    """
    stood_in = pc.fill_null(pc.not_equal(calls["release_digest"], meant), fill_value=False)
    failed = (("release_digest", meant), ("status", _UNAVAILABLE), ("error_type", STOOD_IN), ("cost_pusd", 0))
    for name, value in failed:
        if name not in calls.column_names:
            continue  # cost is not always compared
        column = calls.schema.field(name)
        changed = pc.if_else(stood_in, value, calls[name]).cast(column.type)
        calls = calls.set_column(calls.schema.get_field_index(name), column, changed)
    return calls
