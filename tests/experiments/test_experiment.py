"""A/B tests: how users are shared, and what is said of arms that differ and of arms that do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ramp_real as real
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.experiments.experiment import (
    ArmEffect,
    Experiment,
    Finding,
    experiment_outcomes,
    holm,
    report,
    shared_p_value,
    wanted_buckets,
)
from tasks.experiments.report import experiment_markdown
from tasks.experiments.users import apart, user_means
from tasks.traffic.plan import BUCKETS, bucket_of, reassign

A, B, C = "a" * 64, "b" * 64, "c" * 64
HALVES = Experiment(name="tone", control=A, arms={A: 1, B: 1})
OUTCOMES = experiment_outcomes(1000)
NAMES = [outcome.name for outcome in OUTCOMES]
Numbers = NDArray[np.float64]
needs_data = pytest.mark.skipif(not real.DATA.is_dir(), reason=f"no shared data beside the repository: {real.DATA}")


def table(units: list[str | None], **columns: Any) -> pa.Table:
    """Return calls that went well, were fast, good, clean and cost one cent, but for what is given."""
    n = len(units)
    calls: dict[str, Any] = {
        "unit": pa.array(units, pa.string()),
        "status": pa.array([200] * n, pa.int16()),
        "error_type": pa.array([None] * n, pa.string()),
        "latency_ms": np.full(n, 100.0),
        "quality": np.full(n, 0.8),
        "toxicity": np.zeros(n),
        "cost_pusd": pa.array([10**10] * n, pa.int64()),
    }
    for name, values in columns.items():
        calls[name] = pa.array(values, pa.int16() if name == "status" else None, from_pandas=True)
    return pa.table(calls)


def arm(
    rng: np.random.Generator,
    name: str,
    users: int,
    *,
    success: float = 0.95,
    quality: float = 0.75,
    cost: float = 1.0,
    slow: float = 0.03,
) -> pa.Table:
    """Return the calls of users who differ: each has 1 to 6 calls and a skill of their own."""
    calls = rng.integers(1, 7, users)
    who = np.repeat(np.arange(users), calls)
    skill = rng.normal(0, 0.05, users)[who]
    n = len(who)
    return table(
        [f"{name}-{user}" for user in who],
        status=np.where(rng.random(n) < success, 200, 500),
        latency_ms=np.where(rng.random(n) < slow, 1500.0, 300.0),
        quality=np.clip(quality + skill + rng.normal(0, 0.05, n), 0, 1),
        toxicity=np.where(rng.random(n) < 0.01, 0.9, 0.1),
        cost_pusd=(rng.lognormal(0, 0.6, n) * cost * 10**10).astype(np.int64),
    )


def reported(calls: dict[str, pa.Table], experiment: Experiment = HALVES, **options: Any) -> dict[str, ArmEffect]:
    return {effect.outcome.name: effect for effect in report(experiment, calls, OUTCOMES, **options)}


# --- who gets what ---


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ({A: 1, B: 1}, {A: 500, B: 500}),
        ({A: 1, B: 1, C: 1}, {A: 334, B: 333, C: 333}),
        ({C: 1, B: 1, A: 1}, {A: 334, B: 333, C: 333}),
        ({A: 0.7, B: 0.2, C: 0.1}, {A: 700, B: 200, C: 100}),
        ({A: 1}, {A: 1000}),
        ({A: 998.4, B: 0.8, C: 0.8}, {A: 998, B: 1, C: 1}),
    ],
)
def test_buckets_follow_the_weights(weights: dict[str, float], counts: dict[str, int]) -> None:
    assert wanted_buckets(weights) == counts


@given(st.dictionaries(st.sampled_from([c * 64 for c in "0123456789"]), st.floats(1, 50), min_size=1))
def test_buckets_add_up_and_are_never_a_whole_one_off(weights: dict[str, float]) -> None:
    counts = wanted_buckets(weights)
    total = math.fsum(weights.values())
    assert sum(counts.values()) == BUCKETS
    assert counts.keys() == weights.keys()
    assert all(abs(counts[arm] - BUCKETS * weight / total) < 1 + 1e-9 for arm, weight in weights.items())
    assert counts == wanted_buckets(dict(reversed(weights.items())))


@pytest.mark.parametrize("weights", [{}, {A: 0.0, B: 1.0}, {A: -1.0, B: 1}, {A: math.nan, B: 1}, {A: math.inf, B: 1}])
def test_a_weight_is_a_number_above_nothing(weights: dict[str, float]) -> None:
    with pytest.raises(InputError, match="a finite number above 0"):
        wanted_buckets(weights)


def test_an_arm_that_nobody_would_see_is_refused() -> None:
    with pytest.raises(InputError, match="at least one of 1000 buckets"):
        wanted_buckets({A: 1, B: 0.0001})


def test_an_experiment_has_a_control_and_one_more() -> None:
    assert wanted_buckets(Experiment(name="tone", control=A, arms={A: 0.7, B: 0.3}).arms) == {A: 700, B: 300}
    for arms in ({A: 1.0}, {B: 1.0, C: 1.0}, {}):
        with pytest.raises(InputError, match=r"the control a+ and one more at least"):
            Experiment(name="tone", control=A, arms=arms)
    with pytest.raises(InputError, match="name"):
        Experiment(name="to ne", control=A, arms={A: 1, B: 1})
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match="above 0"):
            Experiment(name="tone", control=A, arms={A: 1 - share, B: share})


def test_the_buckets_can_be_put_into_a_plan() -> None:
    wanted = wanted_buckets({A: 2, B: 1, C: 1})
    buckets = reassign((), wanted, "salt")
    assert {digest: buckets.count(digest) for digest in wanted} == wanted


# --- users ---


def test_a_user_is_one_mean_and_nobody_is_somebody_of_their_own() -> None:
    units = pa.chunked_array([["u", "u", None], [None, "v", "w"]])
    values = np.array([1.0, 0.0, 1.0, 0.0, np.nan, 1.0])
    assert sorted(user_means(units, values)) == [0.0, 0.5, 1.0, 1.0]
    assert len(user_means(units, np.full(6, np.nan))) == 0


def test_who_met_two_arms_is_left_out_of_both() -> None:
    kept = apart({A: table(["x", "y", None, "y"]), B: table(["y", "z", None])})
    assert kept[A]["unit"].to_pylist() == ["x", None]
    assert kept[B]["unit"].to_pylist() == ["z", None]


def test_a_busy_user_counts_once() -> None:
    one = table(["busy"] * 5000 + [f"u{n}" for n in range(200)], status=[500] * 5000 + [200] * 200)
    two = table([f"v{n}" for n in range(201)])
    success = reported({A: one, B: two})["success"]
    assert success.control == pytest.approx(200 / 201)
    assert success.finding is Finding.SAME


# --- effects ---


def test_what_differs_is_found_in_its_direction() -> None:
    rng = np.random.default_rng(1)
    calls = {A: arm(rng, "a", 2000), B: arm(rng, "b", 2000, success=0.85, quality=0.82, cost=1.3, slow=0.2)}
    found = reported(calls)
    assert list(found) == NAMES == ["success", "latency", "quality", "toxicity", "missing", "cost"]
    assert {name: effect.finding for name, effect in found.items()} == {
        "success": Finding.WORSE,
        "latency": Finding.WORSE,
        "quality": Finding.BETTER,
        "toxicity": Finding.SAME,
        "missing": Finding.SAME,
        "cost": Finding.WORSE,
    }
    for name, truth in (("success", -0.1), ("latency", 0.17), ("quality", 0.07), ("cost", 0.3)):
        assert found[name].low < truth < found[name].high
    assert found["cost"].control == pytest.approx(0.01 * math.exp(0.18), rel=0.03)
    swapped = reported({A: calls[B], B: calls[A]})
    assert swapped["success"].finding is Finding.BETTER
    assert swapped["success"].effect == -found["success"].effect


def test_a_difference_that_is_sure_and_too_small_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    calls = {A: arm(rng, "a", 6000), B: arm(rng, "b", 6000, quality=0.762, cost=1.05)}
    found = reported(calls)
    assert found["quality"].p_holm < 0.05
    assert found["quality"].finding is Finding.SAME
    assert found["cost"].finding is Finding.SAME


def test_a_small_sample_is_open_and_never_equal() -> None:
    rng = np.random.default_rng(3)
    found = reported({A: arm(rng, "a", 60), B: arm(rng, "b", 60)})
    assert found["success"].finding is Finding.OPEN
    few = reported({A: table([f"a{n}" for n in range(49)]), B: table([f"b{n}" for n in range(50)])})
    assert {effect.because for effect in few.values()} == {"49 users < minimum 50"}
    assert {effect.finding for effect in few.values()} == {Finding.OPEN}
    assert all(math.isnan(effect.p_value) and math.isnan(effect.p_holm) for effect in few.values())


def test_no_failure_at_all_in_a_few_users_is_no_proof_of_none() -> None:
    for users, finding in ((60, Finding.OPEN), (400, Finding.SAME)):
        calls = {A: table([f"a{n}" for n in range(users)]), B: table([f"b{n}" for n in range(users)])}
        success = reported(calls)["success"]
        assert (success.effect, success.finding) == (0.0, finding)
        assert success.low < 0 < success.high


def test_what_is_unknown_is_compared_nowhere_and_counts_as_missing() -> None:
    rng = np.random.default_rng(4)
    calls = {A: arm(rng, "a", 500), B: arm(rng, "b", 500)}
    n = len(calls[B])
    calls[B] = calls[B].set_column(4, "quality", pa.array([None] * n, pa.float64()))
    calls[B] = calls[B].set_column(6, "cost_pusd", pa.array([None] * n, pa.int64()))
    found = reported(calls)
    assert (found["quality"].n_arm, found["quality"].because) == (0, "0 users < minimum 50")
    assert found["cost"].because == "0 users < minimum 50"
    assert math.isnan(found["cost"].value)
    assert found["missing"].finding is Finding.WORSE


def test_a_control_that_costs_nothing_is_nothing_to_relate_to() -> None:
    free = table([f"a{n}" for n in range(60)], cost_pusd=[0] * 60)
    found = reported({A: free, B: table([f"b{n}" for n in range(60)])})["cost"]
    assert found.because == "the control arm's mean is 0: nothing to relate to"
    assert found.finding is Finding.OPEN


def test_users_that_were_not_shared_as_planned_leave_everything_open() -> None:
    rng = np.random.default_rng(5)
    calls = {A: arm(rng, "a", 1000), B: arm(rng, "b", 800, success=0.5)}
    found = reported(calls)
    assert {effect.finding for effect in found.values()} == {Finding.OPEN}
    assert found["success"].because.startswith("users were not shared out as planned (p=2e-06 < 0.001)")
    as_planned = Experiment(name="tone", control=A, arms={A: 10, B: 8})
    assert reported(calls, as_planned)["success"].finding is Finding.WORSE
    assert shared_p_value(HALVES, {A: 0, B: 0}) == 1.0
    assert shared_p_value(HALVES, {A: 50, B: 50}) == 1.0


def test_the_calls_are_those_of_the_arms() -> None:
    with pytest.raises(InputError, match="calls_by_arm"):
        report(HALVES, {A: table([])}, OUTCOMES)
    nothing = report(HALVES, {A: table([]), B: table([])}, OUTCOMES)
    assert {effect.finding for effect in nothing} == {Finding.OPEN}


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_holm_is_monotone_and_never_below_the_p_value(p_values: list[float]) -> None:
    corrected = holm(p_values)
    pairs = sorted((p, q) for p, q in zip(p_values, corrected, strict=True) if not math.isnan(p))
    assert all(p <= q <= 1 for p, q in pairs)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)
    assert [math.isnan(p) for p in p_values] == [math.isnan(q) for q in corrected]
    if pairs:
        assert pairs[0][1] == pytest.approx(min(1, pairs[0][0] * len(pairs)))


def test_p_values_are_corrected_over_all_arms_and_metrics() -> None:
    rng = np.random.default_rng(6)
    three = Experiment(name="tone", control=A, arms={A: 1, B: 1, C: 1})
    effects = report(three, {name: arm(rng, name, 300) for name in three.arms}, OUTCOMES)
    assert len(effects) == 12
    assert [effect.p_holm for effect in effects] == holm([effect.p_value for effect in effects])


# --- by simulation ---


def test_intervals_cover_and_nothing_is_called_where_nothing_differs() -> None:
    rng, rounds, called = np.random.default_rng(7), 300, 0
    covered = dict.fromkeys(NAMES, 0)
    for _ in range(rounds):
        found = reported({A: arm(rng, "a", 150), B: arm(rng, "b", 150)})
        called += any(effect.finding in {Finding.BETTER, Finding.WORSE} for effect in found.values())
        for name, effect in found.items():
            covered[name] += effect.low <= 0 <= effect.high
    # 95 % less 3.5 standard errors of a share of 300; the call rate has alpha 5 % plus the same.
    assert all(count / rounds >= 0.905 for count in covered.values()), covered
    assert called / rounds <= 0.05 + 0.044, called


def test_intervals_cover_a_true_effect_and_find_it() -> None:
    rng, rounds = np.random.default_rng(8), 150
    truths = {"success": -0.1, "quality": 0.06, "cost": 0.4}
    covered, found_it = dict.fromkeys(truths, 0), 0
    for _ in range(rounds):
        found = reported({A: arm(rng, "a", 400), B: arm(rng, "b", 400, success=0.85, quality=0.81, cost=1.4)})
        found_it += found["success"].finding is Finding.WORSE
        for name, truth in truths.items():
            covered[name] += found[name].low <= truth <= found[name].high
    # 95 % less 3.5 standard errors of a share of 150.
    assert all(count / rounds >= 0.887 for count in covered.values()), covered
    assert found_it / rounds >= 0.95


# --- real answers whose truth is known ---


def split(scores: dict[str, dict[str, float]], first: str, second: str, column: str) -> dict[str, pa.Table]:
    """Return what each run had of the half of the users a plan would have given it."""
    halves: dict[str, tuple[list[str | None], list[float]]] = {first: ([], []), second: ([], [])}
    for unit in sorted(scores[first].keys() & scores[second].keys()):
        run = first if bucket_of("split", unit) < BUCKETS // 2 else second
        halves[run][0].append(unit)
        halves[run][1].append(scores[run][unit])
    (units_a, a), (units_b, b) = halves[first], halves[second]
    return {A: table(units_a, **{column: a}), B: table(units_b, **{column: b})}


@needs_data
def test_wildbench_runs_are_never_called_the_wrong_way() -> None:
    rows = pq.read_table(real.DATA / "outputs" / "wildbench_scored.parquet", columns=["run", "session_id", "score"])
    scores: dict[str, dict[str, float]] = {}
    for row in rows.to_pylist():
        if row["score"] is not None:
            scores.setdefault(row["run"], {})[row["session_id"]] = float(row["score"]) / real.BEST_SCORE
    calls = []
    for pair in real.load_csv("wildbench_pairs.csv"):
        found = reported(split(scores, pair["baseline_A"], pair["candidate_B"], "quality"))
        calls.append((real.CALLED[pair["verdict_ci95"]], found["quality"].finding))
    wrong = {("better", Finding.WORSE), ("worse", Finding.BETTER)}
    assert len(calls) == 28
    assert not wrong & set(calls)
    differing = [said for truth, said in calls if truth != "no change"]
    seen = sum(said in {Finding.BETTER, Finding.WORSE} for said in differing)
    # Half of the answers, of which no two are of one question, find nearly all that the whole pairs show.
    assert (len(differing), seen) == (26, 24)


@needs_data
def test_verified_solutions_are_better_also_where_each_user_saw_one() -> None:
    rows = pq.read_table(real.DATA / "outputs" / "gsm8k_solutions.parquet", columns=["qid", "model", "is_correct"])
    right: dict[str, dict[str, float]] = {}
    for row in rows.to_pylist():
        right.setdefault(row["model"], {})[str(row["qid"])] = 200 if row["is_correct"] else 500
    calls = split(right, "6b_finetuning", "6b_verification", "status")
    found = reported(calls)["success"]
    assert found.finding is Finding.BETTER
    assert found.low < (515 - 286) / 1319 < found.high
    assert reported({A: calls[B], B: calls[A]})["success"].finding is Finding.WORSE


# --- what people read ---


def test_the_report_shows_every_arm_and_metric_with_its_interval() -> None:
    rng = np.random.default_rng(9)
    three = Experiment(name="tone", control=A, arms={A: 2, B: 1, C: 1})
    calls = {A: arm(rng, "a", 1000), B: arm(rng, "b", 500, success=0.8), C: table([f"c{n}" for n in range(440)])}
    effects = report(three, calls, OUTCOMES, min_users=450)
    shown = experiment_markdown(three, effects, {A: "bot 1", B: "bot | 2"})
    assert "Users: bot 1 50.0%, bot \\| 2 25.0%, `cccccccccccc` 25.0%. Control: bot 1." in shown
    assert "corrected over 6 comparisons (Holm)" in shown
    assert shown.count("\n## ") == 2
    (row,) = [line for line in shown.splitlines() if line.startswith("| success") and "**worse**" in line]
    assert " points to -" in row
    assert "<0.0001" in row
    assert "**inconclusive**: 440 users < minimum 450" in shown
    assert "nan" not in shown
    assert all(line.count(" | ") == 8 for line in shown.splitlines() if line.startswith("| success"))
