"""What one release is judged by: estimates with their bounds, and its summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.drift.findings import Drift
from tasks.evaluation.clusters import Users, Z, design_effect, users_as_numbers
from tasks.evaluation.concentration import Concentration, measure_concentration, users_of
from tasks.evaluation.summary import SUMMARY_COLUMNS, Summary, failed_calls, numbers, release_calls, summarise
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Check
from tasks.scoring.quality import score_quality
from tasks.scoring.toxicity import LIMITS, TOXIC_PROBABILITY, count_toxic, score_toxicity

SEGMENT_COLUMNS: Final = ("route", "prompt_version", "model", "language", "tags")
"""The columns of the interaction log that calls are divided by."""
SCORE_COLUMNS: Final = tuple(
    dict.fromkeys(
        ("interaction_id", "context_text", *SUMMARY_COLUMNS, *SEGMENT_COLUMNS, "unit", "unit_kind", "user_hash")
    )
)
"""The columns of the interaction log that a release is measured by."""


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
    """What drift is measured against: the summary of a release, its name for people, and where its texts are.

    Attributes:
        name, summary: Of the release.
        release_digest, window: Whose calls it is of; None: nobody knows any more.
    """

    name: str
    summary: Summary
    release_digest: str = ""
    window: Window | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a release costs a UTC day.

    Attributes:
        usd_per_day: The priced calls, USD; of another window than one day scaled to a day, which no limit is held to.
        coverage: Share of the calls that have a price, 0 to 1; the others are unknown, not free.
        n: Calls that were not refused: what was refused says nothing of what an answer costs.
        ceiling_usd_per_day: What the dearest UTC day cost with every unpriced call taken to cost as much as the
            dearest priced one; None where no call has a price.
        dearest_day_usd: What of the window is held against the limit, its dearest UTC day; None: ``usd_per_day``.
        span: Whether the window is one UTC day, several whole ones, or has a part of one.
    """

    usd_per_day: float
    coverage: float
    n: int
    ceiling_usd_per_day: float | None = None
    dearest_day_usd: float | None = None
    span: Literal["day", "days", "part"] = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Something said of a release's answers beside its monitors, for the report.

    Attributes:
        name: What it is: ``check:empty``, ``judge:helpful``, ``feedback``.
        statement: The number with its interval, or why there is none.
        valid: Where it can be believed.
    """

    name: str
    statement: str
    valid: str


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
        baseline_name: What people call it; empty: there is none.
        drift: What came of holding it against its baseline; beside a named one all of it, else that of the texts.
        baseline_problem: Why the baseline it should be compared with cannot be used; empty: it can, or there is none.
        cost: None where it was not measured.
        cost_problem: Why it could not be measured; empty: it was, or nothing has a price.
        concentration: None where too few users are known.
        scorer_checks: What scorers that a team added came to.
        scorer_means: Mean of every score they gave, by its name.
        shown: What else is said of the answers; it informs.
        shown_means: Its numbers, by name.
        toxicity_problem: Why most answers have no score of toxicity; empty: they have.
        toxicity_limits: What the judge of toxicity does not see.
    """

    summary: Summary
    errors: Estimate | None = None
    latency_ms: Estimate | None = None
    quality: Estimate | None = None
    toxicity: Estimate | None = None
    answers: int = 0
    caller_errors: int = 0
    baseline: Baseline | None = None
    baseline_name: str = ""
    drift: Drift = field(default_factory=Drift)
    baseline_problem: str = ""
    cost: Cost | None = None
    cost_problem: str = ""
    concentration: Concentration | None = None
    scorer_checks: tuple[Check, ...] = ()
    scorer_means: Mapping[str, Estimate] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()
    shown_means: Mapping[str, Estimate] = field(default_factory=dict)
    toxicity_problem: str = ""
    toxicity_limits: str = LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A slice of a release's calls with their scores, without any text.

    Attributes:
        calls: A row for each call that says something about the release: ``interaction_id``, ``user``, ``failed``,
            ``latency_ms`` (of those that did not fail), ``quality``, ``toxicity`` and ``SEGMENT_COLUMNS``.
        summary: Of the same calls.
        caller_errors: Calls that the caller's own mistake ended.
    """

    calls: pa.Table
    summary: Summary
    caller_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One release measured over a window: the evidence, and the scores of its answers row by row.

    Attributes:
        evidence: What it is judged by.
        interaction_ids, quality, toxicity: Of the answered calls.
        calls: As in ``Shard``; None where only the scores are known.
    """

    evidence: Evidence
    interaction_ids: pa.StringArray
    quality: NDArray[np.float64]
    toxicity: NDArray[np.float64]
    calls: pa.Table | None = None


def measure_shard(interactions: pa.Table) -> Shard:
    """Score a slice of the answers of one release.

    Args:
        interactions: Rows with ``SCORE_COLUMNS``.
    """
    calls = release_calls(interactions)
    failed = failed_calls(calls)
    answered = calls.filter(pc.invert(failed))
    quality = score_quality(*(answered[name].to_pylist() for name in ("input_text", "output_text", "context_text")))
    toxicity = score_toxicity(answered["output_text"].to_pylist())
    at = np.flatnonzero(~np.asarray(failed.to_numpy(), dtype=bool))
    known = {"latency_ms": numbers(answered["latency_ms"]), "quality": quality, "toxicity": toxicity}
    columns = {name: _spread(values, at, calls.num_rows) for name, values in known.items()}
    slim = {"interaction_id": calls["interaction_id"], "user": users_of(calls), "failed": failed, **columns}
    return Shard(
        calls=pa.table({**slim, **{name: calls[name] for name in SEGMENT_COLUMNS}}),
        summary=summarise(calls, quality),
        caller_errors=interactions.num_rows - calls.num_rows,
    )


def gather(shards: Sequence[Shard]) -> Measured:
    """Return what the slices of a release's calls say together.

    Args:
        shards: At least one.
    """
    calls = pa.concat_tables([shard.calls for shard in shards])
    answered, users = calls.filter(pc.invert(calls["failed"])), users_as_numbers(calls["user"])
    failed = np.asarray(calls["failed"].to_numpy(), dtype=np.float64)
    asked_by = users[failed == 0]
    quality, toxicity = numbers(answered["quality"]), numbers(answered["toxicity"])
    evidence = Evidence(
        summary=reduce(Summary.merge, (shard.summary for shard in shards)),
        errors=estimate_share(int(failed.sum()), calls.num_rows, design_effect(failed, users)),
        latency_ms=estimate_p95(numbers(answered["latency_ms"]), asked_by),
        quality=estimate_mean(quality, asked_by),
        toxicity=estimate_toxicity(toxicity, asked_by),
        answers=answered.num_rows,
        caller_errors=sum(shard.caller_errors for shard in shards),
        concentration=measure_concentration(calls["user"]),
    )
    ids = answered["interaction_id"].combine_chunks()
    return Measured(evidence=evidence, interaction_ids=ids, quality=quality, toxicity=toxicity, calls=calls)


def estimate_mean(values: NDArray[np.float64], users: Users | None = None) -> Estimate | None:
    """Return the mean of values with its normal bounds; NaN is left out, None if nothing is left.

    Args:
        values: A value a call.
        users: Who made each call; without it no call depends on another.
    """
    known = values[~np.isnan(values)]
    n = len(known)
    if n == 0:
        return None
    mean = float(known.mean())
    worth = n / design_effect(values, users)
    margin = Z * float(known.std(ddof=1)) / math.sqrt(worth) if n > 1 else math.inf
    return Estimate(value=mean, low=mean - margin, high=mean + margin, n=n)


def estimate_share(count: int, n: int, effect: float = 1.0) -> Estimate | None:
    """Return the share ``count / n`` with Wilson's bounds; None where n is 0.

    Args:
        count: So many.
        n: Of so many calls.
        effect: How many of the calls say as much as one that depends on no other, 1 or more.
    """
    if n == 0:
        return None
    share, worth = count / n, n / effect
    centre = (share + Z * Z / (2 * worth)) / (1 + Z * Z / worth)
    margin = Z / (1 + Z * Z / worth) * math.sqrt(share * (1 - share) / worth + Z * Z / (4 * worth * worth))
    return Estimate(value=share, low=max(0.0, centre - margin), high=min(1.0, centre + margin), n=n)


def estimate_toxicity(toxicity: NDArray[np.float64], users: Users | None = None) -> Estimate | None:
    """Return the share of toxic answers; see ``estimate_mean``."""
    effect = design_effect(np.where(np.isnan(toxicity), np.nan, toxicity >= TOXIC_PROBABILITY), users)
    return estimate_share(count_toxic(toxicity), int(np.count_nonzero(~np.isnan(toxicity))), effect)


def estimate_p95(values: NDArray[np.float64], users: Users | None = None) -> Estimate | None:
    """Return the 95th percentile with bounds from order statistics; see ``estimate_mean``."""
    known = np.sort(values[~np.isnan(values)])
    n = len(known)
    if n == 0:
        return None
    value = float(np.quantile(known, 0.95))
    slow = np.where(np.isnan(values), np.nan, values > value)
    margin = Z * math.sqrt(n * 0.95 * 0.05 * design_effect(slow, users))
    low, high = math.floor(0.95 * n - margin), math.ceil(0.95 * n + margin) + 1
    return Estimate(
        value=value,
        low=float(known[low - 1]) if low > 0 else -math.inf,
        high=float(known[high - 1]) if high <= n else math.inf,
        n=n,
    )


def _spread(values: NDArray[np.float64], at: NDArray[np.int64], n: int) -> pa.Array:
    """Return values at their places among n rows, NULL everywhere else and where they are unknown."""
    spread = np.full(n, np.nan)
    spread[at] = values
    return pa.array(spread, pa.float64(), mask=np.isnan(spread))
