"""What a release's monitors came to each night, as numbers that alarms over nights watch beside the drift columns.

The nights of a baseline have them where the evaluation judged those nights: they are read from the metrics store, so
tonight and then were measured in the same way. What was not measured is left out, never a number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from tasks.drift.baseline import p95_of
from tasks.drift.nights import Watched
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.window import DAY, Window
from tasks.scoring.quality import JUDGE_VERSION

FAILED: Final = "failed share"
TOXIC: Final = "toxic share"
QUALITY: Final = f"mean quality by {JUDGE_VERSION}"
"""Another judge's quality is another metric: the two are never compared."""
COST: Final = "cost per call"
MONITORED: Final = (
    Watched(name=p95_of("latency_ms"), side="high", least=math.log(1.1)),
    Watched(name=FAILED, side="high", scale="difference", least=0.01),
    Watched(name=QUALITY, side="low", scale="difference", least=0.02),
    Watched(name=TOXIC, side="high", scale="difference", least=0.01),
    Watched(name=COST, side="high"),
)
_COVERED: Final = "share of priced calls"
METRICS: Final = {
    "failed_share": FAILED,
    "toxic_share": TOXIC,
    "quality_mean": QUALITY,
    "cost_usd_per_day": COST,
    "cost_coverage": _COVERED,
}
"""Names of the metrics store."""
DIGITS: Final = 6
LEAST_PRICED: Final = 0.99
"""With a smaller share of priced calls, what a call costs is not known."""
Values = tuple[tuple[str, float], ...]


def tonight_values(evidence: Evidence) -> Values:
    """Return what the monitors of one UTC day came to."""
    found = {FAILED: evidence.errors, TOXIC: evidence.toxicity, QUALITY: evidence.quality}
    values = {name: estimate.value for name, estimate in found.items() if estimate is not None}
    cost = evidence.cost
    if cost is not None and cost.coverage >= LEAST_PRICED and cost.usd_per_day > 0:
        values[COST] = math.log(cost.usd_per_day / (cost.n * cost.coverage))
    return _sorted(values)


def earlier_values(rows: Sequence[Mapping[str, Any]], judged: frozenset[tuple[str, str]]) -> dict[date, Values]:
    """Return what the monitors came to on days that were evaluated; a day whose prices are not all known has no cost.

    Args:
        rows: Rows of the metrics store, of whole releases; of several releases the calls are put together.
        judged: Release and window of those whose quality is by the judge of now.
    """
    sums: defaultdict[tuple[date, str], list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        name = METRICS.get(row["metric"])
        window = Window(start=row["window_start"], end=row["window_end"])
        is_night = window.is_whole and window.end - window.start == DAY
        if name is None or not is_night or not row["n"]:
            continue
        if name == QUALITY and (row["release_digest"], row["window"]) not in judged:
            continue
        sums[row["window_start"].date(), name].append((row["value"], row["n"]))
    found: defaultdict[date, dict[str, float]] = defaultdict(dict)
    for (day, name), parts in sums.items():
        if name not in {COST, _COVERED}:
            found[day][name] = sum(value * count for value, count in parts) / sum(count for _, count in parts)
        elif name == COST and (cost := _cost_per_call(parts, sums.get((day, _COVERED), ()))) is not None:
            found[day][name] = cost
    return {day: _sorted(values) for day, values in found.items()}


def _cost_per_call(spent: Sequence[tuple[float, int]], covered: Sequence[tuple[float, int]]) -> float | None:
    """Return the logarithm of what a priced call cost; None where prices are missing, or nobody said they are not."""
    usd, priced = sum(value for value, _ in spent), sum(share * n for share, n in covered)
    known = len(covered) >= len(spent) and all(share >= LEAST_PRICED for share, _ in covered)
    return math.log(usd / priced) if known and usd > 0 else None


def _sorted(values: Mapping[str, float]) -> Values:
    return tuple(sorted((name, round(value, DIGITS)) for name, value in values.items()))
