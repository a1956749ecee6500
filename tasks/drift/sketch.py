"""What a baseline keeps of its texts: in how many users' texts each of 1,024 hashed terms occurs, in about 1.5 KB.

No text can be read from it. It shows what a domain classifier shows when a term becomes common or rare: a sentence
added to every answer, upper case, a new subject. It is coarser, because many terms share a place; where the
baseline's texts are still in the lake, ``text.py`` is asked instead.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from tasks.drift.effects import Change, Effect, make_effect, make_floor_effect
from tasks.drift.nights import STRICT
from tasks.drift.text import WORDS, Texts, shorten
from tasks.errors import InputError

PLACES: Final = 1024
STEPS: Final = 255
"""Shares are kept in so many steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSketch:
    """The terms of one column of texts.

    Attributes:
        column: The column.
        texts, units: How many texts, and of how many users or sessions.
        shares: Base85 of a byte a place: the share of units whose texts have a term there, in 255ths.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    column: str
    texts: int
    units: int
    shares: str

    @classmethod
    def of(cls, column: str, texts: Texts) -> TextSketch:
        """Sketch the texts of one side; a unit counts once, whatever the number of its texts."""
        from scipy import sparse
        from sklearn.feature_extraction.text import HashingVectorizer

        known = texts.known()
        if not known.texts:
            return cls(column=column, texts=0, units=0, shares=_pack(np.zeros(PLACES)))
        hashing = HashingVectorizer(
            token_pattern=WORDS,
            ngram_range=(1, 2),
            n_features=PLACES,
            lowercase=False,
            binary=True,
            norm=None,
            alternate_sign=False,
        )
        rows = hashing.transform([shorten(text or "") for text in known.texts])
        _, unit = np.unique(np.array(known.units, dtype=object).astype(str), return_inverse=True)
        weight = (1 / np.bincount(unit))[unit]
        average = sparse.csr_matrix((weight, (unit, np.arange(len(unit)))))
        shares = np.asarray((average @ rows).mean(axis=0)).ravel()
        return cls(column=column, texts=len(unit), units=int(unit.max()) + 1, shares=_pack(shares))

    def read(self) -> NDArray[np.float64]:
        """Return the shares, 0 to 1, each within a 500th.

        Raises:
            InputError: They are no sketch's.
        """
        try:
            packed = base64.b85decode(self.shares)
        except ValueError:
            packed = b""
        if len(packed) != PLACES:
            raise InputError.of(f"sketch of {self.column}", f"{len(packed)} bytes", f"{PLACES} bytes in base 85")
        return np.frombuffer(packed, np.uint8) / STEPS

    def merge(self, other: TextSketch) -> TextSketch:
        """Return the sketch of both; no unit may be in both."""
        units = self.units + other.units
        shares = (self.read() * self.units + other.read() * other.units) / max(1, units)
        return TextSketch(column=self.column, texts=self.texts + other.texts, units=units, shares=_pack(shares))


def compare_sketches(current: TextSketch, baseline: TextSketch, *, least: float = 0.1, level: float = 0.01) -> Effect:
    """Return how much the share of units that use the most changed terms has changed.

    Args:
        current: The window.
        baseline: What it is held against.
        least: The smallest change of a share that matters, 0 to 1.
        level: The chance of a failure while nothing is wrong, 0 to 1.
    """
    floor = make_floor_effect(current.column, current.texts, baseline.texts, min(current.units, baseline.units))
    if floor:
        return floor
    new, old = current.read(), baseline.read()
    pooled = (new * current.units + old * baseline.units + 1) / (current.units + baseline.units + 2)
    error = np.sqrt(pooled * (1 - pooled) * (1 / current.units + 1 / baseline.units))
    margin = NormalDist().inv_cdf(1 - level / 2 / PLACES) * error + 1 / STEPS
    difference = np.abs(new - old)
    at = int(np.argmax(difference - margin))
    value = float(difference[at])
    change = Change(value=value, low=max(0.0, value - margin[at]), high=min(1.0, value + float(margin[at])))
    return make_effect(
        current.column,
        "terms",
        change,
        least=least,
        side="high",
        scale="difference",
        n=current.texts,
        n_baseline=baseline.texts,
    )


def merge_sketches(first: Sequence[TextSketch], second: Sequence[TextSketch]) -> tuple[TextSketch, ...]:
    """Return the sketches of both sides, column by column.

    Raises:
        InputError: They are of other columns.
    """
    names, others = [item.column for item in first], [item.column for item in second]
    if names != others:
        raise InputError.of("sketches", ", ".join(others), ", ".join(names))
    return tuple(mine.merge(theirs) for mine, theirs in zip(first, second, strict=True))


def _pack(shares: NDArray[np.float64]) -> str:
    return base64.b85encode(np.rint(shares * STEPS).astype(np.uint8).tobytes()).decode()
