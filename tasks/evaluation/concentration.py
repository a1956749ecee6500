"""How much of the calls one user made: where it is much, the numbers of a window are that user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

STICKY_KINDS: Final = ("user", "session")
"""Kinds of ``unit`` that stay with a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concentration:
    """How much of the calls one user made.

    Attributes:
        share: Of the calls whose user is known, 0 to 1.
        n: Calls whose user is known.
        users: How many users they came from.
    """

    share: float
    n: int
    users: int


def measure_concentration(users: pa.ChunkedArray) -> Concentration | None:
    """Return how much of the calls one user made; None where less than half of the calls have a known user."""
    known = users.drop_null()
    if len(known) == 0 or 2 * len(known) < len(users):
        return None
    counts = pc.value_counts(known).field("counts").to_numpy()
    return Concentration(share=float(counts.max()) / len(known), n=len(known), users=len(counts))


def users_of(calls: pa.Table) -> pa.ChunkedArray:
    """Return who made each call, as far as it is known: the user, or the unit that stays with a person."""
    sticky = pc.is_in(calls["unit_kind"], pa.array(STICKY_KINDS))
    unit = pc.if_else(sticky, calls["unit"], pa.scalar(None, pa.string()))
    return pc.coalesce(calls["user_hash"], unit)
