"""Shadow by replay: which logged inputs are sent to a candidate, and how its answers compare with those on record.

The inputs are drawn by strata: failed calls and long inputs are rare, and are what candidates break on. So each pair
carries the weight of its stratum, and an effect is that of the traffic, not of the sample. A pair is one input; inputs
of one user are not independent, so the error is that of sums over users. Shares and scores get two pairs more, one
for each side, as in ``experiment.py``: a sample without a single difference has no variance.

Only what was logged can be replayed: the last message of a user, not the conversation before it. Each answer is judged
by the passage it rests on: a release tells probes what it retrieved. One that does not (an endpoint, an older server)
is judged by the passage on record, and too low where it found another: so *better* and *no difference* hold, and
*worse* holds only beyond ``passage_share``, what other passages may explain. Latency is an indication: the load is
another.

References: Cochran, Sampling Techniques (1977), for weights and ratios; Agresti & Min (2005) for the two pairs more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from tasks.evaluation.summary import numbers
from tasks.experiments.design import MetricName
from tasks.experiments.experiment import Finding, Outcome, holm
from tasks.release.model import Record

Numbers = NDArray[np.float64]
FAILED, LONG, REST = "failed", "long", "rest"
STRATA: Final = (FAILED, LONG, REST)
LONG_SHARE: Final = 0.1
"""The longest tenth of the inputs that did not fail is a stratum."""
RARE_SHARE: Final = 0.2
"""Of the sample, for each stratum but the rest, as far as it has calls."""


class ShadowPolicy(Record):
    """How many inputs are replayed, how fast, what it may cost, and what decides."""

    sample: int = Field(default=400, ge=1, le=100_000, description="Most requests: one an input.")
    concurrency: int = Field(default=2, ge=1, le=64, description="How many requests wait for an answer at once.")
    rate_per_s: float = Field(default=10.0, gt=0, le=1000, description="Most requests begun in a second.")
    timeout_s: float = Field(default=30.0, gt=0, le=600, description="How long one may take, seconds.")
    max_cost_usd: Decimal | None = Field(
        default=Decimal(5), gt=0, max_digits=18, decimal_places=6, description="No request begins beyond this cost."
    )
    min_pairs: int = Field(default=30, ge=2, le=100_000, description="Pairs that a comparison needs.")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance to call anything different that is not.")
    decides: tuple[MetricName, ...] = Field(
        default=("success", "quality", "toxicity", "missing"),
        min_length=1,
        description="What the verdict rests on; the others are shown. Latency should not: the load is another.",
    )
    passage_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description=(
            "Counts only for answers that come without the passage they rest on, which are judged by the one on "
            "record: the share of inputs for which that may be the wrong one. A loss of quality up to it is not called "
            "worse. 0 where passages come with the input."
        ),
    )
    seed: int = Field(default=0, ge=0, le=2**31, description="Which inputs of a stratum are drawn.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Which inputs are replayed.

    Attributes:
        chosen: Rows of the calls, in the order they are sent.
        strata: The stratum of each.
        weights: The share of the traffic each stands for; they add up to 1.
        found, taken: Calls of each stratum, and how many of them were drawn.
    """

    chosen: tuple[int, ...]
    strata: tuple[str, ...]
    weights: Numbers
    found: dict[str, int]
    taken: dict[str, int]


def draw(ids: Sequence[str], failed: NDArray[np.bool_], letters: NDArray[np.int64], size: int, seed: int) -> Drawn:
    """Draw the inputs to replay.

    Args:
        ids: The interactions.
        failed: Whether each went wrong.
        letters: The length of each input.
        size: How many to draw; all of them where there are no more.
        seed: The same seed draws the same.
    """
    names = _strata(failed, letters)
    order = sorted(range(len(ids)), key=lambda at: (xxhash.xxh64_intdigest(f"{seed}:{ids[at]}".encode()), ids[at]))
    members = {name: [at for at in order if names[at] == name] for name in STRATA}
    taken = _allot({name: len(found) for name, found in members.items()}, size)
    rank = {at: number for number, at in enumerate(order)}
    chosen = sorted((at for name in STRATA for at in members[name][: taken[name]]), key=rank.__getitem__)
    weights = np.array([len(members[names[at]]) / taken[names[at]] / len(ids) for at in chosen], dtype=np.float64)
    return Drawn(
        chosen=tuple(chosen),
        strata=tuple(names[at] for at in chosen),
        weights=weights,
        found={name: len(found) for name, found in members.items()},
        taken=taken,
    )


def _strata(failed: NDArray[np.bool_], letters: NDArray[np.int64]) -> list[str]:
    fine = letters[~failed]
    limit = np.quantile(fine, 1 - LONG_SHARE) if len(fine) else 0
    return [FAILED if bad else LONG if length > limit else REST for bad, length in zip(failed, letters, strict=True)]


def _allot(found: dict[str, int], size: int) -> dict[str, int]:
    taken = {name: min(found[name], math.ceil(size * RARE_SHARE)) for name in (FAILED, LONG)}
    if sum(taken.values()) > size:  # a sample of one or two
        taken = {FAILED: min(taken[FAILED], size), LONG: max(0, size - taken[FAILED])}
    taken[REST] = min(found[REST], size - sum(taken.values()))
    for name in (LONG, FAILED):
        taken[name] += min(found[name] - taken[name], size - sum(taken.values()))
    return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedEffect:
    """The candidate against the log in one metric.

    Attributes:
        outcome: What is compared.
        decides: Whether the verdict rests on it.
        n: Pairs in which both values are known.
        logged, candidate: Weighted means; NaN without any.
        effect, low, high: The weighted mean difference and its 95 % interval; relative where the metric is.
        p_value, p_holm: Two-sided, by Student's t over users; alone and over the metrics that decide.
        n_better, n_worse: Pairs in which the candidate does better, and worse.
        p_sign: Of the exact sign test on these, unweighted.
        finding: What it came to.
        because: Why nothing could be compared; empty where it could.
        note: What the finding allows for; mostly empty.
    """

    outcome: Outcome
    decides: bool
    n: int
    logged: float = math.nan
    candidate: float = math.nan
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    p_holm: float = math.nan
    n_better: int = 0
    n_worse: int = 0
    p_sign: float = math.nan
    finding: Finding = Finding.OPEN
    because: str = ""
    note: str = ""


def compare_pairs(
    logged: pa.Table, candidate: pa.Table, weights: Numbers, outcomes: Sequence[Outcome], policy: ShadowPolicy
) -> tuple[PairedEffect, ...]:
    """Compare the answers of a candidate with those on record, input by input.

    Args:
        logged: What was answered: ``unit``, ``status``, ``error_type``, ``latency_ms``, ``quality``, ``toxicity``,
            ``cost_pusd``; NULL is unknown.
        candidate: The same of the candidate, in the same order.
        weights: The share of the traffic each pair stands for.
        outcomes: What they are compared by.
        policy: What decides, and when it is enough.

    Returns:
        One effect a metric, in their order.
    """
    users = _users(logged["unit"])
    effects = [
        _compare(outcome, outcome.observe(logged), outcome.observe(candidate), weights, users, policy)
        for outcome in outcomes
    ]
    corrected = iter(holm([effect.p_value for effect in effects if effect.decides]))
    corrected_all = [next(corrected) if effect.decides else effect.p_value for effect in effects]
    found = (replace(effect, p_holm=p) for effect, p in zip(effects, corrected_all, strict=True))
    return tuple(_allow_for_passages(_conclude(effect, policy.alpha), policy.passage_share) for effect in found)


def pair_differences(logged: pa.Table, candidate: pa.Table, outcomes: Sequence[Outcome]) -> Numbers:
    """Return how much worse the candidate's answer is, one a pair: the largest loss over the outcomes; NaN: unknown."""
    losses = []
    for outcome in outcomes:
        change = outcome.observe(candidate) - outcome.observe(logged)
        losses.append(-change if outcome.is_good else change)
    return np.asarray(np.fmax.reduce(losses), dtype=np.float64)


def _compare(  # noqa: PLR0917 - all of one comparison
    outcome: Outcome,
    logged: Numbers,
    candidate: Numbers,
    weights: Numbers,
    users: NDArray[np.int64],
    policy: ShadowPolicy,
) -> PairedEffect:
    from scipy import stats

    known = ~(np.isnan(logged) | np.isnan(candidate))
    first, second, share = logged[known], candidate[known], weights[known]
    found = PairedEffect(outcome=outcome, decides=outcome.name in policy.decides, n=int(known.sum()))
    if found.n:
        share = share / share.sum()
        found = replace(found, logged=float(share @ first), candidate=float(share @ second))
    if found.n < policy.min_pairs:
        return replace(found, because=f"{found.n} pairs < minimum {policy.min_pairs}")
    if outcome.is_relative and found.logged <= 0:
        return replace(found, because="the mean on record is 0: nothing to relate to")
    change = second - first
    gains = change if outcome.is_good else -change
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    p_sign = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return _with_interval(
        replace(found, n_better=better, n_worse=worse, p_sign=p_sign), change, first, share, users[known]
    )


def _with_interval(
    found: PairedEffect, change: Numbers, first: Numbers, share: Numbers, users: NDArray[np.int64]
) -> PairedEffect:
    from scipy import stats

    effect, more = float(share @ change), 0.0
    if found.outcome.is_relative:
        effect /= found.logged
        residuals = share * (change - effect * first) / found.logged
    else:
        residuals = share * (change - effect)
        more = float(share.mean()) ** 2  # two pairs more, one for each side: Agresti & Min
    sums = np.bincount(users, weights=residuals)[np.unique(users)]
    n_users = len(sums)
    deviation = math.sqrt(float(sums @ sums) * n_users / max(n_users - 1, 1) + more)
    freedom = max(n_users - 1, 1)
    reach = float(stats.t.ppf(0.975, freedom)) * deviation
    p_value = 2 * float(stats.t.sf(abs(effect) / deviation, freedom)) if deviation else float(effect == 0)
    return replace(found, effect=effect, low=effect - reach, high=effect + reach, p_value=p_value)


def _users(units: pa.ChunkedArray) -> NDArray[np.int64]:
    encoded = units.combine_chunks().dictionary_encode()
    who = np.array(numbers(pa.chunked_array([encoded.indices])), dtype=np.float64)
    nobody = np.isnan(who)
    who[nobody] = len(encoded.dictionary) + np.arange(int(nobody.sum()))
    return who.astype(np.int64)


def _conclude(found: PairedEffect, alpha: float) -> PairedEffect:
    if found.because:
        return found
    matters, finding = found.outcome.matters_from, Finding.OPEN
    if found.p_holm <= alpha and abs(found.effect) >= matters:
        finding = Finding.BETTER if (found.effect > 0) is found.outcome.is_good else Finding.WORSE
    elif -matters < found.low and found.high < matters:
        finding = Finding.SAME
    return replace(found, finding=finding)


def _allow_for_passages(found: PairedEffect, share: float) -> PairedEffect:
    if found.outcome.name != "quality" or found.finding is not Finding.WORSE or found.high < -share:
        return found
    return replace(found, finding=Finding.OPEN, note=f"other passages may explain up to {100 * share:g} points")
