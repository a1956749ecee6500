"""From calls to pairs: users enter once, and those of the same time are compared with each other.

A user's calls are not independent, so a user is one observation: the mean over the calls of the tick (a minute, say)
in which they first call after their cohort's step. Their later calls count in no e-process. Ticks are merged into
blocks until both arms of the cohort have somebody, so whatever happens to everybody at a time happens to both sides.
Within a block the smaller arm makes the groups, and the users of the larger one are dealt out to them: the
difference of the two means of a group is between -1 and 1, zero on average where the releases are alike, and no user
is thrown away at any share of traffic. The order of dealing is a salted hash, so it knows nothing of names or values.

A tick is used when it is over and calls that began in it have had time to be logged: a slow call is logged late, and
to judge by those that are back already would favour the slow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.release.analysis.cohorts import NOBODY, Ramp, place

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]

_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How time is cut, and how far the log is trusted.

    Attributes:
        now: The moment of the look, UTC.
        tick_s: Length of a tick, seconds, above 0; the same through a ramp.
        settle_s: How long after its end a tick may still get calls, seconds: the time-out of a call at least.
    """

    now: datetime
    tick_s: float = 60.0
    settle_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse ticks without length and a log that is trusted before it is written."""
        if not self.tick_s > 0 or not self.settle_s >= 0:
            raise InputError.of("tick_s, settle_s", (self.tick_s, self.settle_s), "above 0, and 0 or more")

    @property
    def open_tick(self) -> int:
        """The first tick that may still get calls."""
        return int((self.now.timestamp() - self.settle_s) // self.tick_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entries:
    """The calls by which users enter, and the users.

    Attributes:
        calls: Those of each user's first tick.
        user_of_call: Which user made each of them.
        cohort, tick, is_candidate: Of each user, in the order of the salted hash.
    """

    calls: pa.Table
    user_of_call: Indices
    cohort: Indices
    tick: Indices
    is_candidate: Flags

    def observe(self, badness: Numbers) -> Numbers:
        """Return the mean badness of each user, NaN where none of their calls has one."""
        known = ~np.isnan(badness)
        users, n = self.user_of_call[known], len(self.cohort)
        counts = np.bincount(users, minlength=n)
        sums = np.bincount(users, weights=badness[known], minlength=n)
        return np.asarray(np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Candidate against stable, a difference for each group.

    Attributes:
        differences: Badness of the candidate less that of stable, -1 to 1, in the order of the blocks.
        block_ends: How many differences there are by the end of each block.
        candidate, stable: Mean badness of the users in them; NaN without any.
        n_candidate, n_stable: Users in them.
    """

    differences: Numbers
    block_ends: Indices
    candidate: float
    stable: float
    n_candidate: int
    n_stable: int


def enter(calls: pa.Table, ramp: Ramp, clock: Clock) -> Entries:
    """Return who entered by now.

    Args:
        calls: The interaction log since the first step, with ``unit``, ``bucket``, ``time_utc``,
            ``release_digest`` and the columns of the metrics. A call without unit or bucket belongs to nobody,
            and one that another release answered than the plan says is left out.
        ramp: Who is compared.
        clock: The look.
    """
    calls = calls.filter(pc.and_(pc.is_valid(calls["unit"]), pc.is_valid(calls["bucket"])))
    time_us = np.asarray(calls["time_utc"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy())
    cohort, wants_candidate = place(ramp.cohorts, np.asarray(calls["bucket"].to_numpy()))
    eligible = _as_planned(calls["release_digest"], time_us, ramp, cohort, wants_candidate)
    tick = time_us // round(clock.tick_s * _US)
    kept = calls.filter(pa.array(eligible))
    user = _users(kept["unit"], ramp.salt)
    first = np.full(int(user.max(initial=NOBODY)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, user, tick[eligible])
    entering = (tick[eligible] == first[user]) & (tick[eligible] < clock.open_tick)
    # Those who have not entered leave a gap in the numbers; numbering anew keeps the order.
    entered, call, user_of_call = np.unique(user[entering], return_index=True, return_inverse=True)
    return Entries(
        calls=kept.filter(pa.array(entering)),
        user_of_call=user_of_call.astype(np.int64),
        cohort=cohort[eligible][entering][call],
        tick=first[entered],
        is_candidate=wants_candidate[eligible][entering][call],
    )


def pair(entries: Entries, observed: Numbers) -> Pairs:
    """Compare users of the same cohort and time.

    Args:
        entries: Who entered.
        observed: The badness of each of them, 0 to 1; NaN is left out.
    """
    known = ~np.isnan(observed)
    values, arm = observed[known], entries.is_candidate[known]
    block = _blocks(entries.cohort[known], entries.tick[known], arm)
    used = block != NOBODY
    values, arm, block = values[used], arm[used], block[used]
    n_blocks = int(block.max()) + 1 if len(block) else 0
    sizes = np.stack([np.bincount(block[arm == side], minlength=n_blocks) for side in (False, True)])
    groups = sizes.min(axis=0)
    ends = np.cumsum(groups)
    total = int(ends[-1]) if n_blocks else 0
    means = []
    for side in (True, False):
        at, value = block[arm == side], values[arm == side]
        group = ends[at] - groups[at] + _rank_within(at) % groups[at]
        means.append(np.bincount(group, weights=value, minlength=total) / np.bincount(group, minlength=total))
    return Pairs(
        differences=means[0] - means[1],
        block_ends=ends,
        candidate=float(values[arm].mean()) if total else np.nan,
        stable=float(values[~arm].mean()) if total else np.nan,
        n_candidate=int(arm.sum()),
        n_stable=int((~arm).sum()),
    )


def _blocks(cohort: Indices, tick: Indices, is_candidate: Flags) -> Indices:
    """Return the block of each user, numbered by the time they end; ``NOBODY`` where one arm is still empty."""
    keys, at = np.unique(np.stack([cohort, tick], axis=1), axis=0, return_inverse=True)
    at = at.reshape(-1)
    arms = np.stack([np.bincount(at[is_candidate == side], minlength=len(keys)) for side in (False, True)])
    block_of_key = np.full(len(keys), NOBODY, dtype=np.int64)
    closing: list[tuple[int, int, int]] = []
    begin, seen = 0, np.zeros(2, dtype=np.int64)
    for key in range(len(keys)):
        if key and keys[key, 0] != keys[key - 1, 0]:
            begin, seen = key, np.zeros(2, dtype=np.int64)
        seen = seen + arms[:, key]
        if seen.all():
            closing.append((int(keys[key, 1]), begin, key + 1))
            begin, seen = key + 1, np.zeros(2, dtype=np.int64)
    for number, (_, start, stop) in enumerate(sorted(closing)):
        block_of_key[start:stop] = number
    return block_of_key[at] if len(keys) else np.empty(0, dtype=np.int64)


def _rank_within(block: Indices) -> Indices:
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], block[order], side="left")
    ranks = np.empty(len(block), dtype=np.int64)
    ranks[order] = np.arange(len(block)) - starts
    return ranks


def _as_planned(
    digests: pa.ChunkedArray, time_us: Indices, ramp: Ramp, cohort: Indices, wants_candidate: Flags
) -> Flags:
    """Return which calls came after their cohort's step and were answered by the release of the plan."""
    by_candidate, by_stable = (_equal(digests, digest) for digest in (ramp.candidate, ramp.stable))
    eligible: Flags = np.where(wants_candidate, by_candidate, by_stable) & (cohort != NOBODY)
    starts_us = np.array([round(item.start.timestamp() * _US) for item in ramp.cohorts], dtype=np.int64)
    eligible[eligible] &= time_us[eligible] >= starts_us[cohort[eligible]]
    return eligible


def _equal(column: pa.ChunkedArray, value: str) -> Flags:
    return np.asarray(pc.fill_null(pc.equal(column, value), fill_value=False).to_numpy(), dtype=np.bool_)


def _users(units: pa.ChunkedArray, salt: str) -> Indices:
    """Return the number of each call's user, in the order of a salted hash of their names."""
    encoded = units.combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digests = [hashlib.blake2b(name.encode(), key=key, digest_size=8).digest() for name in names]
    order = sorted(range(len(names)), key=lambda at: (digests[at], names[at]))
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    return ranks[np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)]
