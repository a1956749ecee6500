"""What a window came to, column by column: counts in bins or by word, and how many independent rows they are worth.

Scans of the same columns merge by adding, as long as no unit is in two of them: split a window by unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from tasks.drift.nights import STRICT
from tasks.errors import InputError
from tasks.evaluation.summary import Categories, Histogram

_NO_NUMBERS: Final = Histogram()
_NO_WORDS: Final = Categories()
_MIDDLE: Final = (0.02, 0.98)
"""Cumulative shares between which the effective number of rows is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumn:
    """The values of one column.

    Attributes:
        name: The column.
        histogram: How many values fell into each bin.
        effective_n: How many independent values would tell as much, at most ``histogram.n``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    histogram: Histogram = _NO_NUMBERS
    effective_n: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryColumn:
    """The words of one column; like ``NumberColumn``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    categories: Categories = _NO_WORDS
    effective_n: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLevel:
    """How one column stands in one segment.

    Attributes:
        dimension, value: The segment, for example ``model`` and its name.
        column: The column of numbers.
        n: Values above 0, at least 1.
        log_sum: The sum of their logarithms.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dimension: str
    value: str
    column: str
    n: int
    log_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a window came to.

    Attributes:
        n: Interactions.
        units: Users or sessions, counted within 2 % or so.
        top_share: Share of the interactions in the largest of the groups of units, 0 to 1.
        numbers, categories: A column each.
        segments: A segment and column each.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    n: int = 0
    units: int = 0
    top_share: float = 0.0
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()
    segments: tuple[SegmentLevel, ...] = ()

    @property
    def schema(self) -> tuple[tuple[str, str], ...]:
        """The columns and their kinds."""
        numbers = tuple((item.name, "number") for item in self.numbers)
        return (*numbers, *((item.name, "category") for item in self.categories))

    def number(self, name: str) -> NumberColumn:
        """Return a column of numbers, an empty one where it was not counted."""
        return next((item for item in self.numbers if item.name == name), NumberColumn(name=name))

    def category(self, name: str) -> CategoryColumn:
        """Return a column of words, an empty one where it was not counted."""
        return next((item for item in self.categories if item.name == name), CategoryColumn(name=name))

    def merge(self, other: Scan) -> Scan:
        """Return the scan of both windows or shards; no unit may be in both, or effective numbers are too high.

        Raises:
            InputError: They have other columns.
        """
        if self.schema != other.schema:
            raise InputError.of("scan columns", other.schema, f"{self.schema}")
        n = self.n + other.n
        return Scan(
            n=n,
            units=self.units + other.units,
            top_share=max(self.top_share * self.n, other.top_share * other.n) / n if n else 0.0,
            numbers=tuple(
                NumberColumn(
                    name=a.name, histogram=a.histogram.merge(b.histogram), effective_n=a.effective_n + b.effective_n
                )
                for a, b in zip(self.numbers, other.numbers, strict=True)
            ),
            categories=tuple(
                CategoryColumn(
                    name=a.name, categories=a.categories.merge(b.categories), effective_n=a.effective_n + b.effective_n
                )
                for a, b in zip(self.categories, other.categories, strict=True)
            ),
            segments=_merged_segments((*self.segments, *other.segments)),
        )


def effective_n(groups: NDArray[np.float64]) -> float:
    """Return how many independent rows would tell as much as these.

    Args:
        groups: Counts, a row a group of units and a column a bin or word, ordered as they are cumulated.

    Returns:
        Above 0 and at most the sum of the counts; 1 where all are in one group.
    """
    sizes, total = groups.sum(axis=1), groups.sum()
    used = groups[sizes > 0]
    if len(used) < 2:  # noqa: PLR2004 - one group has no spread
        return min(1.0, float(total))
    cumulated, sizes = used.cumsum(axis=1), sizes[sizes > 0][:, None]
    share = cumulated.sum(axis=0) / total
    without = (cumulated.sum(axis=0) - cumulated) / (total - sizes)
    variance = (len(used) - 1) / len(used) * ((without - share) ** 2).sum(axis=0)
    middle = (share > _MIDDLE[0]) & (share < _MIDDLE[1])
    if not middle.any():
        return float(total)
    weight = used.sum(axis=0)[middle]
    effect = float(np.average(variance[middle] / (share * (1 - share) / total)[middle], weights=weight))
    return float(total) / max(1.0, effect)


def _merged_segments(levels: Sequence[SegmentLevel]) -> tuple[SegmentLevel, ...]:
    sums: dict[tuple[str, str, str], tuple[int, float]] = {}
    for item in levels:
        key = (item.dimension, item.value, item.column)
        n, log_sum = sums.get(key, (0, 0.0))
        sums[key] = (n + item.n, log_sum + item.log_sum)
    return tuple(
        SegmentLevel(dimension=a, value=b, column=c, n=n, log_sum=total)
        for (a, b, c), (n, total) in sorted(sums.items())
    )
