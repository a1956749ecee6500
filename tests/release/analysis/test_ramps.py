"""Whole ramps, simulated: the promises that the analysis makes, on fewer of them than the benchmark."""

from __future__ import annotations

from datetime import timedelta

import bench_ramp as bench
import numpy as np
import pyarrow as pa
import pytest
import ramp_simulation as sim

from tasks.monitors.verdict import Outcome
from tasks.release.analysis.eprocess import harm_payoffs
from tasks.release.analysis.judge import Ground, Situation, judge
from tasks.release.analysis.matching import Clock
from tasks.release.analysis.measure import RampEvidence, measure_ramp
from tasks.release.analysis.plan import Forecast, forecast, forecast_noninferiority, of_shares, of_spread


def measured(log: pa.Table, minutes: float = 120) -> RampEvidence:
    now = sim.START + timedelta(minutes=minutes)
    begun = min(len(sim.PERCENTS), int(minutes * 60 // sim.STEP_S) + 1)
    return measure_ramp(log, sim.make_ramp("salt", begun), sim.RULES, Clock(now=now))


def test_a_release_with_nothing_wrong_is_not_rolled_back_by_fifty_looks_at_six_metrics() -> None:
    found = bench.aa_rollbacks(np.random.default_rng(11), 600, piece=150)
    assert found[bench.OURS].mean() <= 0.05
    # The same ramps, so that the promise is one that is easily broken.
    assert found["z"].mean() > 0.15


def test_five_points_of_success_are_found_with_the_budget_of_all_checks() -> None:
    failures = sim.Failures.draw(np.random.default_rng(12), 400, 0.15, 0.10)
    hit, median = bench.first_at(failures.log_e() >= bench.HARM, sim.LOOKS)
    assert hit.mean() >= 0.95
    assert int(median) <= 1_400


@pytest.mark.parametrize(
    ("stable", "candidate", "margin"), [(0.90, 0.85, 0.03), (0.98, 0.93, 0.03), (0.998, 0.990, 0.005)]
)
def test_a_worse_release_does_not_pass_for_not_worse(stable: float, candidate: float, margin: float) -> None:
    failures = sim.Failures.draw(np.random.default_rng(13), 1_000, 1 - candidate, 1 - stable, look=20)
    assert (failures.log_e(margin) >= bench.NOT_WORSE).any(axis=1).mean() <= 0.01


def test_a_release_worse_by_just_the_margin_passes_within_alpha() -> None:
    failures = sim.Failures.draw(np.random.default_rng(14), 1_000, 0.13, 0.10, look=20)
    assert (failures.log_e(0.03) >= bench.NOT_WORSE).any(axis=1).mean() <= 0.05


def test_users_who_call_often_break_the_count_by_calls_and_not_the_count_by_users() -> None:
    rng = np.random.default_rng(15)
    world = sim.World(users=1_000, calls=24.0)
    looks = np.array([bench.look_both_ways(sim.draw_log(rng, world), str(number)) for number in range(40)])
    by_user, by_call = looks.mean(axis=0)
    assert by_user.tolist() <= [0.05, 0.03, 0.1]
    assert (by_call > 0.2).all()


def test_a_harmful_release_is_rolled_back_and_a_lossy_log_is_held() -> None:
    rng = np.random.default_rng(16)
    harmed = judge(measured(sim.draw_log(rng, sim.World(harm=0.06))), sim.RULES, Situation())
    assert (harmed.verdict.outcome, harmed.ground) == (Outcome.FAIL, Ground.HARM)
    assert harmed.verdict.reason.startswith("success ")
    lossy = judge(measured(sim.draw_log(rng, sim.World(harm=0.06, lost=0.6))), sim.RULES, Situation())
    assert (lossy.verdict.outcome, lossy.ground) == (Outcome.ERROR, Ground.RATIO)


def test_a_killed_ramp_that_is_taken_up_again_has_the_same_evidence_in_any_order_of_the_log() -> None:
    rng = np.random.default_rng(17)
    log = sim.draw_log(rng, sim.World(users=800))
    assert measured(log.take(pa.array(rng.permutation(log.num_rows)))) == measured(log)


def test_later_calls_do_not_change_what_was_seen_before() -> None:
    log = sim.draw_log(np.random.default_rng(18), sim.World(users=800))
    logged = np.array(log["time_utc"].cast(pa.int64())) < (sim.START.timestamp() + 1_500) * 1e6
    before, after = measured(log.filter(pa.array(logged)), 25), measured(log, 25)
    assert [item.harm for item in before.comparisons] == [item.harm for item in after.comparisons]
    assert before.ratio == after.ratio


def test_the_fixed_limits_look_at_this_step_alone() -> None:
    log = sim.draw_log(np.random.default_rng(21), sim.World())
    outage = np.array(log["time_utc"].cast(pa.int64())) >= (sim.START.timestamp() + 4 * sim.STEP_S) * 1e6
    mine = np.array(log["release_digest"].to_pylist()) == sim.CANDIDATE
    status = pa.array(np.where(outage & mine, 500, 200), pa.int32())
    broken = log.set_column(log.schema.get_field_index("status"), "status", status)
    decision = judge(measured(broken, 43), sim.RULES, Situation())
    assert decision.ground is Ground.LIMITS
    assert decision.verdict.checks[0].value == 1.0
    assert judge(measured(broken, 40), sim.RULES, Situation()).verdict.checks[0].n == 0


def test_no_calls_are_no_evidence() -> None:
    log = sim.draw_log(np.random.default_rng(19), sim.World(users=10)).slice(0, 0)
    decision = judge(measured(log), sim.RULES, Situation())
    assert (decision.verdict.outcome, decision.ground) == (Outcome.INCONCLUSIVE, Ground.DATA)


def test_the_forecast_is_near_the_median() -> None:
    failures = sim.Failures.draw(np.random.default_rng(20), 500, 0.15, 0.10)
    _, median = bench.first_at(failures.log_e() >= bench.HARM, sim.LOOKS)
    found = forecast(of_shares(0.15, 0.10), harm_payoffs, sim.RULES.check_alpha, entering_per_s=0.5)
    assert found.units_per_arm == pytest.approx(int(median), rel=0.2)
    assert found.duration_s == found.units_per_arm / 0.5


def test_what_no_bet_can_show_is_never_forecast() -> None:
    never = forecast(of_shares(0.1, 0.1), harm_payoffs, sim.RULES.check_alpha, 1.0)
    assert never == Forecast(units_per_arm=None, duration_s=None)
    spread = of_spread(0.0, 0.2)
    near, far = (forecast_noninferiority(spread, margin, sim.RULES, 1.0).units_per_arm for margin in (0.05, 0.02))
    assert near < far
