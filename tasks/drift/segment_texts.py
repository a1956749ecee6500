"""The wording of segments: texts of one route, prompt version, model, language or tag beside the baseline's same.

What is read are the samples that the whole was compared by, so this reads nothing anew: of a segment
``TEXT_UNITS`` users or sessions at most on a side, of ``MOST_TEXTS`` segments at most, and labels are permuted only
where a segment seems to have changed. It warns and never decides, with a half of the one alpha of segments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.drift.effects import MIN_UNITS, Effect
from tasks.drift.findings import Drift
from tasks.drift.nights import FEWEST_NIGHTS
from tasks.drift.numeric import GROSS
from tasks.drift.sample import TEXT_COLUMNS, Sample
from tasks.drift.segment_nights import ALPHA
from tasks.drift.segments import DIMENSIONS, TAG, Segment
from tasks.drift.text import TextRule, compare_texts, keep_units
from tasks.drift.wording import LEAST, beside_nights
from tasks.monitors.verdict import Check, Outcome

TEXT_UNITS: Final = 500
"""So many users or sessions of a segment and side are read at most."""
MOST_TEXTS: Final = 12
"""So many segments are looked at, the largest of tonight."""
SALT: Final = "segment"


@dataclass(frozen=True, slots=True)
class _Pair:
    """A segment's samples of both sides."""

    segment: Segment
    new: Sample
    was: Sample


def hold_segment_texts(current: Sample, old: Sample, failed: Collection[str]) -> Drift:
    """Hold the texts of tonight's segments against those of the same segments of a baseline.

    Args:
        current: The window.
        old: The baseline's texts that are left.
        failed: Of ``TEXT_COLUMNS``, those that changed as a whole, which say nothing new of a segment.

    Returns:
        The check ``drift:COLUMN`` of each segment whose wording surely changed (``fail``: a warning) or is not shown to
        have changed by what matters (``pass``), nothing of those that cannot be told; and a remark where the
        baseline's texts are gone.
    """
    if current.rows.num_rows and not old.rows.num_rows:
        return Drift(remarks=("The baseline's texts are gone, so nothing is said about the wording of segments.",))
    pairs, columns = list(_pairs(current, old)), [name for name in TEXT_COLUMNS if name not in failed]
    level = ALPHA / 2 / max(1, len(pairs) * len(TEXT_COLUMNS))
    effects = ((pair, name, _compare(name, pair, level)) for pair in pairs for name in columns)
    return Drift(
        warnings=tuple(
            (pair.segment.name, _check(pair.segment, name, effect))
            for pair, name, effect in effects
            if effect.outcome in {Outcome.FAIL, Outcome.PASS}
        )
    )


def _pairs(current: Sample, old: Sample) -> Iterator[_Pair]:
    """Yield the largest segments that have enough users or sessions on both sides, and not all of them."""
    counted = ((segment, _within(current, segment)) for segment in _segments(current))
    largest = sorted(counted, key=lambda pair: (-pair[1].rows.num_rows, pair[0].name))
    pairs = (_Pair(segment, new, _within(old, segment)) for segment, new in largest)
    enough = (
        pair
        for pair in pairs
        if min(_units(pair.new), _units(pair.was)) >= MIN_UNITS and pair.new.rows.num_rows < current.rows.num_rows
    )
    return islice(enough, MOST_TEXTS)


def _segments(sample: Sample) -> Iterator[Segment]:
    for dimension, column in DIMENSIONS.items():
        values = pc.list_flatten(sample.rows[column]) if dimension == TAG else sample.rows[column].cast(pa.string())
        yield from (Segment(dimension=dimension, value=value) for value in pc.unique(values).drop_null().to_pylist())


def _within(sample: Sample, segment: Segment) -> Sample:
    column = sample.rows[DIMENSIONS[segment.dimension]]
    if segment.dimension == TAG:
        mask = pa.array([segment.value in (tags or ()) for tags in column.to_pylist()], pa.bool_())
    else:
        mask = pc.fill_null(pc.equal(column.cast(pa.string()), segment.value), fill_value=False)
    rows = sample.rows.filter(mask)
    return Sample(rows=rows, calls=rows.num_rows)


def _units(sample: Sample) -> int:
    return len(pc.unique(sample.rows["who"]))


def _compare(column: str, pair: _Pair, level: float) -> Effect:
    nights = pair.was.nights(column)
    knows_nights = sum(len(set(texts.units)) >= MIN_UNITS for texts in nights.values()) >= FEWEST_NIGHTS
    rule = TextRule(least=LEAST if knows_nights else LEAST * GROSS, level=level, permutations=0)
    new, was = (keep_units(side.texts(column), TEXT_UNITS, SALT) for side in (pair.new, pair.was))
    effect = compare_texts(column, new, was, rule).effect
    if effect.outcome is Outcome.FAIL:
        effect = compare_texts(column, new, was, replace(rule, permutations=TextRule().permutations)).effect
    return beside_nights(effect, new, nights, rule) if knows_nights else effect


def _check(segment: Segment, column: str, effect: Effect) -> Check:
    words = effect.statement
    if effect.outcome is Outcome.PASS:
        sizes = f"(n={effect.n} units, baseline n={effect.n_baseline})"
        words = f"{column} not shown to differ in more than {effect.limit:.0%} of its texts {sizes}"
    statement = f"drift of {segment.name}: {words}"
    return replace(effect.as_check(), monitor=f"drift:{column}", statement=statement)
