"""The ramp: how a release's share grows, and what one look at it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from tasks.evaluation.summary import release_calls
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.analysis.cohorts import Ramp, form_cohorts
from tasks.release.analysis.judge import Decision, Situation, judge
from tasks.release.analysis.limits import sequence_factor
from tasks.release.analysis.matching import Clock
from tasks.release.analysis.measure import RampEvidence, hold_limits, measure_ramp
from tasks.release.analysis.metrics import Margins, default_metrics
from tasks.release.analysis.policy import AtTimeout, RampRules
from tasks.release.analysis.ratio import SampleRatio
from tasks.release.freeze import Freeze
from tasks.release.model import Record, Release, ReleaseSpec
from tasks.release.rollout import Rollout
from tasks.traffic.driver import Routed
from tasks.traffic.plan import BUCKETS, Plan, reassign

LOOK_COLUMNS = ("interaction_id", "unit", "bucket", "time_utc", "release_digest", "status", "error_type", "latency_ms")
"""The columns of the interaction log that a look rests on, without the scores."""
ROUTED_ALPHA = 0.001
"""Chance that what the data path saw is called a breach and is none; beside the alpha of the comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStep:
    """One step: the share to give, whether it is watched before the next, and whether it is the last comparison."""

    buckets: int
    watched: bool
    is_last: bool = False


class RampPolicy(Record):
    """How a release gets its users, and what it must show on the way."""

    enabled: bool = Field(default=True, description="Off: all users at once, with nothing to stop it but the night.")
    percents: tuple[float, ...] = Field(
        default=(1, 5, 10, 25, 50, 100), min_length=1, max_length=100, description="Shares of users, rising to 100."
    )
    min_requests: int = Field(default=30, ge=1, le=10_000_000, description="Requests of the release each step needs.")
    min_users: int = Field(default=50, ge=1, le=10_000_000, description="Users of each release a comparison needs.")
    min_step_s: float = Field(default=0.0, ge=0, le=604_800, description="Shortest time a step lasts, seconds.")
    max_step_s: float = Field(default=3600.0, gt=0, le=604_800, description="Longest time of a step, seconds.")
    look_s: float = Field(default=5.0, gt=0, le=3600, description="Time between two looks, seconds.")
    tick_s: float = Field(default=60.0, gt=0, le=86_400, description="Users are compared by when they came: seconds.")
    settle_s: float = Field(default=60.0, ge=0, le=86_400, description="How late a call may be logged, seconds.")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance to roll back a release that is not worse.")
    margins: Margins = Field(default=Margins(), description="How much worse would matter.")
    noninferiority: bool = Field(
        default=True, description="Before all users get it, show that it is not worse by the margins."
    )
    scores: bool = Field(default=True, description="Compare quality and toxicity too, not only errors and latency.")
    cost: bool = Field(
        default=False,
        description="Compare what a successful answer costs too, where stable's cost before the ramp is known.",
    )
    at_timeout: AtTimeout = Field(
        default=AtTimeout.HOLD, description="What to do when a step's time is up and nothing is shown either way."
    )
    extensions: int = Field(default=1, ge=0, le=100, description="How often a step may be extended.")
    approval: bool = Field(default=False, description="A person must approve before all users get it.")
    approval_s: float = Field(default=86_400.0, gt=0, le=2_592_000, description="How long to wait for that, seconds.")

    freezes: tuple[Freeze, ...] = Field(
        default=(), max_length=100, description="Times in which the release gets no more users than it has."
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        rising = all(a < b for a, b in zip(self.percents, self.percents[1:], strict=False))
        if not rising or self.percents[0] <= 0 or self.percents[-1] != 100:  # noqa: PLR2004 - percent
            raise ValueError(f"percents {self.percents} must rise from above 0 to 100")
        if self.min_step_s > self.max_step_s:
            raise ValueError(f"min_step_s {self.min_step_s:g} is above max_step_s {self.max_step_s:g}")
        if self.approval and (not self.enabled or self.counts() == (BUCKETS,)):
            without = f"percents {self.percents}" if self.enabled else "enabled: false"
            raise ValueError(
                f"approval: a person is asked at a share below 100 %, and {without} has none; allowed: no approval, or "
                f"a ramp with one, such as percents: [10, 100]"
            )
        return self

    def steps(self, current_buckets: int, *, alone: bool) -> tuple[RampStep, ...]:
        """Return the steps still to go through; a share the release already has is not gone back on.

        Nobody gets from a share to everybody unasked: one that the policy does not name is watched as its last step.

        Args:
            current_buckets: How many the release has now.
            alone: Nobody served when the rollout began: there is nobody to compare with and nothing to go back to.
        """
        if alone or not self.enabled:
            return (RampStep(buckets=BUCKETS, watched=False),)
        counts = tuple(count for count in self.counts() if count >= current_buckets)
        if counts == (BUCKETS,) and 0 < current_buckets < BUCKETS and (self.approval or self.noninferiority):
            counts = (current_buckets, BUCKETS)
        return tuple(
            RampStep(buckets=count, watched=True, is_last=counts[at + 1 : at + 2] == (BUCKETS,))
            for at, count in enumerate(counts)
        )

    def counts(self) -> tuple[int, ...]:
        """Return the shares as buckets, each once."""
        return tuple(dict.fromkeys(max(1, round(percent * BUCKETS / 100)) for percent in self.percents))

    def rules(self, release: Release, stable_cost_pusd: float | None = None) -> RampRules:
        """Return what a release is held to on its ramp."""
        return self.rules_of(release.spec, stable_cost_pusd)

    def rules_of(self, spec: ReleaseSpec, stable_cost_pusd: float | None = None) -> RampRules:
        """Return what a release will be held to, as its file says.

        Args:
            spec: The release.
            stable_cost_pusd: What a successful answer of stable cost before the ramp; None: cost is not compared.
        """
        limits = spec.monitors
        return RampRules(
            metrics=default_metrics(
                latency_limit_ms=limits.latency_ms,
                stable_cost_pusd=stable_cost_pusd,
                is_scored=self.scores,
                margins=self.margins,
            ),
            # A limit of none at all, or of all, is no share that chance could be weighed against.
            errors=min(max(limits.errors, 1e-6), 1 - 1e-6),
            latency_ms=limits.latency_ms,
            alpha=self.alpha,
            min_units=self.min_users,
            min_requests=self.min_requests,
        )


def judge_shared(
    release: Release,
    *,
    rollout: Rollout,
    policy: RampPolicy,
    plans: Sequence[Plan],
    calls: pa.Table,
    now: datetime,
    situation: Situation,
    stable_cost_pusd: float | None = None,
) -> Decision:
    """Judge a step that shares the users between the release and the stable one.

    Args:
        release: The release that ramps.
        rollout: Its rollout.
        policy: What it must show.
        plans: The plan before the ramp and those of its steps so far, the oldest first.
        calls: The log since the first step: ``LOOK_COLUMNS`` and, where they are compared, ``quality`` and
            ``toxicity``, and ``cost_pusd``.
        now: The moment of the look, UTC.
        situation: What people want.
        stable_cost_pusd: What a successful answer of stable cost before the ramp; None: cost is not compared.
    """
    rules, ramp = policy.rules(release, stable_cost_pusd), _ramp(rollout, policy, plans)
    clock = Clock(now=now, tick_s=policy.tick_s, settle_s=policy.settle_s)
    return judge(measure_ramp(release_calls(calls), ramp, rules, clock), rules, situation)


def judge_alone(
    release: Release, *, policy: RampPolicy, calls: pa.Table, since: datetime, now: datetime, situation: Situation
) -> Decision:
    """Judge the step that gave the release every user: there is nobody to compare with, the fixed limits hold."""
    rules = policy.rules(release)
    own = pc.fill_null(pc.equal(calls["release_digest"], release.digest), fill_value=False)
    mine = release_calls(calls.filter(own))
    evidence = RampEvidence(
        application=release.application,
        release_digest=release.digest,
        window_start=since,
        window_end=now,
        limits=hold_limits(mine, rules, rules.check_alpha),
        ratio=SampleRatio(),
        comparisons=(),
    )
    decision = judge(evidence, rules, situation)
    checks = tuple(check for check in decision.verdict.checks if check.monitor != "ratio")
    return replace(decision, verdict=replace(decision.verdict, checks=checks))


def with_routed(decision: Decision, seen: Routed, policy: RampPolicy, release: Release, elapsed_s: float) -> Verdict:
    """Return the verdict with what the data path saw: a release that crashes or hangs logs nothing itself.

    Args:
        decision: What the log came to.
        seen: What the data path saw since the watch of the step began.
        policy: How many requests are enough.
        release: Whose limits.
        elapsed_s: How long the watch has lasted, seconds.
    """
    check = _check_waiting(seen, policy, release, elapsed_s) or _check_routed(seen, policy, release)
    return replace(decision.verdict, checks=(check, *decision.verdict.checks))


def _check_waiting(seen: Routed, policy: RampPolicy, release: Release, elapsed_s: float) -> Check | None:
    """Return a failure where far more requests wait than a release within its latency limit would let wait."""
    if not seen.is_up:
        return _routed(Outcome.FAIL, "the data path cannot reach the release", None, None, seen.requests)
    begun = seen.requests + seen.waiting
    # Little's law, with room for bursts: as many wait as come while one is answered.
    allowed = 10 + 3 * begun / max(elapsed_s, 1.0) * release.spec.monitors.latency_ms / 1000
    if begun < policy.min_requests or seen.waiting <= allowed:
        return None
    statement = f"requests that wait {seen.waiting} > {allowed:.0f} that may at this rate (n={begun} at the data path)"
    return _routed(Outcome.FAIL, statement, seen.waiting, allowed, begun)


def _check_routed(seen: Routed, policy: RampPolicy, release: Release) -> Check:
    bad, n, limit = seen.failed + seen.unanswered, seen.requests, release.spec.monitors.errors
    if n < policy.min_requests:
        statement = f"requests routed: {n} < minimum {policy.min_requests}"
        return _routed(Outcome.INCONCLUSIVE, statement, None, limit, n)
    share = bad / n
    # As in analysis/limits.py: never surer than a release exactly on its limit would let one be.
    spread = max(share * (1 - share), limit * (1 - limit), 1e-9)
    low = share - sequence_factor(n, ROUTED_ALPHA) * (spread / n) ** 0.5
    outcome = Outcome.PASS if share <= limit else Outcome.FAIL if low > limit else Outcome.INCONCLUSIVE
    doubt = f", but chance allows {max(low, 0):.1%}" if outcome is Outcome.INCONCLUSIVE else ""
    statement = (
        f"requests it did not answer {share:.1%} {'<=' if share <= limit else '>'} limit {limit:.1%}{doubt} "
        f"({seen.failed} failed, {seen.unanswered} given up, n={n} at the data path)"
    )
    return _routed(outcome, statement, share, limit, n)


def _routed(outcome: Outcome, statement: str, value: float | None, limit: float | None, n: int) -> Check:
    return Check(monitor="routed", outcome=outcome, statement=statement, value=value, limit=limit, n=n)


def ramp_plans(history: Sequence[Plan], digest: str) -> tuple[Plan, ...]:
    """Return the plan before a release first got users, and those of its ramp below 100 %, the oldest first.

    Args:
        history: The plans of the application, the newest first.
        digest: The release that ramps.
    """
    ramp: list[Plan] = []
    for plan in history:
        ramp.insert(0, plan)
        if digest not in plan.counts():
            break
    return tuple(plan for plan in ramp if plan.counts().get(digest, 0) < BUCKETS)


def _ramp(rollout: Rollout, policy: RampPolicy, plans: Sequence[Plan]) -> Ramp:
    candidate, stable = rollout.release_digest, rollout.stable_digest
    owners = [plan.buckets for plan in plans]
    for count in policy.counts():
        if owners[-1].count(candidate) < count < BUCKETS:
            owners.append(reassign(owners[-1], {candidate: count, stable: BUCKETS - count}, plans[-1].salt))
    starts = [plan.time for plan in plans[1:]]
    return Ramp(
        application=rollout.application,
        candidate=candidate,
        stable=stable,
        cohorts=form_cohorts(owners, starts, candidate=candidate, stable=stable),
        planned_steps=len(owners) - 1,
        salt=rollout.rollout_id,
    )
