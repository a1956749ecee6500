"""The traffic plan of an application: 1,000 buckets, each given to one release.

A user falls into the same bucket on every request, so whoever holds the plan knows who gets what, and a ramp
that moves few buckets moves few users. The salt of a plan orders the buckets; each ramp and each experiment has its
own, so that it is not always the same users who meet a new release first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import xxhash

from tasks.errors import ConflictError, InputError

BUCKETS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who gets what, from one moment until the next revision.

    Attributes:
        application: What users call.
        revision: 1 for the first plan of an application, then one more each time.
        salt: Orders the buckets; the same from the revision that begins to share users out to the one that ends it.
        buckets: The digest of the release of each of the 1,000 buckets.
        author: Who changed it: a flow, or a person.
        flow_run_id: The Prefect flow run that wrote it, where one did.
        reason: Why, in one line.
        time: When it was written, UTC.
    """

    application: str
    revision: int
    salt: str
    buckets: tuple[str, ...]
    author: str
    reason: str
    time: datetime
    flow_run_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse a plan with a bucket that nobody serves."""
        if len(self.buckets) != BUCKETS or not all(self.buckets):
            given = sum(1 for digest in self.buckets if digest)
            raise InputError(f"plan of {self.application}: {given} buckets have a release; every plan has {BUCKETS}")

    def counts(self) -> dict[str, int]:
        """Return the number of buckets of each release, the largest first."""
        return dict(Counter(self.buckets).most_common())

    def shares(self) -> dict[str, float]:
        """Return the share of users of each release, 0 to 1, the largest first."""
        return {digest: count / BUCKETS for digest, count in self.counts().items()}

    def release_of(self, unit: str) -> str:
        """Return the digest of the release that answers a unit (a user, a session or a request)."""
        return self.buckets[bucket_of(self.application, unit)]


def bucket_of(application: str, unit: str) -> int:
    """Return the bucket of a unit, 0 to 999: the formula the data path computes too."""
    return xxhash.xxh32_intdigest(f"{application}:{unit}".encode()) % BUCKETS


def overtaken(plan: Plan, newest: int) -> ConflictError:
    """Return the error that says that a data path has a later revision than a plan's."""
    return ConflictError(
        f"revision {newest} of the plan of {plan.application} is in effect, revision {plan.revision} came too late and "
        f"was not applied; if the ledger was brought back from a backup: delivery migrate --revisions-above {newest}"
    )


def reassign(current: tuple[str, ...], wanted: Mapping[str, int], salt: str) -> tuple[str, ...]:
    """Give each release as many buckets as wanted, moving as few as possible.

    Args:
        current: The digest of each bucket now; empty where there is no plan yet.
        wanted: Buckets for each release; they add up to 1,000.
        salt: Orders the buckets that are given away and those that receive them.

    Returns:
        The digest of each bucket: every release keeps its own buckets up to what it is wanted to have, so a share
        that only grows never takes a user back.

    Raises:
        InputError: The wanted buckets do not add up to 1,000.
    """
    total = sum(wanted.values())
    if total != BUCKETS or any(count < 0 for count in wanted.values()):
        raise InputError(f"a plan shares out {BUCKETS} buckets; {dict(wanted)!r} shares out {total}")
    left = dict(wanted)
    result: list[str] = [""] * BUCKETS
    order = sorted(range(BUCKETS), key=lambda bucket: (xxhash.xxh32_intdigest(f"{salt}:{bucket}".encode()), bucket))
    # A release that shrinks gives away the first buckets of the order, one that grows gets them: a ramp that goes
    # up, down and up again meets the same users.
    for bucket in reversed(order):
        owner = current[bucket] if current else ""
        if left.get(owner, 0) > 0:
            result[bucket] = owner
            left[owner] -= 1
    for bucket in order:
        if not result[bucket]:
            result[bucket] = next(digest for digest, count in left.items() if count > 0)
            left[result[bucket]] -= 1
    return tuple(result)
