"""What moved: terms, example interactions, and how much of a change each route, model or segment explains.

No text of a user is repeated. A term is shown only if the texts of at least ``FEWEST_UNITS`` users or sessions have
it, and only without a digit and up to ``LONGEST_TERM`` letters, because numbers, keys and ids are nobody's wording;
examples are ids, to be looked up by who may read them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import regex
from numpy.typing import NDArray

from tasks.drift.columns import Scan
from tasks.drift.text import WORDS, Texts, shorten
from tasks.errors import InputError

FEWEST_UNITS: Final = 5
LONGEST_TERM: Final = 40
CLEAR: Final = 4.0
"""A term that changed by fewer standard errors may have changed by chance, as there are many terms."""
MIN_EXPLAINED: Final = 0.2
"""A segment that accounts for less of a change is not told."""
TOP_SHARE: Final = 0.1
"""The share of the texts that look most like the window's and least like the baseline's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A word, or two in a row, that became more or less common.

    Attributes:
        term: As it was written.
        units, units_baseline: Users or sessions whose texts have it.
        share, share_baseline: The same as shares, 0 to 1.
    """

    term: str
    units: int
    units_baseline: int
    share: float
    share_baseline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one segment adds to the change of a mean.

    Attributes:
        dimension, value: The segment.
        share, share_baseline: Its share of the values, 0 to 1.
        within: What its own change adds: a logarithm of a ratio.
        mix: What the change of its share adds, likewise.
        explained: Both, as a share of the whole change; negative where it works against it.
    """

    dimension: str
    value: str
    share: float
    share_baseline: float
    within: float
    mix: float
    explained: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaning:
    """How often a segment is among the texts that look newest.

    Attributes:
        value: The segment.
        share: Its share of all texts of the window, 0 to 1.
        share_newest: Its share of those that look newest, 0 to 1.
    """

    value: str
    share: float
    share_newest: float


def find_terms(current: Texts, baseline: Texts, most: int = 10) -> tuple[Term, ...]:
    """Find the terms whose share of users or sessions changed most, in units of chance.

    Args:
        current: The window's texts.
        baseline: The baseline's.
        most: At most this many.

    Returns:
        Terms of at least ``FEWEST_UNITS`` units on the side where they are common, the clearest change first, the
        longer one where two are as clear.
    """
    new, n = _count_units(current)
    old, n_old = _count_units(baseline)
    if not n or not n_old:
        return ()
    found = []
    for term in {*new, *old}:
        units, before = new[term], old[term]
        if len(term) > LONGEST_TERM or any(letter.isdigit() for letter in term):
            continue
        if (units if units * n_old >= before * n else before) < FEWEST_UNITS:
            continue
        found.append(
            Term(term=term, units=units, units_baseline=before, share=units / n, share_baseline=before / n_old)
        )
    found = [item for item in found if _clearness(item, n, n_old) >= CLEAR]
    found.sort(key=lambda item: (-_clearness(item, n, n_old), -len(item.term), item.term))
    return tuple(found[:most])


def find_examples(scores: NDArray[np.float64], current: Texts, most: int = 5) -> tuple[str, ...]:
    """Return the ids of the interactions that look newest, one a user or session.

    Args:
        scores: What ``compare_texts`` gave for the texts of the window that are there.
        current: The window's texts.
        most: At most this many.
    """
    known = current.known()
    found: dict[str, str] = {}
    for at in np.argsort(-scores, kind="stable")[: len(known.ids)]:
        found.setdefault(known.units[at], known.ids[at])
        if len(found) == most:
            break
    return tuple(found.values())


def lean_of_segments(scores: NDArray[np.float64], values: Sequence[str | None]) -> tuple[Leaning, ...]:
    """Return how much each segment is over-represented among the texts that look newest, the most first.

    Args:
        scores: A score a text of the window.
        values: The segment of each; None is unknown and left out.
    """
    newest = set(np.argsort(-scores, kind="stable")[: max(1, round(TOP_SHARE * len(scores)))].tolist())
    total = Counter(value for value in values if value is not None)
    top = Counter(value for at, value in enumerate(values) if value is not None and at in newest)
    n, n_top = max(1, total.total()), max(1, top.total())
    found = (Leaning(value=value, share=count / n, share_newest=top[value] / n_top) for value, count in total.items())
    return tuple(sorted(found, key=lambda item: (item.share - item.share_newest, item.value)))


def explain_change(current: Scan, baseline: Scan, column: str, dimension: str) -> tuple[Part, ...]:
    """Share out the change of a column's mean among the segments of one dimension.

    Args:
        current: The window.
        baseline: What it is held against.
        column: A column of numbers; the mean is that of the logarithms of what is above 0.
        dimension: A segment of the scans, for example ``model``.

    Returns:
        The parts, which add up to the whole change, the largest first.

    Raises:
        InputError: The scans know no such dimension.
    """
    new, old = _levels(current, column, dimension), _levels(baseline, column, dimension)
    if not new or not old:
        known = sorted({item.dimension for scan in (current, baseline) for item in scan.segments})
        raise InputError.of("dimension", dimension, ", ".join(known) or "none: the scans have no segments")
    n, n_old = (sum(count for count, _ in side.values()) for side in (new, old))
    means = [sum(total for _, total in side.values()) / size for side, size in ((new, n), (old, n_old))]
    change, centre = means[0] - means[1], (means[0] + means[1]) / 2
    parts = []
    for value in sorted({*new, *old}):
        count, total = new.get(value, (0, 0.0))
        before, total_before = old.get(value, (0, 0.0))
        mean = total / count if count else total_before / before
        mean_before = total_before / before if before else mean
        share, was = count / n, before / n_old
        within = (share + was) / 2 * (mean - mean_before)
        mix = (share - was) * ((mean + mean_before) / 2 - centre)
        explained = (within + mix) / change if change else 0.0
        parts.append(
            Part(
                dimension=dimension,
                value=value,
                share=share,
                share_baseline=was,
                within=within,
                mix=mix,
                explained=explained,
            )
        )
    return tuple(sorted(parts, key=lambda item: (-abs(item.within + item.mix), item.value)))


def explain_columns(current: Scan, baseline: Scan, columns: Iterable[str], dimensions: Sequence[str]) -> Iterator[str]:
    """Yield which segments account for the change of each column: the first of each dimension that both sides know."""
    for column in columns:
        for dimension in dimensions:
            try:
                first = explain_change(current, baseline, column, dimension)[0]
            except InputError:
                continue
            if first.share < 1 and abs(first.explained) > MIN_EXPLAINED:
                share = f"{first.share_baseline:.0%} to {first.share:.0%} of the calls"
                yield f"{column}: {dimension}={first.value} ({share}) accounts for {first.explained:.0%} of the change"


def _levels(scan: Scan, column: str, dimension: str) -> dict[str, tuple[int, float]]:
    return {
        item.value: (item.n, item.log_sum)
        for item in scan.segments
        if (item.column, item.dimension) == (column, dimension)
    }


def _count_units(side: Texts) -> tuple[Counter[str], int]:
    terms: defaultdict[str, set[str]] = defaultdict(set)
    known = side.known()
    for text, unit in zip(known.texts, known.units, strict=True):
        words = regex.findall(WORDS, shorten(text or ""))
        terms[unit].update(words, (f"{one} {two}" for one, two in pairwise(words)))
    return Counter(term for found in terms.values() for term in found), len(terms)


def _clearness(term: Term, n: int, n_old: int) -> float:
    pooled = (term.units + term.units_baseline + 1) / (n + n_old + 2)
    return abs(term.share - term.share_baseline) / float(np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_old)))
