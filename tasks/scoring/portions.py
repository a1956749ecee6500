"""How much of a window's sample comes from each of its slices, and which answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Portion:
    """What a slice of a window is of a release: a sample is shared out among slices by how much each holds.

    Attributes:
        of: Answered calls of the release in the whole window; None: the slice is all there is.
        seed: What tells the slice from others. It decides which way a part of an answer is rounded, so that small
            slices are neither favoured nor passed over.
    """

    of: int | None = None
    seed: str = ""

    def share_out(self, sample: int | None, n: int) -> int | None:
        """Return how many of a slice's answers belong into the window's sample; None is all of them.

        Args:
            sample: Answers of the whole window; None is all of them.
            n: Answers of the slice.
        """
        if sample is None or self.of is None or n >= self.of:
            return sample
        chance = int.from_bytes(hashlib.sha256(self.seed.encode()).digest()[:4]) / 2**32
        return math.floor(sample * n / self.of + chance)


WHOLE: Final = Portion()


def draw_ids(ids: Sequence[str], size: int | None) -> NDArray[np.bool_]:
    """Return which ids are drawn, about ``size`` of them; it depends on the ids alone. None is all of them."""
    if size is None or size >= len(ids):
        return np.ones(len(ids), dtype=np.bool_)
    if size == 0:
        return np.zeros(len(ids), dtype=np.bool_)
    digests = [hashlib.sha256(name.encode(errors="surrogatepass")).digest() for name in ids]
    last = sorted(digests)[size - 1]
    return np.array([digest <= last for digest in digests], dtype=np.bool_)
