"""The ramp: how a release's share grows, and what must hold at each look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from tasks.evaluation.assess import errors_limit, hold, latency_limit
from tasks.evaluation.evidence import estimate_p95, estimate_share
from tasks.evaluation.summary import failed_calls, numbers
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.model import Record, Release
from tasks.traffic.plan import BUCKETS

RAMP_COLUMNS = ("release_digest", "latency_ms", "status", "error_type")
"""The columns of the interaction log that a ramp is judged by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStep:
    """One step: the share to give, and whether it is watched before the next."""

    buckets: int
    watched: bool


class RampPolicy(Record):
    """How a release gets its users."""

    enabled: bool = Field(default=True, description="Off: all users at once, with nothing to stop it but the night.")
    percents: tuple[float, ...] = Field(
        default=(1, 5, 10, 25, 50, 100), min_length=1, max_length=100, description="Shares of users, rising to 100."
    )
    min_requests: int = Field(
        default=30, ge=1, le=10_000_000, description="Requests the release must have answered before a step ends."
    )
    min_step_s: float = Field(default=0.0, ge=0, le=604_800, description="Shortest time a step lasts, seconds.")
    max_step_s: float = Field(default=600.0, gt=0, le=604_800, description="Longest time; then the rollout is held.")
    look_s: float = Field(default=2.0, gt=0, le=3600, description="Time between two looks, seconds.")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        rising = all(a < b for a, b in zip(self.percents, self.percents[1:], strict=False))
        if not rising or self.percents[0] <= 0 or self.percents[-1] != 100:  # noqa: PLR2004 - percent
            raise ValueError(f"percents {self.percents} must rise from above 0 to 100")
        if self.min_step_s > self.max_step_s:
            raise ValueError(f"min_step_s {self.min_step_s:g} is above max_step_s {self.max_step_s:g}")
        return self

    def steps(self, current_buckets: int, *, alone: bool) -> tuple[RampStep, ...]:
        """Return the steps still to go through; a share the release already has is not gone back on.

        Args:
            current_buckets: How many the release has now.
            alone: No other release serves: there is nobody to compare with and nothing to go back to.
        """
        if alone or not self.enabled:
            return (RampStep(buckets=BUCKETS, watched=False),)
        counts = dict.fromkeys(max(1, round(percent * BUCKETS / 100)) for percent in self.percents)
        return tuple(RampStep(buckets=count, watched=True) for count in counts if count >= current_buckets)


def judge_step(
    release: Release, policy: RampPolicy, interactions: pa.Table, window_start: datetime, window_end: datetime
) -> Verdict:
    """Judge what a release answered since a step began, against the fixed limits of its monitors.

    Args:
        release: The release that ramps.
        policy: How many requests a step needs.
        interactions: What the application answered in the window, with ``RAMP_COLUMNS``.
        window_start: The first moment of the half-open window.
        window_end: The moment after it.
    """
    mine = interactions.filter(pc.equal(interactions["release_digest"], release.digest))
    failed = failed_calls(mine).combine_chunks()
    answered = mine.filter(pc.invert(failed))
    limits = release.spec.monitors
    share = estimate_share(mine.num_rows - answered.num_rows, mine.num_rows)
    p95 = estimate_p95(numbers(answered["latency_ms"]))
    return Verdict(
        application=release.application,
        release_digest=release.digest,
        window_start=window_start,
        window_end=window_end,
        checks=(
            hold(share, errors_limit(limits), floor=policy.min_requests),
            hold(p95, latency_limit(limits), floor=policy.min_requests),
        ),
    )


def is_settled(verdict: Verdict, elapsed_s: float, policy: RampPolicy) -> bool:
    """Return whether a step is over: failed, long enough with enough requests, or out of time."""
    if verdict.outcome is Outcome.FAIL or elapsed_s >= policy.max_step_s:
        return True
    return verdict.outcome is Outcome.PASS and elapsed_s >= policy.min_step_s
