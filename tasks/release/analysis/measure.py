"""What the log says at one look: evidence for each metric, each fixed limit and the sample ratio.

Everything is computed from the log since the first step, so a ramp that was killed and taken up again, or a look that
is repeated, comes to the same numbers; nothing needs to be kept between two looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.release.analysis.cohorts import Cohort, Ramp, as_meant
from tasks.release.analysis.eprocess import EProcess, harm_payoffs, noninferiority_payoffs
from tasks.release.analysis.limits import LimitEvidence, hold_limit
from tasks.release.analysis.matching import Clock, Entries, enter, pair
from tasks.release.analysis.metrics import Metric, failures, slower_than
from tasks.release.analysis.policy import SLOW_SHARE, RampRules
from tasks.release.analysis.ratio import SampleRatio


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of the candidate against stable's.

    Attributes:
        metric: What is compared.
        candidate, stable: Mean badness of the users compared; NaN without any.
        n_candidate, n_stable: How many they are.
        harm: Evidence against *the candidate is not worse*.
        noninferiority: Evidence against *the candidate is worse by the margin or more*.
    """

    metric: Metric
    candidate: float
    stable: float
    n_candidate: int
    n_stable: int
    harm: EProcess
    noninferiority: EProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class RampEvidence:
    """All that one look rests on.

    Attributes:
        application, release_digest: Who is judged.
        window_start, window_end: From the first step to the look, UTC, half-open.
        limits: The fixed limits, on every call of the candidate since the current step began.
        ratio: How users were shared out.
        comparisons: One a metric, in their order.
    """

    application: str
    release_digest: str
    window_start: datetime
    window_end: datetime
    limits: tuple[LimitEvidence, ...]
    ratio: SampleRatio
    comparisons: tuple[Comparison, ...]


def measure_ramp(calls: pa.Table, ramp: Ramp, rules: RampRules, clock: Clock) -> RampEvidence:
    """Measure a ramp at one look.

    Args:
        calls: The application's interaction log since the first step: ``unit``, ``bucket``, ``time_utc``,
            ``release_digest``, and the columns of the metrics.
        ramp: Who is compared.
        rules: What it is held to.
        clock: The look.
    """
    calls = as_meant(calls, ramp)
    entries = enter(calls, ramp, clock)
    return RampEvidence(
        application=ramp.application,
        release_digest=ramp.candidate,
        window_start=ramp.cohorts[0].start,
        window_end=clock.now,
        limits=_hold_limits(calls, ramp, rules, clock),
        ratio=share_out(entries, ramp.cohorts),
        comparisons=tuple(compare(metric, entries) for metric in rules.metrics),
    )


def compare(metric: Metric, entries: Entries) -> Comparison:
    """Compare one metric of the users who entered."""
    pairs = pair(entries, entries.observe(metric.observe(entries.calls)))
    payoffs = harm_payoffs(pairs.differences), noninferiority_payoffs(pairs.differences, metric.margin)
    harm, noninferiority = (EProcess().bet(payoff, pairs.block_ends) for payoff in payoffs)
    return Comparison(
        metric=metric,
        candidate=pairs.candidate,
        stable=pairs.stable,
        n_candidate=pairs.n_candidate,
        n_stable=pairs.n_stable,
        harm=harm,
        noninferiority=noninferiority,
    )


def share_out(entries: Entries, cohorts: Sequence[Cohort]) -> SampleRatio:
    """Return the evidence that users were not shared out as planned, tick by tick in the order of time."""
    keys = np.stack([entries.tick, entries.cohort], axis=1)
    ticks, at = np.unique(keys, axis=0, return_inverse=True)
    ours = np.bincount(at.reshape(-1)[entries.is_candidate], minlength=len(ticks))
    theirs = np.bincount(at.reshape(-1)[~entries.is_candidate], minlength=len(ticks))
    ratio = SampleRatio()
    for (_, cohort), n_candidate, n_stable in zip(ticks.tolist(), ours.tolist(), theirs.tolist(), strict=True):
        ratio = ratio.observe(cohorts[cohort].share, n_candidate, n_stable)
    return ratio


def _hold_limits(calls: pa.Table, ramp: Ramp, rules: RampRules, clock: Clock) -> tuple[LimitEvidence, ...]:
    # Since this step began: what a small share went well with must not hide what a larger one breaks.
    since, until = (pa.scalar(time, pa.timestamp("us", tz="UTC")) for time in (ramp.cohorts[-1].start, clock.now))
    in_step = pc.and_(pc.greater_equal(calls["time_utc"], since), pc.less(calls["time_utc"], until))
    by_candidate = pc.fill_null(pc.equal(calls["release_digest"], ramp.candidate), fill_value=False)
    mine = calls.filter(pc.and_(by_candidate, in_step))
    return hold_limits(mine, rules, rules.check_alpha / ramp.planned_steps)


def hold_limits(mine: pa.Table, rules: RampRules, alpha: float) -> tuple[LimitEvidence, ...]:
    """Hold the candidate's own calls against the fixed limits.

    Args:
        mine: Calls the candidate answered, with ``unit`` and the columns of errors and latency.
        rules: What it is held to.
        alpha: The chance to call one limit broken that is not, over all looks at these calls.
    """
    slow, units = slower_than("latency", rules.latency_ms, SLOW_SHARE), mine["unit"]
    return (
        hold_limit("errors", "failed calls", units, failures(mine), limit=rules.errors, alpha=alpha),
        hold_limit("latency", slow.words, units, slow.observe(mine), limit=SLOW_SHARE, alpha=alpha),
    )
