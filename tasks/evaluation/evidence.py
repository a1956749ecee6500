"""What one release is judged by: estimates with their bounds, and its summary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.evaluation.quality import score_quality
from tasks.evaluation.summary import SUMMARY_COLUMNS, Summary, failed_calls, numbers, release_calls, summarise
from tasks.evaluation.toxicity import count_toxic, score_toxicity

SCORE_COLUMNS: Final = ("interaction_id", "context_text", *SUMMARY_COLUMNS)
"""The columns of the interaction log that a release is measured by."""
Z: Final = 1.645
"""One-sided bounds at 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured value, and how far below or above it the truth may be.

    Attributes:
        value: In the unit of its monitor.
        low, high: One-sided 95 % bounds.
        n: How many interactions it rests on, at least 1.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What drift is measured against: the summary of a release, and its name for people."""

    name: str
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a release costs a UTC day.

    Attributes:
        usd_per_day: The priced calls, USD.
        coverage: Share of the calls that have a price, 0 to 1; the others are unknown, not free.
        n: Calls.
    """

    usd_per_day: float
    coverage: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a verdict on one release rests on.

    Attributes:
        summary: The counts of the window.
        errors: Share of failed calls; None without any call.
        latency_ms: 95th percentile of calls that did not fail; None without any.
        quality: Mean score of the answers that could be scored; None without any.
        toxicity: Share of toxic answers; None without any answer.
        answers: Calls that did not fail, scored or not.
        caller_errors: Calls that the caller's own mistake ended; they count nowhere else.
        baseline: None where the release has nothing to be compared with: then nothing is said about drift.
        cost: None where it was not measured.
    """

    summary: Summary
    errors: Estimate | None = None
    latency_ms: Estimate | None = None
    quality: Estimate | None = None
    toxicity: Estimate | None = None
    answers: int = 0
    caller_errors: int = 0
    baseline: Baseline | None = None
    cost: Cost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One release measured over a window: the evidence, and the scores of its answers row by row."""

    evidence: Evidence
    interaction_ids: pa.StringArray
    quality: NDArray[np.float64]
    toxicity: NDArray[np.float64]


def measure_release(interactions: pa.Table) -> Measured:
    """Score the answers of one release and estimate what its monitors watch.

    Args:
        interactions: The rows of the release in the window, with ``SCORE_COLUMNS``.
    """
    calls = release_calls(interactions)
    answered = calls.filter(pc.invert(failed_calls(calls)))
    scores = score_quality(*(answered[name].to_pylist() for name in ("input_text", "output_text", "context_text")))
    toxicity = score_toxicity(answered["output_text"].to_pylist())
    judged = int(np.count_nonzero(~np.isnan(toxicity)))
    evidence = Evidence(
        summary=summarise(calls, scores),
        errors=estimate_share(calls.num_rows - answered.num_rows, calls.num_rows),
        latency_ms=estimate_p95(numbers(answered["latency_ms"])),
        quality=estimate_mean(scores),
        toxicity=estimate_share(count_toxic(toxicity), judged),
        answers=answered.num_rows,
        caller_errors=interactions.num_rows - calls.num_rows,
    )
    ids = answered["interaction_id"].combine_chunks()
    return Measured(evidence=evidence, interaction_ids=ids, quality=scores, toxicity=toxicity)


def estimate_mean(values: NDArray[np.float64]) -> Estimate | None:
    """Return the mean of values with its normal bounds; NaN is left out, None if nothing is left."""
    known = values[~np.isnan(values)]
    n = len(known)
    if n == 0:
        return None
    mean = float(known.mean())
    margin = Z * float(known.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(value=mean, low=mean - margin, high=mean + margin, n=n)


def estimate_share(count: int, n: int) -> Estimate | None:
    """Return the share ``count / n`` with Wilson's bounds; None where n is 0."""
    if n == 0:
        return None
    share = count / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Estimate(value=share, low=max(0.0, centre - margin), high=min(1.0, centre + margin), n=n)


def estimate_p95(values: NDArray[np.float64]) -> Estimate | None:
    """Return the 95th percentile with bounds from order statistics; NaN is left out, None if nothing is left."""
    known = np.sort(values[~np.isnan(values)])
    n = len(known)
    if n == 0:
        return None
    margin = Z * math.sqrt(n * 0.95 * 0.05)
    low, high = math.floor(0.95 * n - margin), math.ceil(0.95 * n + margin) + 1
    return Estimate(
        value=float(np.quantile(known, 0.95)),
        low=float(known[low - 1]) if low > 0 else -math.inf,
        high=float(known[high - 1]) if high <= n else math.inf,
        n=n,
    )
