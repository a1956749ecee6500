"""A candidate whose servers are away during its ramp: its users are its own, whoever answered them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import ramp_simulation as sim

from tasks.monitors.verdict import Outcome
from tasks.release.analysis import measure
from tasks.release.analysis.cohorts import STOOD_IN, Cohort, Ramp, as_meant, count_as_meant, count_as_planned
from tasks.release.analysis.judge import Decision, Ground, Situation, judge
from tasks.release.analysis.matching import Clock
from tasks.release.analysis.measure import RampEvidence, measure_ramp
from tasks.traffic.plan import BUCKETS

LAST_STEP_S = (len(sim.PERCENTS) - 1) * sim.STEP_S
FIRST = Cohort(start=sim.START, candidate_buckets=frozenset({0}), stable_buckets=frozenset({1}))
RAMP = Ramp(application="faq", candidate="c", stable="s", cohorts=(FIRST,), planned_steps=1, salt="one")


def away(log: pa.Table, release: str, from_s: float, for_s: float, instead: str) -> pa.Table:
    """Have a standby answer the users of a release for a time, as the data path does while its servers are gone."""
    time_s = np.array(log["time_utc"].cast(pa.int64())) / 1e6 - sim.START.timestamp()
    gone = (time_s >= from_s) & (time_s < from_s + for_s) & (np.array(log["release_digest"].to_pylist()) == release)
    assert gone.any()
    digests = pa.array(np.where(gone, instead, log["release_digest"].to_pylist()))
    return log.set_column(log.schema.get_field_index("release_digest"), "release_digest", digests)


def measured(log: pa.Table) -> RampEvidence:
    return measure_ramp(log, sim.make_ramp("salt"), sim.RULES, Clock(now=sim.START + timedelta(minutes=120)))


def judged(log: pa.Table) -> Decision:
    return judge(measured(log), sim.RULES, Situation(needs_noninferiority=False))


def test_a_short_death_neither_takes_a_candidate_back_nor_holds_it() -> None:
    log = sim.draw_log(np.random.default_rng(31), sim.World())
    decision = judged(away(log, sim.CANDIDATE, LAST_STEP_S, 4, sim.STABLE))
    assert (decision.verdict.outcome, decision.ground) == (Outcome.PASS, Ground.ALL_PASSED)


@pytest.mark.parametrize("instead", [sim.STABLE, "an older one"])
def test_a_long_death_takes_it_back_and_is_not_called_mis_shared(instead: str) -> None:
    log = away(sim.draw_log(np.random.default_rng(32), sim.World()), sim.CANDIDATE, LAST_STEP_S, 1e9, instead)
    decision = judged(log)
    assert (decision.verdict.outcome, decision.ground) == (Outcome.FAIL, Ground.LIMITS)
    errors, *_, ratio = decision.verdict.checks[:3]
    assert errors.value == 1.0
    assert errors.statement.startswith("failed calls 100 % > limit ")
    assert ratio.outcome is Outcome.PASS
    assert "(as planned, n=" in ratio.statement


def test_counted_by_who_answered_the_same_log_is_mis_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    log = away(sim.draw_log(np.random.default_rng(32), sim.World()), sim.CANDIDATE, 0, 1_500, sim.STABLE)
    assert judged(log).verdict.outcome is Outcome.FAIL
    monkeypatch.setattr(measure, "as_meant", lambda calls, _ramp: calls)
    decision = judged(log)
    assert (decision.verdict.outcome, decision.ground) == (Outcome.ERROR, Ground.RATIO)


def test_what_a_standby_answers_is_no_evidence_about_the_standby() -> None:
    log = sim.draw_log(np.random.default_rng(33), sim.World())
    gone = away(log, sim.CANDIDATE, 0, 1e9, sim.STABLE)
    plain, stood_in = measured(log), measured(gone)
    assert (stood_in.ratio, len(stood_in.comparisons)) == (plain.ratio, len(plain.comparisons))
    success = stood_in.comparisons[0]
    assert (success.candidate, success.stable) == (1.0, plain.comparisons[0].stable)
    assert all(item.n_candidate == 0 for item in stood_in.comparisons if item.metric.name in {"latency", "quality"})


def test_a_stable_release_that_dies_is_judged_alike() -> None:
    log = sim.draw_log(np.random.default_rng(34), sim.World())
    evidence = measured(away(log, sim.STABLE, 0, 1e9, "an older one"))
    assert evidence.comparisons[0].stable == 1.0
    assert evidence.ratio == measured(log).ratio
    assert evidence.limits == measured(log).limits


def table(*rows: tuple[int | None, float, str | None]) -> pa.Table:
    return pa.table(
        {
            "unit": pa.array([f"u{at}" for at in range(len(rows))]),
            "bucket": pa.array([bucket for bucket, _, _ in rows], pa.int32()),
            "time_utc": pa.array(
                [sim.START + timedelta(minutes=minute) for _, minute, _ in rows], pa.timestamp("us", "UTC")
            ),
            "release_digest": pa.array([digest for _, _, digest in rows], pa.string()),
            "status": pa.array([200] * len(rows), pa.int32()),
            "error_type": pa.nulls(len(rows), pa.string()),
            "cost_pusd": pa.array([7] * len(rows), pa.int64()),
        }
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((0, 1, "s"), ("c", 503, STOOD_IN, 0)),
        ((1, 1, "p"), ("s", 503, STOOD_IN, 0)),
        ((0, 1, "c"), ("c", 200, None, 7)),
        ((1, 1, "s"), ("s", 200, None, 7)),
        ((0, -1, "s"), ("s", 200, None, 7)),  # before the step
        ((2, 1, "p"), ("p", 200, None, 7)),  # of no cohort
        ((None, 1, "s"), ("s", 200, None, 7)),
        ((0, 1, None), (None, 200, None, 7)),
    ],
)
def test_only_calls_that_were_meant_for_somebody_else_count_as_failed(
    row: tuple[int | None, float, str | None], expected: tuple[str | None, int, str | None, int]
) -> None:
    calls = table(row)
    counted = as_meant(calls, RAMP)
    assert counted.schema == calls.schema
    (found,) = counted.select(["release_digest", "status", "error_type", "cost_pusd"]).to_pylist()
    assert tuple(found.values()) == expected


def test_a_log_without_calls_or_costs_is_taken_as_well() -> None:
    assert as_meant(table(), RAMP).num_rows == 0
    calls = table((0, 1, "s")).drop_columns(["cost_pusd"])
    assert count_as_meant(calls, pa.array(["x"])).to_pylist()[0]["release_digest"] == "x"
    assert count_as_meant(calls, pa.array([None], pa.string())) == calls


def test_the_plan_says_who_was_meant_for_the_calls_it_routed() -> None:
    calls = table((0, 1, "s"), (1, 1, "s"), (None, 1, "s"))
    counted = count_as_planned(calls, ("c", *["s"] * (BUCKETS - 1)))
    assert counted["release_digest"].to_pylist() == ["c", "s", "s"]
    assert counted["status"].to_pylist() == [503, 200, 200]
    assert count_as_planned(table(), ("c", *["s"] * (BUCKETS - 1))).num_rows == 0
