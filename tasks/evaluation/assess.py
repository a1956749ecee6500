"""From evidence to checks: what was measured, held against the limits of the release.

Every monitor with a fixed limit follows one rule. Within the limit is a pass. Beyond it is a failure when the whole
one-sided 95 % bound is beyond it too; otherwise chance may have done it, and the check is inconclusive. So a
release whose true value lies on the limit fails one night in twenty at most, and one well beyond it fails at once.
The calls of one user are alike; the bounds take them together, so what one user meets who makes most of the calls does
not fail the release, and what everybody meets does. Drift and added scorers, whose numbers do not know the users, fail
nothing where one user made most of the calls.
Fewer than ``MIN_SAMPLE`` values are inconclusive, whatever they say; none are never a pass.

Drift has no check where the release has no baseline: nothing was compared, and the report says so. A baseline that is
there and cannot be used is an error. A day's budget is held against whole UTC days: what a part of one cost fails where
it is beyond the budget already and passes where a whole day like it would. Where no call has a price, a budget that the
release file names is inconclusive, and the usual one is not held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tasks.drift.distance import ALPHA, JUDGED, MIN_ROWS, compare
from tasks.evaluation.evidence import Estimate, Evidence
from tasks.evaluation.expectations import Gate
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Monitors

MIN_SAMPLE: Final = 30
MIN_SCORED: Final = 0.5
"""A mean over fewer than this share of the answers speaks for too few of them."""
_OF_DAY: Final = {"day": "a day", "days": "on the dearest day", "part": "in a part of a day"}
USUAL_BUDGET: Final = Monitors().cost_usd_per_day
MAX_CONCENTRATION: Final = 0.5
"""Where one user makes this share of the calls or more, the numbers are that user's."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How one monitor is held against its limit, and how its numbers are written.

    Attributes:
        monitor: Its name.
        words: What the value is, for people.
        limit: In the unit of the value.
        write: Writes a value with its unit.
        highest: Whether the limit is the highest value allowed, or the lowest.
    """

    monitor: str
    words: str
    limit: float
    write: Callable[[float], str]
    highest: bool = True


def assess(evidence: Evidence, monitors: Monitors, gate: Gate, coverage: Check | None = None) -> tuple[Check, ...]:
    """Hold the evidence on one release against its limits.

    Args:
        evidence: What was measured.
        monitors: The limits of the release.
        gate: Whether the window can be trusted. If not, only that is said: an error, no conclusion.
        coverage: Whether the window has the hours it usually has; None where nothing is usual yet.

    Returns:
        The checks, the one of the data first; drift, cost, coverage and concentration only where they were measured.
    """
    n = evidence.summary.n
    covered = (coverage,) if coverage is not None else ()
    if not gate.success:
        statement = f"data: {'; '.join(gate.failures)} (n={gate.n})"
        return (_check("data", Outcome.ERROR, statement, n=gate.n),)
    if n == 0:
        return (_check("data", Outcome.INCONCLUSIVE, "data: 0 interactions < minimum 1 (n=0)", n=0), *covered)
    statement = f"data: {gate.expectations} of {gate.expectations} expectations hold (n={gate.n})"
    concentration = _concentration(evidence)
    one_users = any(check.outcome is not Outcome.PASS for check in concentration)
    return (
        _check("data", Outcome.PASS, statement, n=gate.n),
        *covered,
        *concentration,
        hold(evidence.latency_ms, latency_limit(monitors)),
        hold(evidence.errors, errors_limit(monitors)),
        _toxicity(evidence, monitors.toxicity),
        _quality(evidence, monitors.quality),
        *(_doubt(check) if one_users else check for check in check_drift(evidence, monitors.drift)),
        *_cost(evidence, monitors.cost_usd_per_day),
        *(_doubt(check) if one_users else check for check in evidence.scorer_checks),
    )


def latency_limit(monitors: Monitors) -> Limit:
    """Return how the 95th percentile of latency is held against its limit."""
    return Limit("latency", "p95 latency", monitors.latency_ms, _ms)


def errors_limit(monitors: Monitors) -> Limit:
    """Return how the share of failed calls is held against its limit."""
    return Limit("errors", "failed calls", monitors.errors, _percent)


def hold(estimate: Estimate | None, limit: Limit, floor: int = MIN_SAMPLE) -> Check:
    """Hold one estimate against its limit by the rule of this module.

    Args:
        estimate: What was measured, None where there was nothing to measure.
        limit: The limit, in the unit of the estimate.
        floor: Fewer values than this are inconclusive.
    """
    if estimate is None or estimate.n < floor:
        n = estimate.n if estimate else 0
        statement = f"{limit.words}: {n} interactions < minimum {floor} (n={n})"
        value = estimate.value if estimate else None
        return _check(limit.monitor, Outcome.INCONCLUSIVE, statement, value=value, limit=limit.limit, n=n)
    value, bound = estimate.value, estimate.low if limit.highest else estimate.high
    within = value <= limit.limit if limit.highest else value >= limit.limit
    beyond = bound > limit.limit if limit.highest else bound < limit.limit
    outcome = Outcome.PASS if within else Outcome.FAIL if beyond else Outcome.INCONCLUSIVE
    sign = ("<=" if limit.highest else ">=") if within else (">" if limit.highest else "<")
    doubt = f", but chance allows {limit.write(bound)}" if outcome is Outcome.INCONCLUSIVE else ""
    statement = f"{limit.words} {limit.write(value)} {sign} limit {limit.write(limit.limit)}{doubt} (n={estimate.n})"
    return _check(limit.monitor, outcome, statement, value=value, limit=limit.limit, n=estimate.n)


def _quality(evidence: Evidence, lowest: float) -> Check:
    scored = evidence.quality.n if evidence.quality else 0
    if evidence.answers >= MIN_SAMPLE and scored < MIN_SCORED * evidence.answers:
        statement = (
            f"quality: {scored} of {evidence.answers} answers could be scored < minimum {MIN_SCORED:.0%}, "
            "the judge needs their retrieved context"
        )
        return _check("quality", Outcome.ERROR, statement, limit=lowest, n=scored)
    return hold(evidence.quality, Limit("quality", "mean quality", lowest, _plain, highest=False))


def _toxicity(evidence: Evidence, highest: float) -> Check:
    if evidence.toxicity_problem:
        n = evidence.toxicity.n if evidence.toxicity else 0
        statement = f"toxicity: {evidence.toxicity_problem}"
        return _check("toxicity", Outcome.ERROR, statement, limit=highest, n=n)
    return hold(evidence.toxicity, Limit("toxicity", "toxic answers", highest, _percent))


def check_drift(evidence: Evidence, limit: float) -> tuple[Check, ...]:
    """Hold the distance from the baseline against its limit, with what was said of the texts; nothing without one."""
    if evidence.baseline_problem:
        statement = f"drift: {evidence.baseline_problem} (n={evidence.summary.n})"
        return (_check("drift", Outcome.ERROR, statement, limit=limit, n=evidence.summary.n),)
    if evidence.baseline is None:
        return evidence.drift.checks
    distances = compare(evidence.summary, evidence.baseline.summary)
    if not distances:
        rows = min(evidence.summary.n, evidence.baseline.summary.n)
        statement = f"drift: {rows} comparable interactions < minimum {MIN_ROWS} (n={evidence.summary.n})"
        few = _check("drift", Outcome.INCONCLUSIVE, statement, limit=limit, n=evidence.summary.n)
        return (few, *evidence.drift.checks)
    share = ALPHA / len(JUDGED)
    beyond = [distance for distance in distances if distance.distance > limit]
    certain = [distance for distance in beyond if distance.p_value <= share]
    worst = (certain or beyond or distances)[0]
    outcome = Outcome.FAIL if certain else Outcome.INCONCLUSIVE if beyond else Outcome.PASS
    chance = f", p {worst.p_value:.4f} {'<=' if certain else '>'} {share:.4f}" if beyond else ""
    statement = (
        f"drift of {worst.column} {worst.distance:.3f} {'>' if beyond else '<='} limit {limit:.3f}{chance} "
        f"(n={worst.n}, {evidence.baseline.name} n={worst.n_baseline})"
    )
    numbers = _check("drift", outcome, statement, value=worst.distance, limit=limit, n=worst.n)
    return (numbers, *evidence.drift.checks)


def _concentration(evidence: Evidence) -> tuple[Check, ...]:
    found = evidence.concentration
    if found is None or found.n < MIN_SAMPLE:
        return ()
    beyond = found.share >= MAX_CONCENTRATION
    limit = f"{'>=' if beyond else '<'} limit {_percent(MAX_CONCENTRATION)}"
    statement = f"one user made {_percent(found.share)} of the calls {limit} (n={found.n}, {found.users} users)"
    outcome = Outcome.INCONCLUSIVE if beyond else Outcome.PASS
    one = _check("concentration", outcome, statement, value=found.share, limit=MAX_CONCENTRATION, n=found.n)
    return (one,)


def _doubt(check: Check) -> Check:
    """Return a check of calls that one user made most of: whom a release fails for is no longer known."""
    if check.outcome is not Outcome.FAIL:
        return check
    at = check.statement.rfind(" (n=")
    said, n = (check.statement[:at], check.statement[at:]) if at >= 0 else (check.statement, "")
    return replace(check, outcome=Outcome.INCONCLUSIVE, statement=f"{said}, but one user made most of the calls{n}")


def _cost(evidence: Evidence, limit: float) -> tuple[Check, ...]:
    """Hold a day's cost against its budget: what is known decides a failure, what is unknown may prevent a pass."""
    if evidence.cost_problem:
        statement = f"cost: {evidence.cost_problem} (n={evidence.summary.n})"
        return (_check("cost", Outcome.ERROR, statement, limit=limit, n=evidence.summary.n),)
    cost = evidence.cost
    if cost is None:
        return ()
    if cost.coverage == 0:
        if limit == USUAL_BUDGET:
            return ()  # nobody asked for it: a model of one's own has no price
        unknown = f"cost: none of {cost.n} calls has a price, not known to be <= budget {_usd(limit)} USD (n={cost.n})"
        return (_check("cost", Outcome.INCONCLUSIVE, unknown, limit=limit, n=cost.n),)
    held = cost.usd_per_day if cost.dearest_day_usd is None else cost.dearest_day_usd
    ceiling = cost.ceiling_usd_per_day
    beyond, covered = held > limit, cost.coverage >= 1 or (ceiling is not None and ceiling <= limit)
    passes = covered and (cost.span != "part" or cost.usd_per_day <= limit)  # a day at that rate
    outcome = Outcome.FAIL if beyond else Outcome.PASS if passes else Outcome.INCONCLUSIVE
    most = "" if cost.coverage >= 1 or ceiling is None else f", {_usd(ceiling)} USD at most by the dearest call"
    statement = (
        f"cost {_usd(held)} USD {_OF_DAY[cost.span]} {'>' if beyond else '<='} budget {_usd(limit)} USD, "
        f"{cost.coverage:.1%} of calls priced{most} (n={cost.n})"
    )
    return (_check("cost", outcome, statement, value=held, limit=limit, n=cost.n),)


def _check(
    monitor: str,
    outcome: Outcome,
    statement: str,
    *,
    n: int,
    value: float | None = None,
    limit: float | None = None,
) -> Check:
    return Check(monitor=monitor, outcome=outcome, statement=statement, value=value, limit=limit, n=n)


def _ms(value: float) -> str:
    return f"{round(value, 1):.10g} ms"


def _usd(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _plain(value: float) -> str:
    return f"{value:.4g}"
