"""Segments: the calls of one route, prompt version, model, language or tag, held against the release's limits.

A segment informs and warns, and never decides: the limits of a release file are promises about all of its calls, and
a rollback for one language would take the release from everybody. A warning raises an alert of its own. It is raised
where the segment is beyond a limit that the release as a whole keeps, and chance alone would hardly do that: the
p-values of all segments and monitors of a release and window share one alpha, by Holm's method.

The p-values are valid whatever the distribution: calls over a limit are counted, and a binomial count judged; a mean of
scores from 0 to 1 has Hoeffding's bound in the form of Chernoff.

References: Holm (1979), A simple sequentially rejective multiple test procedure; Hoeffding (1963), theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.evaluation.chance import divergence, reject_together, tail_of_count
from tasks.evaluation.evidence import (
    SEGMENT_COLUMNS,
    Estimate,
    Measured,
    estimate_mean,
    estimate_p95,
    estimate_share,
)
from tasks.evaluation.summary import numbers
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Monitors
from tasks.scoring.shares import share_values, share_words
from tasks.scoring.toxicity import TOXIC_PROBABILITY

ALPHA: Final = 0.01
"""The chance that a release that keeps every limit in every segment gets any warning in a window."""
MIN_ROWS: Final = 50
"""A segment with fewer calls is not looked at."""
MAX_SEGMENTS: Final = 20
"""The largest so many of each column are looked at."""
MAX_NAME: Final = 200
TOP: Final = 3
"""So many segments are named for a failed check."""
LEAST_SHARE: Final = 0.2
"""A segment explains a breach if it accounts for this share of it at least."""
MONITORS: Final = ("latency", "errors", "toxicity", "quality")
"""The monitors that segments are held against."""
_TAIL: Final = 0.05
_WORDS: Final = {
    "latency": ("p95 latency", "{:.10g} ms"),
    "errors": ("failed calls", "{:.4g}"),
    "toxicity": ("toxic answers", "{:.4g}"),
    "quality": ("mean quality", "{:.4g}"),
}
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some of a release's calls, with the same estimates as the whole.

    Attributes:
        name: ``column=value``; tags are ``tag=name=value``.
        n: Calls.
        estimates: By monitor; what there was nothing to measure of is left out.
        shares: What informs beside the monitors: ``check:NAME`` and ``feedback``.
        p_values: By monitor, how often chance puts a segment this far beyond its limit that is in truth on it.
    """

    name: str
    n: int
    estimates: Mapping[str, Estimate]
    p_values: Mapping[str, float]
    shares: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A segment that accounts for much of a breach.

    Attributes:
        monitor: Whose breach.
        segment: ``column=value``.
        n: Its calls.
        without: The value of the release without the segment.
        share: How much of the breach goes away with it, from 0; 1 and more is all of it.
    """

    monitor: str
    segment: str
    n: int
    without: float
    share: float


def find_segments(measured: Measured, monitors: Monitors) -> tuple[Segment, ...]:
    """Return the segments of a release's calls, by column and then the largest first.

    A segment that holds every call is none, and one of less than ``MIN_ROWS`` calls is left out.
    """
    calls = _Calls.of(measured)
    if calls is None:
        return ()
    limits = {monitor: limit_of(monitor, monitors) for monitor in MONITORS}
    limits |= {one.monitor: one.limit for one in measured.evidence.scorer_checks if one.limit is not None}
    return tuple(
        Segment(
            name=name,
            n=int(mask.sum()),
            estimates={monitor: found for monitor in MONITORS if (found := calls.estimate(monitor, mask)) is not None},
            p_values={name: calls.p_value(name, mask, limit) for name, limit in limits.items() if name in calls.values},
            shares={name: found for name in calls.informing if (found := calls.estimate(name, mask)) is not None},
        )
        for name, mask in calls.masks()
    )


def warn(segments: Sequence[Segment], checks: Sequence[Check], monitors: Monitors) -> tuple[tuple[str, Check], ...]:
    """Hold segments against the limits that the release as a whole does not break already.

    Args:
        segments: Of one release and window.
        checks: Of the same release as a whole.
        monitors: Its limits.

    Returns:
        The name and the check of every segment and monitor that was tested; ``fail`` is a warning.
    """
    failed = {check.monitor for check in checks if check.outcome is Outcome.FAIL}
    limits = {monitor: limit_of(monitor, monitors) for monitor in MONITORS}
    limits |= {one.monitor: one.limit for one in checks if one.limit is not None and one.monitor not in MONITORS}
    tested = [
        (segment, monitor, estimate)
        for segment in segments
        for monitor, estimate in {**segment.estimates, **segment.shares}.items()
        if monitor in limits and monitor not in failed and estimate.n >= MIN_ROWS
    ]
    certain = reject_together([segment.p_values[monitor] for segment, monitor, _ in tested], ALPHA)
    return tuple(
        (segment.name, _check(segment, monitor, estimate, limits[monitor], broken=broken))
        for (segment, monitor, estimate), broken in zip(tested, certain, strict=True)
    )


def explain(measured: Measured, check: Check) -> tuple[Explanation, ...]:
    """Return the segments that account for most of a breach, the greatest first.

    Args:
        measured: The release.
        check: A check that is beyond its limit; any other has no explanation.
    """
    calls, value, limit = _Calls.of(measured), check.value, check.limit
    if calls is None or value is None or limit is None or check.monitor not in MONITORS:
        return ()
    sign = -1 if check.monitor == "quality" else 1
    excess = sign * (value - limit)
    if excess <= 0 or check.outcome not in {Outcome.FAIL, Outcome.INCONCLUSIVE}:
        return ()
    found = []
    for name, mask in calls.masks():
        rest = calls.estimate(check.monitor, ~mask)
        if rest is None or rest.n < MIN_ROWS:
            continue
        share = sign * (value - rest.value) / excess
        if share >= LEAST_SHARE:
            n = int(mask.sum())
            found.append(Explanation(monitor=check.monitor, segment=name, n=n, without=rest.value, share=share))
    return tuple(sorted(found, key=lambda one: (-round(one.share, 9), one.n, one.segment))[:TOP])


def limit_of(monitor: str, monitors: Monitors) -> float:
    """Return the limit of one of ``MONITORS``."""
    limits = {"latency": monitors.latency_ms, "errors": monitors.errors, "toxicity": monitors.toxicity}
    return limits.get(monitor, monitors.quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """The columns of a release's calls as arrays; NaN is unknown."""

    table: pa.Table
    values: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, measured: Measured) -> _Calls | None:
        table = measured.calls
        if table is None:
            return None
        failed = np.asarray(table["failed"].to_numpy(), dtype=np.float64)
        toxicity = numbers(table["toxicity"])
        toxic = np.where(np.isnan(toxicity), np.nan, toxicity >= TOXIC_PROBABILITY)
        values = {
            "latency": numbers(table["latency_ms"]),
            "errors": failed,
            "toxicity": toxic,
            "quality": numbers(table["quality"]),
        }
        return cls(table=table, values={**values, **share_values(table)})

    @property
    def informing(self) -> tuple[str, ...]:
        """What is no monitor of a release file."""
        return tuple(name for name in self.values if name not in MONITORS)

    def masks(self) -> Iterator[tuple[str, Mask]]:
        """Yield every segment's name and rows."""
        for column in SEGMENT_COLUMNS:
            yield from _tags(self.table[column]) if column == "tags" else _values(column, self.table[column])

    def known(self, monitor: str, mask: Mask) -> NDArray[np.float64]:
        values = self.values[monitor][mask]
        return values[~np.isnan(values)]

    def estimate(self, monitor: str, mask: Mask) -> Estimate | None:
        known = self.known(monitor, mask)
        if monitor == "latency":
            return estimate_p95(known)
        return estimate_mean(known) if monitor == "quality" else estimate_share(int(known.sum()), len(known))

    def p_value(self, monitor: str, mask: Mask, limit: float) -> float:
        known = self.known(monitor, mask)
        if len(known) == 0:
            return 1.0
        if monitor == "latency":
            return tail_of_count(int((known > limit).sum()), len(known), _TAIL)
        if monitor == "quality":
            mean = float(known.mean())
            return 1.0 if mean >= limit else math.exp(-len(known) * divergence(mean, limit))
        return tail_of_count(int(known.sum()), len(known), limit)


def _values(column: str, values: pa.ChunkedArray) -> Iterator[tuple[str, Mask]]:
    codes = pc.dictionary_encode(values.combine_chunks(), null_encoding="mask")
    at = np.asarray(pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False))
    counts = np.bincount(at[at >= 0], minlength=len(codes.dictionary))
    for number in np.argsort(-counts, kind="stable")[:MAX_SEGMENTS]:
        if MIN_ROWS <= counts[number] < len(at):
            yield f"{column}={codes.dictionary[int(number)].as_py()}"[:MAX_NAME], at == number


def _tags(values: pa.ChunkedArray) -> Iterator[tuple[str, Mask]]:
    """Yield a segment for each tag; a call of two tags is in both."""
    lists = values.combine_chunks()
    rows = np.asarray(pc.list_parent_indices(lists).to_numpy())
    codes = pc.dictionary_encode(pc.list_flatten(lists))
    at = np.asarray(codes.indices.to_numpy(zero_copy_only=False))
    counts = np.bincount(at, minlength=len(codes.dictionary)) if len(at) else np.zeros(0, dtype=np.int64)
    for number in np.argsort(-counts, kind="stable")[:MAX_SEGMENTS]:
        if MIN_ROWS <= counts[number] < len(lists):
            mask = np.zeros(len(lists), dtype=bool)
            mask[rows[at == number]] = True
            yield f"tag={codes.dictionary[int(number)].as_py()}"[:MAX_NAME], mask


def _check(segment: Segment, monitor: str, estimate: Estimate, limit: float, *, broken: bool) -> Check:
    words, form = _WORDS.get(monitor) or (share_words(monitor), "{:.4g}")
    lowest = monitor == "quality"
    beyond = estimate.value < limit if lowest else estimate.value > limit
    sign = ("<" if lowest else ">") if beyond else (">=" if lowest else "<=")
    doubt = "" if broken or not beyond else ", but chance allows it"
    value, most = form.format(round(estimate.value, 4)), form.format(limit)
    return Check(
        monitor=monitor,
        outcome=Outcome.FAIL if broken else Outcome.INCONCLUSIVE if beyond else Outcome.PASS,
        statement=f"{words} of {segment.name} {value} {sign} limit {most}{doubt} (n={estimate.n})",
        value=estimate.value,
        limit=limit,
        n=estimate.n,
    )
