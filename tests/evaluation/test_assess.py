from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.evaluation.assess import MIN_SAMPLE, assess
from tasks.evaluation.evidence import (
    Baseline,
    Cost,
    Estimate,
    Evidence,
    estimate_mean,
    estimate_p95,
    estimate_share,
)
from tasks.evaluation.expectations import Gate
from tasks.evaluation.summary import Histogram, Summary
from tasks.monitors.verdict import Check, Outcome, worst
from tasks.release.model import Monitors

MONITORS = Monitors()
OPEN = Gate(success=True, n=812, expectations=12)
GOOD = Evidence(
    summary=Summary(n=812),
    errors=Estimate(value=0.01, low=0.005, high=0.02, n=812),
    latency_ms=Estimate(value=340.5, low=330, high=360, n=804),
    quality=Estimate(value=0.93, low=0.92, high=0.94, n=760),
    toxicity=Estimate(value=0.0, low=0.0, high=0.003, n=804),
    answers=804,
)


def check_of(evidence: Evidence, monitor: str, gate: Gate = OPEN) -> Check:
    (found,) = [check for check in assess(evidence, MONITORS, gate) if check.monitor == monitor]
    return found


def test_a_good_night_passes_every_monitor_in_words() -> None:
    checks = assess(GOOD, MONITORS, OPEN)
    assert worst(check.outcome for check in checks) is Outcome.PASS
    assert [check.statement for check in checks] == [
        "data: 12 of 12 expectations hold (n=812)",
        "p95 latency 340.5 ms <= limit 1000 ms (n=804)",
        "failed calls 1 % <= limit 5 % (n=812)",
        "toxic answers 0 % <= limit 10 % (n=804)",
        "mean quality 0.93 >= limit 0.7 (n=760)",
    ]


@pytest.mark.parametrize(
    ("change", "monitor", "outcome", "statement"),
    [
        (
            {"latency_ms": Estimate(value=1340, low=1200, high=1500, n=812)},
            "latency",
            Outcome.FAIL,
            "p95 latency 1340 ms > limit 1000 ms (n=812)",
        ),
        (
            {"latency_ms": Estimate(value=1010, low=980, high=1100, n=812)},
            "latency",
            Outcome.INCONCLUSIVE,
            "p95 latency 1010 ms > limit 1000 ms, but chance allows 980 ms (n=812)",
        ),
        (
            {"errors": Estimate(value=0.31, low=0.28, high=0.34, n=812)},
            "errors",
            Outcome.FAIL,
            "failed calls 31 % > limit 5 % (n=812)",
        ),
        (
            {"toxicity": Estimate(value=0.25, low=0.2, high=0.3, n=400)},
            "toxicity",
            Outcome.FAIL,
            "toxic answers 25 % > limit 10 % (n=400)",
        ),
        (
            {"quality": Estimate(value=0.03, low=0.02, high=0.04, n=760)},
            "quality",
            Outcome.FAIL,
            "mean quality 0.03 < limit 0.7 (n=760)",
        ),
        (
            {"quality": Estimate(value=0.69, low=0.65, high=0.73, n=760)},
            "quality",
            Outcome.INCONCLUSIVE,
            "mean quality 0.69 < limit 0.7, but chance allows 0.73 (n=760)",
        ),
        (
            {"quality": Estimate(value=0.02, low=0.01, high=0.03, n=MIN_SAMPLE - 1), "answers": MIN_SAMPLE - 1},
            "quality",
            Outcome.INCONCLUSIVE,
            "mean quality: 29 interactions < minimum 30 (n=29)",
        ),
        (
            {"latency_ms": None},
            "latency",
            Outcome.INCONCLUSIVE,
            "p95 latency: 0 interactions < minimum 30 (n=0)",
        ),
        (
            {"quality": Estimate(value=0.9, low=0.8, high=1, n=100), "answers": 804},
            "quality",
            Outcome.ERROR,
            "quality: 100 of 804 answers could be scored < minimum 50%, the judge needs their retrieved context",
        ),
        (
            {"cost": Cost(usd_per_day=120.5, coverage=1.0, n=812)},
            "cost",
            Outcome.FAIL,
            "cost 120.50 USD a day > budget 100.00 USD, 100.0% of calls priced (n=812)",
        ),
        (
            {"cost": Cost(usd_per_day=20, coverage=0.4, n=812)},
            "cost",
            Outcome.INCONCLUSIVE,
            "cost 20.00 USD a day <= budget 100.00 USD, 40.0% of calls priced (n=812)",
        ),
    ],
)
def test_verdict_and_message(change: dict[str, object], monitor: str, outcome: Outcome, statement: str) -> None:
    found = check_of(replace(GOOD, **change), monitor)  # type: ignore[arg-type]
    assert (found.outcome, found.statement) == (outcome, statement)


def test_a_value_on_the_limit_is_within_it() -> None:
    exact = Estimate(value=1000, low=990, high=1010, n=500)
    assert check_of(replace(GOOD, latency_ms=exact), "latency").outcome is Outcome.PASS
    edge = Estimate(value=0.7, low=0.6, high=0.8, n=500)
    assert check_of(replace(GOOD, quality=edge), "quality").outcome is Outcome.PASS


def test_no_interactions_are_inconclusive_and_no_pass() -> None:
    (only,) = assess(Evidence(summary=Summary()), MONITORS, replace(OPEN, n=0))
    assert (only.outcome, only.statement) == (
        Outcome.INCONCLUSIVE,
        "data: 0 interactions < minimum 1 (n=0)",
    )


def test_data_that_cannot_be_trusted_is_an_error_and_nothing_else_is_said() -> None:
    shut = Gate(success=False, n=812, expectations=12, failures=("status must be known: broken by 3 of 812 rows",))
    awful = replace(GOOD, quality=Estimate(value=0.0, low=0.0, high=0.0, n=800))
    (only,) = assess(awful, MONITORS, shut)
    assert only.outcome is Outcome.ERROR
    assert only.statement == "data: status must be known: broken by 3 of 812 rows (n=812)"


def lengths(seed: int, n: int, median: float = 100) -> Histogram:
    return Histogram.of(np.random.default_rng(seed).lognormal(np.log(median), 0.5, n))


def drifted(n: int, median: float, base: int = 2000) -> Check:
    baseline = Baseline(name="predecessor 0123", summary=Summary(n=base, question_chars=lengths(1, base)))
    summary = Summary(n=n, question_chars=lengths(2, n, median))
    return check_of(replace(GOOD, summary=summary, baseline=baseline), "drift")


def test_without_a_baseline_there_is_no_drift_check() -> None:
    assert "drift" not in [check.monitor for check in assess(GOOD, MONITORS, OPEN)]


def test_the_same_distribution_is_within_the_limit() -> None:
    found = drifted(800, 100)
    assert found.outcome is Outcome.PASS
    assert found.statement == "drift of question_chars 0.034 <= limit 0.200 (n=800, predecessor 0123 n=2000)"


def test_another_distribution_fails_with_its_p_value() -> None:
    found = drifted(800, 200)
    assert found.outcome is Outcome.FAIL
    assert found.value == pytest.approx(0.51, abs=0.05)
    assert "> limit 0.200, p 0.0010 <= 0.0020 (n=800, predecessor 0123 n=2000)" in found.statement


def test_a_distance_that_chance_can_make_is_inconclusive() -> None:
    found = drifted(100, 128, base=100)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.value is not None
    assert found.value > 0.2
    assert "> limit 0.200, p 0." in found.statement
    assert " > 0.0020 (n=100" in found.statement


def test_too_few_rows_for_drift_are_inconclusive() -> None:
    found = drifted(99, 500)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.statement == "drift: 99 comparable interactions < minimum 100 (n=99)"


class TestEstimates:
    def test_nothing_has_no_estimate(self) -> None:
        assert estimate_mean(np.array([np.nan])) is None
        assert estimate_p95(np.array([])) is None
        assert estimate_share(0, 0) is None

    def test_one_value_has_no_bound(self) -> None:
        one = estimate_mean(np.array([0.4]))
        assert one is not None
        assert (one.low, one.value, one.high, one.n) == (-np.inf, 0.4, np.inf, 1)

    def test_bounds_cover_the_truth_as_often_as_they_say(self) -> None:
        source, rounds = np.random.default_rng(4), 2000
        misses = np.zeros(3)
        for _ in range(rounds):
            mean = estimate_mean(source.beta(5, 1, 100))
            share = estimate_share(int(source.binomial(300, 0.05)), 300)
            p95 = estimate_p95(source.exponential(1.0, 300))
            assert mean is not None
            assert share is not None
            assert p95 is not None
            misses += [mean.high < 5 / 6, share.low > 0.05, p95.low > -np.log(0.05)]
        assert (misses / rounds < 0.075).all()
        assert (misses / rounds > 0.015).all()

    def test_p95_is_the_95th_percentile_of_what_is_known(self) -> None:
        found = estimate_p95(np.array([*range(1, 201), np.nan], dtype=np.float64))
        assert found is not None
        assert (found.value, found.n) == (pytest.approx(190.05), 200)
        assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("cost", "outcome", "statement"),
    [
        (
            Cost(usd_per_day=40, coverage=0.9, n=812, ceiling_usd_per_day=60.0),
            Outcome.PASS,
            (
                "cost 40.00 USD a day <= budget 100.00 USD, 90.0% of calls priced, 60.00 USD at most by the dearest "
                "call (n=812)"
            ),
        ),
        (
            Cost(usd_per_day=40, coverage=0.9, n=812, ceiling_usd_per_day=160.0),
            Outcome.INCONCLUSIVE,
            (
                "cost 40.00 USD a day <= budget 100.00 USD, 90.0% of calls priced, 160.00 USD at most by the dearest "
                "call (n=812)"
            ),
        ),
        (
            Cost(usd_per_day=0.0015, coverage=1.0, n=812),
            Outcome.PASS,
            "cost 0.0015 USD a day <= budget 100.00 USD, 100.0% of calls priced (n=812)",
        ),
    ],
)
def test_unpriced_calls_are_taken_to_be_as_dear_as_the_dearest(cost: Cost, outcome: Outcome, statement: str) -> None:
    found = check_of(replace(GOOD, cost=cost), "cost")
    assert (found.outcome, found.statement) == (outcome, statement)


def test_a_cost_that_nobody_knows_is_no_pass_and_one_that_could_not_be_measured_an_error() -> None:
    nothing = replace(GOOD, cost=Cost(usd_per_day=0, coverage=0.0, n=812))
    assert not [check for check in assess(nothing, Monitors(), OPEN) if check.monitor == "cost"]
    unpriced = next(check for check in assess(nothing, Monitors(cost_usd_per_day=50), OPEN) if check.monitor == "cost")
    assert (unpriced.outcome, unpriced.value, unpriced.statement) == (
        Outcome.INCONCLUSIVE,
        None,
        "cost: none of 812 calls has a price, not known to be <= budget 50.00 USD (n=812)",
    )
    broken = check_of(replace(GOOD, cost_problem="could not be measured: prices.yaml"), "cost")
    assert (broken.outcome, broken.statement) == (Outcome.ERROR, "cost: could not be measured: prices.yaml (n=812)")
