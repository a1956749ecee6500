"""Simulated ramps: counts at each look for speed, and whole logs for truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from tasks.release.analysis.cohorts import Ramp, form_cohorts
from tasks.release.analysis.eprocess import harm_payoffs, log_factors, log_mixture, noninferiority_payoffs
from tasks.release.analysis.metrics import default_metrics
from tasks.release.analysis.policy import RampRules
from tasks.traffic.plan import BUCKETS, reassign

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

LOOK, PER_ARM = 100, 5_000
LOOKS = np.arange(LOOK, PER_ARM + 1, LOOK)
LEVELS = 40
"""Badness comes in fortieths, so that differences can be counted."""
DIFFERENCES = np.arange(-LEVELS, LEVELS + 1) / LEVELS
RATES = {"success": 0.10, "latency": 0.03, "toxicity": 0.02, "missing": 0.05}
SHARED = 0.6
"""Weight of what a user's metrics have in common."""

START = datetime(2026, 3, 1, tzinfo=UTC)
CANDIDATE, STABLE = "c" * 64, "5" * 64
STEP_S = 600
PERCENTS = (1, 5, 10, 25, 50)
METRICS = default_metrics(latency_limit_ms=1000, stable_cost_pusd=1000.0)
RULES = RampRules(metrics=METRICS, errors=0.15, latency_ms=1000)


# --- counts at each look ---


def draw_users(rng: np.random.Generator, ramps: int) -> Iterator[tuple[str, Counts]]:
    """Yield each default metric with its badness in fortieths, (2 arms, ramps, users), all alike in both arms."""
    size = (2, ramps, PER_ARM)
    common = rng.standard_normal(size, dtype=np.float32)
    for metric in METRICS:
        own = rng.standard_normal(size, dtype=np.float32)
        score = SHARED * common + np.sqrt(1 - SHARED**2, dtype=np.float32) * own
        if metric.name in RATES:
            bad = score > stats.norm.isf(RATES[metric.name])
            yield metric.name, bad.astype(np.int64) * LEVELS
        elif metric.name == "quality":
            yield metric.name, np.clip(np.rint(LEVELS * (0.25 + 0.2 * score)), 0, LEVELS).astype(np.int64)
        else:
            yield metric.name, np.minimum(np.rint(LEVELS / 4 * np.exp(0.7 * score - 0.245)), LEVELS).astype(np.int64)


def log_e_paths(levels: Counts, margin: float | None = None) -> Numbers:
    """Return the log e-value of each ramp at each look from levels of badness, (2 arms, ramps, users)."""
    difference = levels[0] - levels[1] + LEVELS
    ramps, values = difference.shape[0], 2 * LEVELS + 1
    look = np.arange(PER_ARM) // LOOK
    cell = (np.arange(ramps)[:, np.newaxis] * len(LOOKS) + look) * values + difference
    counts = np.bincount(cell.ravel(), minlength=ramps * len(LOOKS) * values).reshape(ramps, len(LOOKS), values)
    return _paths(counts, DIFFERENCES, margin)


def log_e_of_shares(candidate: Counts, stable: Counts, both: Counts, margin: float | None = None) -> Numbers:
    """Return the same from counts a look of pairs in which only one arm failed, or neither or both."""
    counts = np.stack([stable, both, candidate], axis=-1)
    return _paths(counts, np.array([-1.0, 0.0, 1.0]), margin)


def _paths(counts: Counts, differences: Numbers, margin: float | None) -> Numbers:
    payoffs = harm_payoffs(differences) if margin is None else noninferiority_payoffs(differences, margin)
    return log_mixture(np.cumsum(counts @ log_factors(payoffs), axis=1))


@dataclass(frozen=True, slots=True)
class Failures:
    """Failures of pairs of users a look: of the candidate only, of stable only, and of both or neither."""

    candidate_only: Counts
    stable_only: Counts
    same: Counts
    candidate: Counts
    stable: Counts

    @classmethod
    def draw(
        cls, rng: np.random.Generator, ramps: int, p_candidate: float, p_stable: float, *, look: int = LOOK
    ) -> Failures:
        """Draw what each look adds, until ``PER_ARM`` users of each arm."""
        worse, better = p_candidate * (1 - p_stable), p_stable * (1 - p_candidate)
        both = p_candidate * p_stable
        cells = rng.multinomial(look, [worse, better, both, 1 - worse - better - both], size=(ramps, PER_ARM // look))
        w, b, x, _ = np.moveaxis(cells, -1, 0)
        return cls(w, b, look - w - b, np.cumsum(w + x, axis=1), np.cumsum(b + x, axis=1))

    def log_e(self, margin: float | None = None) -> Numbers:
        """Return the log e-value of harm, or of non-inferiority by a margin, at each look."""
        return log_e_of_shares(self.candidate_only, self.stable_only, self.same, margin)


# --- whole logs ---


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Users, how they differ, and what the candidate does to them; those who call more fail more.

    Attributes:
        users: How many there are.
        calls: How often each calls in a ramp on average; some call a hundred times as often as others.
        harm: How much more of the candidate's calls fail.
        lost: Share of the candidate's calls that the log loses.
    """

    users: int = 6_000
    calls: float = 4.0
    harm: float = 0.0
    lost: float = 0.0


def ramp_plans() -> tuple[tuple[str, ...], ...]:
    """Return the release of each bucket before and at each step."""
    plans = [(STABLE,) * BUCKETS]
    for percent in PERCENTS:
        wanted = {CANDIDATE: percent * 10, STABLE: BUCKETS - percent * 10}
        plans.append(reassign(plans[-1], wanted, "salt"))
    return tuple(plans)


def make_ramp(salt: str, begun: int = len(PERCENTS)) -> Ramp:
    """Return the ramp after some of its steps have begun."""
    starts = [START + timedelta(seconds=STEP_S * at) for at in range(begun)]
    cohorts = form_cohorts(ramp_plans(), starts, candidate=CANDIDATE, stable=STABLE)
    return Ramp(
        application="faq", candidate=CANDIDATE, stable=STABLE, cohorts=cohorts, planned_steps=len(PERCENTS), salt=salt
    )


def draw_log(rng: np.random.Generator, world: World, plans: Sequence[Sequence[str]] | None = None) -> pa.Table:
    """Return the log of a whole ramp: heavy users who fail in their own way, and a trend that hits everybody."""
    owners = np.array([[digest == CANDIDATE for digest in plan] for plan in (plans or ramp_plans())[1:]])
    activity = rng.lognormal(0, 1.2, world.users)
    # One call in ten fails, one user in twenty of their calls: the mean over calls is that of the heavy ones.
    tendency = np.clip(rng.beta(0.4, 3.6, world.users) * 0.4 * activity**0.5, 0, 1)
    n = rng.poisson(world.users * world.calls)
    user = rng.choice(world.users, n, p=activity / activity.sum())
    time_s = np.sort(rng.uniform(0, STEP_S * len(PERCENTS), n))
    bucket = rng.integers(0, BUCKETS, world.users)[user]
    by_candidate = owners[(time_s // STEP_S).astype(int), bucket]
    trend = 0.03 * np.sin(time_s / 300) + world.harm * by_candidate
    failed = rng.random(n) < np.clip(tendency[user] + trend, 0, 1)
    noise = rng.standard_normal(n)
    table = pa.table(
        {
            "unit": pa.array([f"u{at}" for at in user]),
            "bucket": pa.array(bucket, pa.int32()),
            "time_utc": pa.array((START.timestamp() * 1e6 + time_s * 1e6).astype(np.int64), pa.timestamp("us", "UTC")),
            "release_digest": pa.array(np.where(by_candidate, CANDIDATE, STABLE)),
            "status": pa.array(np.where(failed, 500, 200), pa.int32()),
            "error_type": pa.nulls(n, pa.string()),
            "latency_ms": pa.array(300 * np.exp(0.5 * noise + tendency[user])),
            "quality": pa.array(np.clip(0.8 - tendency[user] + 0.1 * noise, 0, 1), mask=rng.random(n) < 0.05),
            "toxicity": pa.array(np.where(rng.random(n) < 0.1 * tendency[user], 0.9, 0.1)),
            "cost_pusd": pa.array((1000 * np.exp(0.6 * noise - 0.18)).astype(np.int64)),
        }
    )
    return table.filter(pa.array(~(by_candidate & (rng.random(n) < world.lost))))
