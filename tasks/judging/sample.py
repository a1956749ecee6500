"""Which answers a judge sees: all that went wrong, and of the others some of every kind, each with its weight."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError

ALWAYS: Final = "always"
"""The stratum of what is always in the sample."""
Flags = NDArray[np.bool_]
Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some of the answers of a window.

    Attributes:
        chosen: Whether each answer is in it.
        strata: What kind of answer each is; ``ALWAYS`` are those that are always in it.
    """

    chosen: Flags
    strata: tuple[Hashable, ...]

    def weigh(self, scored: Flags | None = None) -> Weights:
        """Return for how many answers each stands: the inverse of its chance to be scored.

        Args:
            scored: Which of the sample have a score; all of it without that. Where a budget or an endpoint ended,
                those that are scored stand for their kind, as far as what is missing is missing by chance.

        Returns:
            A weight an answer; 0 where it has no score. Kinds without any score stand for nothing.
        """
        seen = self.chosen if scored is None else self.chosen & scored
        counts: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
        for stratum, is_seen in zip(self.strata, seen.tolist(), strict=True):
            counts[stratum][0] += 1
            counts[stratum][1] += is_seen
        weights = [
            counts[stratum][0] / counts[stratum][1] if is_seen else 0.0
            for stratum, is_seen in zip(self.strata, seen.tolist(), strict=True)
        ]
        return np.array(weights, dtype=np.float64)

    def missing(self, scored: Flags) -> float:
        """Return the share of the answers whose kind has no score at all, 0 to 1: the mean does not speak of them."""
        known = {
            stratum for stratum, is_seen in zip(self.strata, (self.chosen & scored).tolist(), strict=True) if is_seen
        }
        return sum(stratum not in known for stratum in self.strata) / len(self.strata) if self.strata else 0.0


def draw_sample(ids: Sequence[str], strata: Sequence[Hashable], always: Flags, size: int, seed: int) -> Sample:
    """Draw a sample.

    Args:
        ids: The answers; which are drawn depends on their ids and the seed alone, not on their order.
        strata: The kind of each, for example its route and language.
        always: Which are in it whatever happens: failed checks, negative feedback.
        size: How many are drawn beside those, at least 1. Kinds get their share, and one at least as far as it goes.
        seed: Another seed draws others.

    Raises:
        InputError: ``size`` is less than 1.
    """
    if size < 1:
        raise InputError.of("sample size", size, "1 or more")
    kinds = tuple(ALWAYS if fixed else stratum for stratum, fixed in zip(strata, always.tolist(), strict=True))
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for at, kind in enumerate(kinds):
        groups[kind].append(at)
    fixed = groups.pop(ALWAYS, [])
    chosen = np.zeros(len(ids), dtype=np.bool_)
    chosen[fixed] = True
    shares = _share_out({kind: len(members) for kind, members in groups.items()}, size)
    for kind, members in groups.items():
        members.sort(key=lambda at: _draw(seed, ids[at]))
        chosen[members[: shares[kind]]] = True
    return Sample(chosen=chosen, strata=kinds)


def order_sample(ids: Sequence[str], sample: Sample, seed: int) -> list[int]:
    """Return the places of the sample in an order drawn at random, so that a budget that ends leaves out any."""
    return sorted(np.flatnonzero(sample.chosen).tolist(), key=lambda at: _draw(seed + 1, ids[at]))


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _share_out(sizes: Mapping[Hashable, int], size: int) -> dict[Hashable, int]:
    """Return how many of each kind are drawn: in proportion, the largest remainders rounded up, one at least."""
    total = sum(sizes.values())
    if size >= total:
        return dict(sizes)
    order = sorted(sizes, key=lambda kind: (-sizes[kind], str(kind)))
    first = {kind: int(at < size) for at, kind in enumerate(order)}
    rest = size - sum(first.values())
    wanted = {kind: rest * (sizes[kind] - first[kind]) / max(total - sum(first.values()), 1) for kind in order}
    found = {kind: first[kind] + int(wanted[kind]) for kind in order}
    for kind in sorted(order, key=lambda kind: (int(wanted[kind]) - wanted[kind], str(kind))):
        if sum(found.values()) < size and found[kind] < sizes[kind]:
            found[kind] += 1
    return found
