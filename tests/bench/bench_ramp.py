"""The analysis of a ramp beside what others decide by, on the same simulated ramps and on real outputs: one table.

Run it with ``python tests/bench/bench_ramp.py``; seeded, under three minutes on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count

import numpy as np
import pyarrow as pa
import ramp_peers as peers
import ramp_real as real
import ramp_simulation as sim
from scipy import stats

from tasks.release.analysis.eprocess import harm_payoffs
from tasks.release.analysis.judge import Ground, Situation, judge
from tasks.release.analysis.limits import sequence_factor
from tasks.release.analysis.matching import Clock
from tasks.release.analysis.measure import measure_ramp
from tasks.release.analysis.plan import forecast, forecast_noninferiority, of_shares
from tasks.release.analysis.policy import SLOW_SHARE
from tasks.release.analysis.ratio import TILTS, log_mean, log_ratios

SEED = 20_260_301
OURS = "llm-delivery"
HARM = -np.log(sim.RULES.check_alpha)
NOT_WORSE = -np.log(sim.RULES.noninferiority_alpha)
MISMATCH = -np.log(sim.RULES.ratio_alpha)
OFTEN = 10
"""Users of each arm between two looks where early looks are the trap."""
STREAM, PIECE = 10_000, 20
"""Requests a sample-ratio run sees, and how many between two looks."""

LATER = Clock(now=sim.START + timedelta(hours=2))

Row = tuple[str, str, str, str]


def share(flags: np.ndarray, digits: int = 1) -> str:
    """Return the share of true flags in percent."""
    return f"{100 * flags.mean():.{digits}f} %"


def first_at(hits: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, str]:
    """Return which ramps were ever hit, and the median size at the first hit over all ramps."""
    first = np.where(hits.any(axis=1), sizes[hits.argmax(axis=1)], np.inf)
    median = np.median(first)
    return hits.any(axis=1), f"{median:.0f}" if np.isfinite(median) else "never"


def limits_broken(levels: np.ndarray, limit: float) -> np.ndarray:
    """Return which ramps break a fixed limit at any look; one call a user."""
    bad = np.cumsum((levels[0] > 0).reshape(-1, len(sim.LOOKS), sim.LOOK).sum(axis=2), axis=1) / sim.LOOKS
    factors = np.array([sequence_factor(int(n), sim.RULES.check_alpha) for n in sim.LOOKS])
    error = np.sqrt(np.maximum(bad * (1 - bad) / (sim.LOOKS - 1), limit * (1 - limit) / sim.LOOKS))
    return (bad - error * factors > limit).any(axis=1)


def aa_rollbacks(rng: np.random.Generator, ramps: int, piece: int = 250) -> dict[str, np.ndarray]:
    """Return which ramps with nothing wrong are rolled back, by rule; all default metrics, correlated by user."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (OURS, "z", "z all", "sequence", "sequence all")}
    for _ in range(ramps // piece):
        hit = {name: np.zeros(piece, dtype=bool) for name in found}
        for name, levels in sim.draw_users(rng, piece):
            hit[OURS] |= (sim.log_e_paths(levels) >= HARM).any(axis=1)
            if name in sim.RATES:
                failed = np.cumsum((levels > 0).reshape(2, piece, -1, sim.LOOK).sum(axis=3), axis=2)
                z = peers.peeked_z(*failed, sim.LOOKS).any(axis=1)
                below = (peers.asymptotic_sequence(*failed, sim.LOOKS)[0] > 0).any(axis=1)
                hit["z all"], hit["sequence all"] = hit["z all"] | z, hit["sequence all"] | below
                if name == "success":
                    hit["z"], hit["sequence"] = z, below
                    hit[OURS] |= limits_broken(levels, sim.RULES.errors)
                elif name == "latency":
                    hit[OURS] |= limits_broken(levels, SLOW_SHARE)
        for name, flags in hit.items():
            found[name].append(flags)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def bench_aa(rng: np.random.Generator) -> Iterator[Row]:
    """False rollbacks where nothing is wrong."""
    found = aa_rollbacks(rng, 10_000)
    case = "nothing wrong: rolled back"
    yield case, f"{OURS}: 6 metrics + 2 limits", share(found[OURS], 2), "<= 5 %"
    yield case, "z-test 5 % at 50 looks, success / 4 metrics", f"{share(found['z'])} / {share(found['z all'])}", ""
    both = f"{share(found['sequence'])} / {share(found['sequence all'])}"
    yield case, "asymptotic sequence 5 %, success / 4 metrics", both, ""
    windows = rng.binomial(50, 0.10, size=(10_000, 12))
    fixed = [share(peers.fixed_threshold(windows, 50, 0.85, allowed)) for allowed in (0, 3)]
    yield case, "fixed threshold 85 %, 12 x 50, 0 / 3 failures allowed", " / ".join(fixed), ""
    yield case, "Kayenta, 60 min of 20 / 50 requests", kayenta_pair(rng, 0.90, 0.90), ""


def kayenta_pair(rng: np.random.Generator, control: float, experiment: float, runs: int = 100) -> str:
    """Return how often Kayenta fails a success rate over 60 minutes, at 20 and at 50 requests a minute."""

    def fails(size: int) -> bool:
        series = (rng.binomial(size, p, 60) / size for p in (control, experiment))
        return peers.kayenta(*series, direction="Decrease") == "Low"

    return " / ".join(share(np.array([fails(size) for _ in range(runs)])) for size in (20, 50))


def bench_detection(rng: np.random.Generator) -> Iterator[Row]:
    """How soon harm is found."""
    for stable, candidate, wanted in ((0.90, 0.85, ">= 95 %"), (0.90, 0.88, ""), (0.998, 0.990, "")):
        failures = sim.Failures.draw(rng, 5_000, 1 - candidate, 1 - stable)
        case = f"success {100 * stable:g} -> {100 * candidate:g} %: found by 5,000"
        hit, median = first_at(failures.log_e() >= HARM, sim.LOOKS)
        yield case, f"{OURS}, alpha / 8", f"{share(hit)}, median {median} per arm", wanted
        for words, alpha in (("alpha", 0.05), ("alpha / 8", sim.RULES.check_alpha)):
            low, _ = peers.asymptotic_sequence(failures.candidate, failures.stable, sim.LOOKS, alpha)
            hit, median = first_at(low > 0, sim.LOOKS)
            yield case, f"asymptotic sequence, {words}", f"{share(hit)}, median {median}", ""
        yield case, "Kayenta, 60 min of 20 / 50 requests", kayenta_pair(rng, stable, candidate), ""
    failures = sim.Failures.draw(rng, 5_000, 0.15, 0.10)
    z, median = first_at(peers.peeked_z(failures.candidate, failures.stable, sim.LOOKS), sim.LOOKS)
    yield "success 90 -> 85 %: found by 5,000", "z-test 5 % at 50 looks (invalid)", f"{share(z)}, median {median}", ""
    expected = forecast(of_shares(0.15, 0.10), harm_payoffs, sim.RULES.check_alpha, 1.0).units_per_arm
    yield "success 90 -> 85 %: forecast", OURS, f"{expected} per arm", "near the median"


def bench_noninferiority(rng: np.random.Generator) -> Iterator[Row]:
    """False and true findings of not worse."""
    traps = ((0.90, 0.85, 0.03), (0.98, 0.93, 0.03), (0.998, 0.990, 0.005))
    for stable, candidate, margin in traps:
        failures = sim.Failures.draw(rng, 5_000, 1 - candidate, 1 - stable, look=OFTEN)
        sizes = np.arange(OFTEN, sim.PER_ARM + 1, OFTEN)
        case = f"not worse by {100 * margin:g}, but {100 * stable:g} -> {100 * candidate:g} %"
        yield case, OURS, share((failures.log_e(margin) >= NOT_WORSE).any(axis=1), 2), "<= 1 %"
        _, high = peers.asymptotic_sequence(failures.candidate, failures.stable, sizes)
        passes = " / ".join(share((high < margin)[:, sizes >= least].any(axis=1)) for least in (OFTEN, 1000))
        yield case, f"asymptotic sequence, from n = {OFTEN} / 1,000", passes, ""
    edge = sim.Failures.draw(rng, 5_000, 0.13, 0.10, look=OFTEN)
    yield "not worse by 3, but worse by just that", OURS, share((edge.log_e(0.03) >= NOT_WORSE).any(axis=1)), "<= 5 %"
    for rate, margin in ((0.10, 0.03), (0.002, 0.005)):
        failures = sim.Failures.draw(rng, 5_000, rate, rate)
        hit, median = first_at(failures.log_e(margin) >= NOT_WORSE, sim.LOOKS)
        expected = forecast_noninferiority(of_shares(rate, rate), margin, sim.RULES, 1.0).units_per_arm
        case = f"not worse by {100 * margin:g}, both {100 - 100 * rate:g} %"
        yield case, OURS, f"{share(hit)}, median {median}, forecast {expected} per arm", ""


def ratio_paths(rng: np.random.Generator, runs: int, planned: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the log e-value and the two-sided p-value of Pearson's test at each look; shares are a look's."""
    ours = rng.binomial(PIECE, actual, size=(runs, len(planned)))
    gained = np.empty((runs, len(planned), len(TILTS)))
    for value in np.unique(planned):
        at = planned == value
        gained[:, at] = log_ratios(float(value), ours[:, at], PIECE - ours[:, at])
    expected, variance = np.cumsum(PIECE * planned), np.cumsum(PIECE * planned * (1 - planned))
    z = np.abs(np.cumsum(ours, axis=1) - expected) / np.sqrt(variance)
    return log_mean(np.cumsum(gained, axis=1)), 2 * stats.norm.sf(z)


def bench_ratio(rng: np.random.Generator) -> Iterator[Row]:
    """Sample ratio."""
    looks = STREAM // PIECE
    sizes = PIECE * np.arange(1, looks + 1)
    even, rising = np.full(looks, 0.5), np.repeat([0.01, 0.05, 0.1, 0.25, 0.5], looks // 5)
    for words, planned in (("50/50", even), ("1 to 50 %", rising)):
        log_e, p = ratio_paths(rng, 10_000, planned, planned)
        case = f"shared out as planned, {words}: alarm"
        yield case, OURS, share((log_e >= MISMATCH).any(axis=1), 2), "<= 1 %"
        alarms = (share((p < alpha).any(axis=1)) for alpha in (0.001, 0.01))
        yield case, f"chi-square at {looks} looks, p < .001 / .01", " / ".join(alarms), ""
    log_e, _ = ratio_paths(rng, 5_000, even, np.full(looks, 0.47))
    hit, median = first_at(log_e >= MISMATCH, sizes)
    yield "47/53 for 50/50: found by 10,000", OURS, f"{share(hit)}, median {median} requests", "4,140 or less"


def bench_logs(rng: np.random.Generator) -> Iterator[Row]:
    """Whole logs: users who call often and fail more, a trend, five steps; peaks stand for a look a minute."""
    for words, world in (("6,000 users", sim.World()), ("1,000 heavy users", sim.World(users=1_000, calls=24.0))):
        looks = np.array([look_both_ways(sim.draw_log(rng, world), str(number)) for number in range(150)])
        case = f"whole log, nothing wrong, {words}"
        for at, rule in enumerate((f"{OURS}, a user enters once", "the same e-values call by call (invalid)")):
            rolled_back, mis_shared, success = (share(looks[:, at, part]) for part in range(3))
            result = f"rolled back {rolled_back}, mis-shared {mis_shared}, success at 20 {success}"
            yield case, rule, result, "" if at else "<= 5 %, 1 %, 5 %"
    for words, world, ground in (
        ("5 points more failures", sim.World(harm=0.05), Ground.HARM),
        ("60 % of the candidate's calls lost", sim.World(lost=0.6), Ground.RATIO),
    ):
        grounds = [judge_log(sim.draw_log(rng, world), "s") for _ in range(40)]
        yield f"whole log, {words}", f"{OURS}: {ground}", share(np.array([item is ground for item in grounds])), ""


def look_both_ways(log: pa.Table, salt: str) -> list[tuple[bool, bool, bool]]:
    """Return, by users and by calls, whether a ramp is rolled back, mis-shared, and success alone reaches 20."""
    calls = pa.array([f"c{at}" for at in range(log.num_rows)])
    rows = log.set_column(log.schema.get_field_index("unit"), "unit", calls)
    looks = [measure_ramp(table, sim.make_ramp(salt), sim.RULES, LATER) for table in (log, rows)]
    return [
        (
            max(item.harm.log_peak for item in look.comparisons) >= HARM
            or any(limit.low > limit.limit for limit in look.limits),
            look.ratio.log_peak >= MISMATCH,
            look.comparisons[0].harm.log_peak >= np.log(20),
        )
        for look in looks
    ]


def judge_log(log: pa.Table, salt: str) -> Ground:
    """Return what decides a whole ramp at its end."""
    return judge(measure_ramp(log, sim.make_ramp(salt), sim.RULES, LATER), sim.RULES, Situation()).ground


def main() -> None:
    """Print the table."""
    started = time.perf_counter()
    parts: tuple[Callable[[np.random.Generator], Iterator[Row]], ...] = (
        bench_aa,
        bench_detection,
        bench_noninferiority,
        bench_ratio,
        bench_logs,
        real.bench_real,
    )
    print(f"{'case':<58} {'rule':<54} {'result':<64} wanted")  # noqa: T201
    for seed, part in zip(count(SEED), parts, strict=False):
        for row in part(np.random.default_rng(seed)):
            print(f"{row[0]:<58} {row[1]:<54} {row[2]:<64} {row[3]}", flush=True)  # noqa: T201
    print(f"\n{time.perf_counter() - started:.0f} s, seed {SEED}")  # noqa: T201


if __name__ == "__main__":
    main()
