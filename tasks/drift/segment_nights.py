"""A night's segments beside the same segments of a named baseline: numbers and words.

A segment informs and never decides. Tonight's level of a column is held against the segment's own nights of the day
type: the prediction interval of one more night (Student's t), with a deviation that weekdays and weekends share, each
about its own mean, and that grows where tonight has fewer calls than usual. So users with many calls, and nights that
differ, are in the interval already. The whole of it must be beyond the smallest change that matters, as everywhere. All
segments, columns and measures of a night share one alpha (Bonferroni, because intervals decide), a column that failed
as a whole is not looked at again, and what is inconclusive is not told.

Valid as the test of a single night is: levels of nights about normal, no trend since the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from typing import Final

from tasks.drift.baseline import p95_of
from tasks.drift.columns import CategoryColumn, Scan
from tasks.drift.effects import MIN_ROWS, Change, Effect, make_effect, make_floor_effect
from tasks.drift.nights import FEWEST_NIGHTS, Night, Watched, is_weekend, value_of
from tasks.drift.numeric import NumberRule, compare_words, level_of, quantile_of
from tasks.drift.scan import ScanSpec
from tasks.drift.segments import KeptSegment, SegmentNight
from tasks.monitors.verdict import Check, Outcome

ALPHA: Final = 0.01
"""The chance that a night of a release with nothing wrong gets any warning of drift; half of it is the texts'."""
MEASURES: Final = 2
"""Of each column of numbers: its mean and its 95th percentile."""
FEWEST_ALIKE: Final = 2
LEAST_SHARE: Final = 0.5
"""A night of the baseline with a smaller share of the segment's usual calls is left out."""
MOST_TOLD: Final = 3
"""So many columns of a segment are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What a metric of a segment usually is on nights of a day type.

    Attributes:
        mean: Of those nights.
        deviation: Between nights of one day type.
        nights: How many of them.
        freedom: Degrees of freedom of the deviation.
        n: Calls of such a night, the median.
    """

    mean: float
    deviation: float
    nights: int
    freedom: int
    n: float

    def margin(self, level: float, n: int) -> float:
        """Return how far one more night may be from the mean.

        Args:
            level: The chance that it is further, 0 to 1.
            n: Its calls.
        """
        # As if all of the deviation came from the calls: never too narrow, and too wide where nights differ as such.
        smaller = math.sqrt(max(1.0, self.n / n))
        return _t_quantile(level / 2, self.freedom) * self.deviation * math.hypot(smaller, 1 / math.sqrt(self.nights))


def usual_nights(nights: Sequence[Night], metric: str, *, weekend: bool) -> Usual | None:
    """Return what a metric usually is.

    Args:
        nights: A segment's.
        metric: One of theirs.
        weekend: The day type.

    Returns:
        None where fewer than ``FEWEST_ALIKE`` nights are of the day type, or where both types together leave less than
        ``FEWEST_NIGHTS`` degrees of freedom.
    """
    usual = {kind: median([one.n for one in nights if is_weekend(one.day) is kind] or [0]) for kind in (False, True)}
    values: dict[bool, list[float]] = {False: [], True: []}
    for one in nights:
        kind, value = is_weekend(one.day), value_of(one, metric)
        if value is not None and one.n >= LEAST_SHARE * usual[kind]:
            values[kind].append(value)
    alike, freedom = values[weekend], sum(max(0, len(some) - 1) for some in values.values())
    if len(alike) < FEWEST_ALIKE or freedom < FEWEST_NIGHTS:
        return None
    squares = sum((value - fmean(some)) ** 2 for some in values.values() for value in some)
    return Usual(
        mean=fmean(alike),
        deviation=math.sqrt(squares / freedom),
        nights=len(alike),
        freedom=freedom,
        n=float(usual[weekend]),
    )


def hold_segments(
    night: SegmentNight, spec: ScanSpec, failed: Collection[str], *, weekend: bool
) -> tuple[tuple[str, Check], ...]:
    """Hold the segments of a window against the same segments of a baseline.

    Args:
        night: Both.
        spec: Which columns are compared.
        failed: Columns that changed as a whole, which say nothing new of a segment.
        weekend: Whether the window is a Saturday or a Sunday.

    Returns:
        Name and check of each segment that surely changed (``fail``: a warning) or surely did not by what matters
        (``pass``); nothing of those that cannot be told.
    """
    tested = [pair for pair in zip(night.kept.segments, night.scans, strict=True) if pair[1].n >= MIN_ROWS]
    # As many tests as there may be, also where some are missing: what is known must not decide how strict it is.
    level = ALPHA / 2 / max(1, len(tested) * (MEASURES * len(spec.numbers) + len(spec.categories)))
    numbers = [one for one in spec.numbers if one.name not in failed]
    words = [name for name in spec.categories if name not in failed]
    found: list[tuple[str, Check]] = []
    for one, scan in tested:
        effects = [effect for item in numbers for effect in _hold_numbers(one, scan, item, level, weekend=weekend)]
        effects += [effect for name in words for effect in _hold_words(one, scan.category(name), level)]
        found += _tell(one, effects, scan.n)
    return tuple(found)


def _hold_numbers(one: KeptSegment, scan: Scan, watched: Watched, level: float, *, weekend: bool) -> Iterator[Effect]:
    """Yield how the mean and the 95th percentile of a column are beside the segment's nights."""
    column = scan.number(watched.name)
    n, levels = column.histogram.n, (level_of(column, watched), quantile_of(column, watched, 0.95))
    for measure, metric, value in zip(("mean", "p95"), (watched.name, p95_of(watched.name)), levels, strict=True):
        usual = usual_nights(one.nights, metric, weekend=weekend)
        if usual is None or value is None:
            continue
        change, margin = value - usual.mean, usual.margin(level, scan.n)
        yield make_floor_effect(watched.name, n, one.n, column.effective_n) or make_effect(
            watched.name,
            measure,
            Change(value=change, low=change - margin, high=change + margin),
            least=watched.least,
            side=watched.side,
            scale=watched.scale,
            n=n,
            n_baseline=one.n,
        )


def _hold_words(one: KeptSegment, column: CategoryColumn, level: float) -> Iterator[Effect]:
    """Yield how the words of a column are beside the segment's, where any were known."""
    was = next((item for item in one.words if item.name == column.name), None)
    if was is not None and was.categories.n:
        yield compare_words(column, was, NumberRule(watched=(), categories=(column.name,), alpha=level))


def _tell(one: KeptSegment, effects: Sequence[Effect], n: int) -> Iterator[tuple[str, Check]]:
    name, failed = one.segment.name, [effect for effect in effects if effect.outcome is Outcome.FAIL]
    first = {effect.column: effect for effect in reversed(failed)}
    for column in list(dict.fromkeys(effect.column for effect in failed))[:MOST_TOLD]:
        yield name, replace(first[column].as_check(), statement=f"drift of {name}: {first[column].statement}")
    if effects and all(effect.outcome is Outcome.PASS for effect in effects):
        columns = len({effect.column for effect in effects})
        words = f"drift of {name}: {columns} columns not shown to differ (n={n}, baseline n={one.n})"
        yield name, Check(monitor="drift", outcome=Outcome.PASS, statement=words, value=None, limit=None, n=n)


@lru_cache(maxsize=4096)
def _t_quantile(tail: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.isf(tail, freedom))
