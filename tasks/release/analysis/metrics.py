"""What a ramp is compared by: each metric makes every call a badness from 0 to 1.

A user's observation is the mean over their calls, which is between 0 and 1 again. Means of rare events, of scores and
of shares beyond a limit are what the bets need; a raw latency or cost is not bounded, so latency becomes the share of
calls slower than a limit, and cost is scaled by a cap and cut off there: answers that cost a user more than four times
what stable's cost on average count as four times as dear.

A call is *missing* where it was answered and got no score. It counts in no mean, so the share of such calls is
compared itself: no candidate looks good by failing to be scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.evaluation.summary import failed_calls, numbers
from tasks.scoring.toxicity import TOXIC_PROBABILITY

Badness = NDArray[np.float64]

COST_CAP_ANSWERS: Final = 4.0
"""A user's answers count as costing at most this many average ones of stable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One thing a ramp is compared by.

    Attributes:
        name: Its name, unique among the metrics of a ramp.
        words: What the shown value is, for people.
        margin: How much worse, in units of badness, would matter: 0.03 is three points.
        observe: Makes calls badness, 0 to 1 a row, NaN where it is unknown or does not apply.
        is_good: Whether people read it as ``1 - badness``: success, quality.
    """

    name: str
    words: str
    margin: float
    observe: Callable[[pa.Table], Badness]
    is_good: bool = False

    def __post_init__(self) -> None:
        """Refuse a margin that no evidence could meet, or that everything would."""
        if not 0 < self.margin < 1:
            raise InputError.of(f"margin of {self.name}", self.margin, "above 0 and below 1")

    def shown(self, badness: float) -> float:
        """Return the value as people read it."""
        return 1 - badness if self.is_good else badness


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """How much worse a candidate may be and still be called not worse.

    Attributes:
        success: Share of calls that did not fail.
        latency: Share of answers slower than the release's limit.
        quality: Mean score, 0 to 1.
        toxicity: Share of toxic answers.
        cost: Mean cost of a successful answer as a share of the cap of four average ones: 0.025 is a tenth of one.
        missing: Share of answers without a score.
    """

    success: float = 0.03
    latency: float = 0.03
    quality: float = 0.03
    toxicity: float = 0.02
    cost: float = 0.025
    missing: float = 0.03


def default_metrics(
    *,
    latency_limit_ms: float,
    stable_cost_pusd: float | None = None,
    is_scored: bool = True,
    margins: Margins = Margins(),
) -> tuple[Metric, ...]:
    """Return the metrics of a ramp.

    Args:
        latency_limit_ms: The limit of the candidate's release, milliseconds.
        stable_cost_pusd: What a successful answer of stable cost on average before the ramp; None where it is not
            known or not asked for: then cost is not compared, because unknown is not free.
        is_scored: Whether answers get scores while the ramp lasts; else quality, toxicity and missing are left out.
        margins: What would matter.

    Returns:
        Metrics over the columns ``unit``, ``status``, ``error_type``, ``latency_ms`` and, where they are wanted,
        ``quality``, ``toxicity`` and ``cost_pusd``.
    """
    failed = Metric(name="success", words="success", margin=margins.success, observe=failures, is_good=True)
    slow = slower_than("latency", latency_limit_ms, margins.latency)
    scored = (
        Metric(name="quality", words="quality", margin=margins.quality, observe=poor_scores, is_good=True),
        Metric(name="toxicity", words="toxic answers", margin=margins.toxicity, observe=toxic_answers),
        Metric(name="missing", words="answers without a score", margin=margins.missing, observe=missing_scores),
    )
    cost = () if stable_cost_pusd is None else (capped_cost(stable_cost_pusd, margins.cost),)
    return (failed, slow, *(scored if is_scored else ()), *cost)


def slower_than(name: str, limit_ms: float, margin: float) -> Metric:
    """Return the share of answers slower than a limit.

    With a quantile of stable's latency before the ramp as the limit, it is a test for a shift of that quantile: at
    the median a candidate of the same speed is slower half the time.

    Args:
        name: The metric's name: ``latency``, or another for a second quantile.
        limit_ms: Milliseconds; fixed before the ramp begins.
        margin: How many more of the answers may be slower, 0 to 1.
    """

    def observe(calls: pa.Table) -> Badness:
        latency_ms = _answered(calls, numbers(calls["latency_ms"]))
        return np.where(np.isnan(latency_ms), np.nan, (latency_ms > limit_ms).astype(np.float64))

    return Metric(name=name, words=f"answers slower than {limit_ms:.10g} ms", margin=margin, observe=observe)


def capped_cost(stable_cost_pusd: float, margin: float) -> Metric:
    """Return what a user's successful answers cost, as a share of ``COST_CAP_ANSWERS`` average ones of stable.

    A user's failed calls are paid for by their successful answers; a user without any counts as the cap, and one with
    a call whose cost is unknown is unknown.

    Args:
        stable_cost_pusd: What a successful answer of stable cost on average before the ramp, pico-USD, above 0.
        margin: How much dearer may be, as a share of the cap.

    Raises:
        InputError: The average is not above 0: nothing to scale by.
    """
    if not stable_cost_pusd > 0:
        raise InputError.of("stable_cost_pusd", stable_cost_pusd, "above 0; None where it is unknown")
    cap_pusd = COST_CAP_ANSWERS * stable_cost_pusd

    def observe(calls: pa.Table) -> Badness:
        user = pc.dictionary_encode(calls["unit"]).combine_chunks().indices.to_numpy()
        if not len(user):
            return np.empty(0)
        spent = np.bincount(user, weights=numbers(calls["cost_pusd"]))
        answers = np.bincount(user, weights=1 - failures(calls))
        nothing = np.where(np.isnan(spent), np.nan, 1.0)
        share: Badness = np.where(answers > 0, spent / np.maximum(answers, 1) / cap_pusd, nothing)
        capped: Badness = np.minimum(share, 1.0)[user]
        return capped

    words = f"cost of a successful answer, in {COST_CAP_ANSWERS:g} average ones"
    return Metric(name="cost", words=words, margin=margin, observe=observe)


def failures(calls: pa.Table) -> Badness:
    """Return 1 where a call failed, else 0."""
    return np.asarray(failed_calls(calls).combine_chunks().to_numpy(zero_copy_only=False), dtype=np.float64)


def poor_scores(calls: pa.Table) -> Badness:
    """Return 1 less the quality score of an answer; NaN where a call failed or was not scored."""
    return _answered(calls, 1 - numbers(calls["quality"]))


def toxic_answers(calls: pa.Table) -> Badness:
    """Return 1 where an answer counts as toxic, else 0; NaN where a call failed or was not judged."""
    score = _answered(calls, numbers(calls["toxicity"]))
    return np.where(np.isnan(score), np.nan, (score >= TOXIC_PROBABILITY).astype(np.float64))


def missing_scores(calls: pa.Table) -> Badness:
    """Return 1 where an answer got no quality score, else 0; NaN where a call failed."""
    return _answered(calls, np.isnan(numbers(calls["quality"])).astype(np.float64))


def _answered(calls: pa.Table, values: Badness) -> Badness:
    return np.where(failures(calls) > 0, np.nan, values)
