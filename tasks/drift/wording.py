"""Tonight's questions and answers held against a baseline's, as checks, with what moved.

The baseline's texts are asked where they are still in the lake, its sketches where they are not. Where its texts are
of ``FEWEST_NIGHTS`` nights or more, a change has to be beyond what each of those is to the others as well: subjects
change from night to night. Where they are of fewer, it has to be ``GROSS`` times the smallest that matters.

Answers of another release differ because that is what a release is for. Held against an unnamed baseline of another
release they are told and do not decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from statistics import fmean, stdev
from typing import Final

from tasks.drift.baseline import SAMPLED_UNITS
from tasks.drift.effects import MIN_UNITS, Effect
from tasks.drift.findings import Drift, Moved
from tasks.drift.moved import Leaning, find_examples, find_terms, lean_of_segments
from tasks.drift.nights import FEWEST_NIGHTS
from tasks.drift.numeric import GROSS
from tasks.drift.sample import SEGMENTS, TEXT_COLUMNS, Sample
from tasks.drift.sketch import TextSketch, compare_sketches
from tasks.drift.text import TextRule, Texts, TextShift, compare_features, compare_texts, featurise, keep_units
from tasks.monitors.verdict import Outcome

LEAST: Final = 0.05
"""The smallest share of changed texts that matters."""
LEAST_SKETCHED: Final = 0.2
"""The smallest change of a term's share that matters; how subjects change from night to night no sketch shows."""
FEWEST_LEFT: Final = 0.5
"""With a smaller share of its sample left in the lake, a baseline's sketch is asked."""
ANSWERS: Final = "answer"
LEANS: Final = 1.5
MAX_LEANINGS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """What the texts of a window are held against.

    Attributes:
        sample: Its texts that are left.
        sketches: Of all its texts, a column each.
        is_named: Whether somebody gave it its name: then too little on a side is a check, else a remark.
        decides: Whether its answers are to be the same: those of the same release, or of a named baseline.
    """

    sample: Sample
    sketches: tuple[TextSketch, ...] = ()
    is_named: bool = False
    decides: bool = True


def hold_texts(current: Sample, old: Old, level: float) -> Drift:
    """Hold the texts of a window against those of a baseline.

    Args:
        current: The window.
        old: What it is held against.
        level: The chance that anything fails while nothing is wrong, 0 to 1.

    Returns:
        A check ``drift:COLUMN`` for each column that was compared and decides, and a remark for every other.
    """
    found = Drift()
    for column in TEXT_COLUMNS:
        found = found.join(_hold_column(column, current, old, level / len(TEXT_COLUMNS)))
    return found


def sketch_texts(sample: Sample) -> tuple[TextSketch, ...]:
    """Return the sketches that a baseline keeps of its texts."""
    return tuple(TextSketch.of(column, sample.texts(column)) for column in TEXT_COLUMNS)


def ordinary_share(nights: Mapping[date, Texts], rule: TextRule) -> float | None:
    """Return what share of an ordinary night's texts may surely be recognised as new among the baseline's nights.

    Args:
        nights: The texts of the baseline by their day.
        rule: How texts are compared.

    Returns:
        The upper end of the prediction interval of one more night, 0 to 1; None with too few nights.
    """
    used = [texts for texts in nights.values() if len(set(texts.units)) >= MIN_UNITS]
    if len(used) < FEWEST_NIGHTS:
        return None
    shares = [_share_among(texts, [other for other in used if other is not texts], rule) for texts in used]
    from scipy import stats

    spread = float(stats.t.isf(rule.level, len(shares) - 1)) * stdev(shares) * math.sqrt(1 + 1 / len(shares))
    return min(1.0, fmean(shares) + spread)


def _hold_column(column: str, current: Sample, old: Old, level: float) -> Drift:
    new, was = current.texts(column), old.sample.texts(column)
    sketch = next((item for item in old.sketches if item.column == column and item.units), None)
    units = len(set(was.units))
    if not new.texts and not units and sketch is None:
        return _remark(f"No {column} is kept, so nothing is said about its wording.")
    is_left = units >= FEWEST_LEFT * min(sketch.units, SAMPLED_UNITS) if sketch else units > 0
    if not is_left and sketch is None:
        return _remark(f"The baseline's {column} is gone and it has no sketch of it, so nothing is said about it.")
    if not is_left and sketch is not None:
        return tell_effect(compare_sketches(TextSketch.of(column, new), sketch, least=LEAST_SKETCHED, level=level), old)
    nights = old.sample.nights(column)
    knows_nights = sum(len(set(texts.units)) >= MIN_UNITS for texts in nights.values()) >= FEWEST_NIGHTS
    rule = TextRule(least=LEAST if knows_nights else LEAST * GROSS, level=level)
    shift = compare_texts(column, new, was, rule)
    effect = beside_nights(shift.effect, new, nights, rule) if knows_nights else shift.effect
    found = tell_effect(effect, old)
    if effect.outcome is Outcome.PASS or not len(shift.scores):
        return found
    return replace(found, moved=(find_moved(column, shift, current, old.sample),))


def find_moved(column: str, shift: TextShift, current: Sample, old: Sample) -> Moved:
    """Say what moved in a column of texts: terms, examples by id, and segments.

    Args:
        column: One of ``TEXT_COLUMNS``.
        shift: What ``compare_texts`` said of them.
        current: The window.
        old: What it was held against.
    """
    leanings = [
        (dimension, leaning)
        for dimension in SEGMENTS
        for leaning in lean_of_segments(shift.scores, current.segments(column, dimension))[:MAX_LEANINGS]
        if _leans(leaning)
    ]
    return Moved(
        column=column,
        terms=find_terms(current.texts(column, known=True), old.texts(column, known=True)),
        examples=find_examples(shift.scores, current.texts(column)),
        leanings=tuple(leanings),
    )


def tell_effect(effect: Effect, old: Old) -> Drift:
    """Return an effect as a check, or as a remark where it does not decide.

    Args:
        effect: Of a column of texts.
        old: What they were held against.
    """
    if effect.column.startswith(ANSWERS) and not old.decides:
        return _remark(f"{effect.statement}; these are another release's answers, so it does not decide.")
    is_beyond = effect.value > effect.limit  # false where nothing was measured
    if not old.is_named and effect.outcome is Outcome.INCONCLUSIVE and not is_beyond:
        return _remark(f"{effect.statement}; nothing is said about its wording.")
    return Drift(checks=(replace(effect.as_check(), monitor=f"drift:{effect.column}"),))


def _remark(sentence: str) -> Drift:
    return Drift(remarks=(sentence,))


def beside_nights(effect: Effect, new: Texts, nights: Mapping[date, Texts], rule: TextRule) -> Effect:
    """Return a failure as inconclusive where ordinary nights are as far from each other.

    Args:
        effect: Of the texts of the window.
        new: The texts.
        nights: Those of the baseline by their day.
        rule: How they are compared.
    """
    if effect.outcome is not Outcome.FAIL:
        return effect
    bound = ordinary_share(nights, rule)
    used = [texts for texts in nights.values() if len(set(texts.units)) >= MIN_UNITS]
    size = sorted(len(set(texts.units)) for texts in used)[len(used) // 2]
    # As many users as a night of the baseline has: with more of them a classifier recognises more.
    share = _share_among(keep_units(new, size, "tonight"), used[1:], rule)
    if bound is None or share > bound:
        return effect
    words = f"{effect.statement}, but ordinary nights reach {bound:.1%}"
    return replace(effect, outcome=Outcome.INCONCLUSIVE, statement=words)


def _share_among(texts: Texts, others: Sequence[Texts], rule: TextRule) -> float:
    pooled = Texts(
        texts=[text for other in others for text in other.texts],
        units=[unit for other in others for unit in other.units],
        ids=[one for other in others for one in other.ids],
    )
    rows = featurise([*texts.texts, *pooled.texts])
    # The lower bound: what a night shows beyond chance, however few users it has.
    return compare_features("night", rows, texts, pooled, replace(rule, permutations=0)).effect.low


def _leans(leaning: Leaning) -> bool:
    return leaning.share < 1 and leaning.share_newest >= LEANS * leaning.share
