"""Which answers a judge sees: all that went wrong, and of the others some of every kind, each with its weight."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.errors import InputError

Flags = NDArray[np.bool_]
Weights = NDArray[np.float64]
_AT_ONCE: Final = 65_536
"""So many ids are text in Python at a time."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """What kind of answer each is, for example its route and language.

    Attributes:
        names: The kinds.
        numbers: Beside each answer the place of its kind in ``names``.
    """

    names: tuple[Hashable, ...]
    numbers: NDArray[np.int32]

    @classmethod
    def of(cls, kinds: Sequence[Hashable]) -> Self:
        """Return what kind each answer is of."""
        places = {kind: at for at, kind in enumerate(dict.fromkeys(kinds))}
        return cls(tuple(places), np.array([places[kind] for kind in kinds], dtype=np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some of the answers of a window.

    Attributes:
        chosen: Whether each answer is in it.
        kinds: A number for the kind of each; those that are always in it are a kind of their own.
    """

    chosen: Flags
    kinds: NDArray[np.int32]

    def weigh(self, scored: Flags | None = None) -> Weights:
        """Return for how many answers each stands: the inverse of its chance to be scored.

        Args:
            scored: Which of the sample have a score; all of it without that. Where a budget or an endpoint ended,
                those that are scored stand for their kind, as far as what is missing is missing by chance.

        Returns:
            A weight an answer; 0 where it has no score. Kinds without any score stand for nothing.
        """
        seen = self.chosen if scored is None else self.chosen & scored
        mine, weights = self.kinds[seen], np.zeros(len(seen))
        weights[seen] = (self._sizes() / np.maximum(self._sizes(seen), 1))[mine]
        return weights

    def missing(self, scored: Flags) -> float:
        """Return the share of the answers whose kind has no score at all, 0 to 1: the mean does not speak of them."""
        silent = self._sizes(self.chosen & scored) == 0
        return float(self._sizes()[silent].sum()) / len(self.kinds) if len(self.kinds) else 0.0

    def _sizes(self, among: Flags | None = None) -> NDArray[np.int64]:
        most = int(self.kinds.max(initial=-1)) + 1
        return np.bincount(self.kinds if among is None else self.kinds[among], minlength=most)


def draw_sample(ids: pa.StringArray | Sequence[str], kinds: Kinds, always: Flags, size: int, seed: int) -> Sample:
    """Draw a sample.

    Args:
        ids: The answers; which are drawn depends on their ids and the seed alone, not on their order.
        kinds: The kind of each.
        always: Which are in it whatever happens: failed checks, negative feedback.
        size: How many are drawn beside those, at least 1. Kinds get their share, and one at least as far as it goes.
        seed: Another seed draws others.

    Raises:
        InputError: ``size`` is less than 1.
    """
    if size < 1:
        raise InputError.of("sample size", size, "1 or more")
    free = np.flatnonzero(~always)
    sizes = np.bincount(kinds.numbers[free], minlength=len(kinds.names))
    there = {name: int(n) for name, n in zip(kinds.names, sizes, strict=True) if n}
    shares = _share_out(there, size)
    # Each kind's answers stand together, in the order of their draws: the first of each are in the sample.
    free = free[np.lexsort((_draws(seed, ids)[free], kinds.numbers[free]))]
    ends = np.cumsum(sizes)
    chosen = always.copy()
    for name, start in zip(kinds.names, ends - sizes, strict=True):
        chosen[free[start : start + shares.get(name, 0)]] = True
    return Sample(chosen=chosen, kinds=np.where(always, np.int32(len(kinds.names)), kinds.numbers))


def _draws(seed: int, ids: pa.StringArray | Sequence[str]) -> NDArray[np.uint64]:
    """Return a number an answer that decides whether it is drawn: the beginning of its digest."""
    return np.fromiter((int.from_bytes(_draw(seed, name)[:8]) for name in _names(ids)), np.uint64, len(ids))


def _names(ids: pa.StringArray | Sequence[str]) -> Iterator[str]:
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        yield from part.to_pylist() if isinstance(part, pa.Array) else part


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
