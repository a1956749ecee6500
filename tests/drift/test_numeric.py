from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tasks.drift.columns import NumberColumn, Scan, effective_n
from tasks.drift.effects import Effect
from tasks.drift.nights import Watched
from tasks.drift.numeric import (
    NumberRule,
    compare_numbers,
    compare_scans,
    compare_words,
    level_of,
    measure_distance,
)
from tasks.drift.scan import ScanSpec, scan_relation
from tasks.errors import InputError
from tasks.evaluation.summary import BIN_RATIO, SMALLEST, Categories, Histogram
from tasks.monitors.verdict import Outcome

DataFile = Callable[[str], Path]
WATCHED = Watched(name="x")
RULE = NumberRule(watched=(WATCHED,) * 6, categories=("a", "b"))


@pytest.fixture
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def scan(db: duckdb.DuckDBPyConnection, frame: pd.DataFrame, *, watched: Watched = WATCHED, **more: str) -> Scan:
    table = frame if "unit" in frame else frame.assign(unit=[f"u{at}" for at in range(len(frame))])
    spec = ScanSpec(numbers=(watched,), units=("unit",), **{name: (value,) for name, value in more.items()})
    return scan_relation(db.from_df(table), spec)


def column(db: duckdb.DuckDBPyConnection, values: np.ndarray, units: np.ndarray | None = None) -> NumberColumn:
    frame = pd.DataFrame({"x": values})
    return scan(db, frame if units is None else frame.assign(unit=units)).number("x")


def quick_column(values: np.ndarray, groups: np.ndarray) -> NumberColumn:
    """Count without a database, for tests that do so a few hundred times."""
    logs = np.floor(np.log(values / SMALLEST) / math.log(BIN_RATIO)).astype(int)
    bins, at = np.unique(logs, return_inverse=True)
    matrix = np.zeros((64, len(bins)))
    np.add.at(matrix, (groups, at), 1)
    return NumberColumn(name="x", histogram=Histogram.of(values), effective_n=effective_n(matrix))


def by_measure(effects: tuple[Effect, ...]) -> dict[str, Effect]:
    return {effect.measure: effect for effect in effects}


def test_the_scan_counts_in_the_bins_of_the_summaries(db: duckdb.DuckDBPyConnection) -> None:
    values = np.concatenate([np.random.default_rng(1).lognormal(3, 3, 5000), [0.0, 0.004, 0.01, 1.0, 1e12]])
    assert column(db, values).histogram == Histogram.of(values)


def test_null_nan_and_infinity_are_unknown_and_what_is_below_0_is_refused(db: duckdb.DuckDBPyConnection) -> None:
    relation = db.sql("SELECT unnest([1.0, NULL, 'nan'::DOUBLE, 'inf'::DOUBLE]) AS x, 'u' AS unit")
    assert scan_relation(relation, ScanSpec(numbers=(WATCHED,), units=("unit",))).number("x").histogram.n == 1
    with pytest.raises(InputError, match=r"column x: 'a value below 0' is not allowed; allowed: numbers of 0 and more"):
        column(db, np.array([1.0, -2.0]))
    with pytest.raises(InputError, match=r"scan columns: 'cost' is not allowed; allowed: x, unit"):
        scan_relation(relation, ScanSpec(numbers=(Watched(name="cost"),), units=("unit",)))


def test_an_empty_window_and_an_empty_column_are_empty(db: duckdb.DuckDBPyConnection) -> None:
    relation = db.sql("SELECT NULL::DOUBLE AS x, 'u' AS unit, NULL::VARCHAR AS model")
    spec = ScanSpec(numbers=(WATCHED,), units=("unit",), categories=("model",))
    found = scan_relation(relation, spec)
    assert (found.n, found.number("x").histogram.n, found.category("model").categories.n) == (1, 0, 0)
    empty = scan_relation(relation.filter("false"), spec)
    assert (empty.n, empty.units, empty.top_share) == (0, 0, 0.0)
    effects = compare_scans(empty, found, NumberRule(watched=(WATCHED,), categories=("model",)))
    assert {effect.outcome for effect in effects} == {Outcome.INCONCLUSIVE}
    assert effects[0].statement == "x 0 values < minimum 100 (n=0, baseline n=0)"
    assert effects[0].as_check().value is None


def test_scans_of_disjoint_units_merge_to_the_scan_of_both(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"x": rng.lognormal(5, 1, 4000), "model": rng.choice(["a", "b"], 4000)})
    parts = [
        scan(db, frame.iloc[rows], categories="model", segments="model") for rows in (slice(2500), slice(2500, None))
    ]
    merged, whole = parts[0].merge(parts[1]), scan(db, frame, categories="model", segments="model")
    assert merged.number("x").histogram == whole.number("x").histogram
    assert merged.category("model").categories == whole.category("model").categories
    assert [item.n for item in merged.segments] == [item.n for item in whole.segments]
    assert merged.number("x").effective_n == pytest.approx(4000, rel=0.2)
    with pytest.raises(InputError, match="scan columns"):
        parts[0].merge(Scan())


def test_latency_a_tenth_slower_is_found_in_ten_thousand_rows(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(0)
    old, new = column(db, rng.lognormal(6, 0.7, 50_000)), column(db, rng.lognormal(6, 0.7, 10_000) * 1.1)
    found = by_measure(compare_numbers(new, old, WATCHED, RULE))
    assert found["mean"].outcome is Outcome.FAIL
    assert found["mean"].value == pytest.approx(1.1, abs=0.03)
    assert 1.05 < found["mean"].low < 1.1 < found["mean"].high
    assert found["mean"].statement.startswith("x mean x 1.1 [x 1.0")
    assert "wholly beyond x 1.05 (n=10000, baseline n=50000)" in found["mean"].statement
    assert found["distribution"].outcome is Outcome.PASS, "0.06 of the rows is less than what matters"


def test_cost_half_again_is_found_whatever_its_unit(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(1)
    usd = rng.normal(1.3e-4, 1.3e-5, 4000)
    for unit in (1e12, 1e6):
        old, new = column(db, usd[:2000] * unit), column(db, usd[2000:] * 1.5 * unit)
        found = compare_numbers(new, old, WATCHED, RULE)
        assert {effect.outcome for effect in found} == {Outcome.FAIL}
        assert by_measure(found)["p50"].value == pytest.approx(1.5, abs=0.02)
        assert by_measure(found)["distribution"].value > 0.9


def test_the_verdict_does_not_turn_with_the_number_of_rows(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(2)
    for n in (1000, 20_000, 200_000):
        old, new = column(db, rng.lognormal(6, 0.7, n)), column(db, rng.lognormal(6, 0.7, n) * 1.02)
        outcomes = {effect.outcome for effect in compare_numbers(new, old, WATCHED, RULE)}
        assert Outcome.FAIL not in outcomes
    assert by_measure(compare_numbers(new, old, WATCHED, RULE))["mean"].low > 1, "certain, and too little to matter"
    assert by_measure(compare_numbers(new, old, WATCHED, RULE))["mean"].outcome is Outcome.PASS


def test_one_user_who_makes_half_the_traffic_counts_as_one(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(4)
    usual, units = rng.lognormal(6, 0.7, 10_000), np.array([f"u{at}" for at in rng.integers(0, 900, 10_000)], object)
    old, calm = column(db, usual, units), column(db, rng.lognormal(6, 0.7, 10_000), units)
    whale = units.copy()
    whale[:5000] = "u1"
    slow = np.where(whale == "u1", 2.0, 1.0) * rng.lognormal(6, 0.7, 10_000)
    loud = column(db, slow, whale)
    assert calm.effective_n > 5000
    assert loud.effective_n < 30
    (effect,) = compare_numbers(loud, old, WATCHED, RULE)
    assert effect.outcome is Outcome.INCONCLUSIVE
    assert "independent values < minimum 30 (n=10000, baseline n=10000)" in effect.statement
    assert scan(db, pd.DataFrame({"x": slow, "unit": whale})).top_share > 0.5


def test_rows_of_one_user_are_no_independent_rows() -> None:
    """Users differ, nights do not: at 5 % over all measures few comparisons may be significant."""
    rng, alarms, rule = np.random.default_rng(5), 0, NumberRule(watched=(Watched(name="x", least=1e-6),), alpha=0.05)
    rounds = 100
    for _ in range(rounds):
        sides = []
        for _ in range(2):
            user = rng.integers(0, 300, 3000)
            values = np.exp(6 + rng.normal(0, 0.5, 300)[user] + rng.normal(0, 0.5, 3000))
            sides.append(quick_column(values, rng.integers(0, 64, 300)[user]))
        effects = compare_numbers(sides[0], sides[1], rule.watched[0], rule)
        alarms += any(effect.low > 1 or effect.high < 1 for effect in effects[:3])
    assert sides[0].effective_n < 1500
    assert alarms <= 0.1 * rounds


def test_nights_that_differ_anyway_widen_the_interval_and_unknown_nights_raise_the_bar(
    db: duckdb.DuckDBPyConnection,
) -> None:
    rng = np.random.default_rng(6)
    old, new = column(db, rng.lognormal(6, 0.7, 50_000)), column(db, rng.lognormal(6, 0.7, 50_000) * 1.12)
    assert by_measure(compare_numbers(new, old, WATCHED, RULE))["mean"].outcome is Outcome.FAIL
    nights = NumberRule(watched=(WATCHED,), night_sd={("x", "mean"): 0.05, ("x", "p50"): 0.05, ("x", "p95"): 0.05})
    assert Outcome.FAIL not in {effect.outcome for effect in compare_numbers(new, old, WATCHED, nights)}
    unknown = NumberRule(watched=(WATCHED,), knows_nights=False)
    found = by_measure(compare_numbers(new, old, WATCHED, unknown))
    assert found["mean"].outcome is Outcome.PASS
    assert found["mean"].limit == pytest.approx(1.05**4)


def test_scores_are_told_in_differences_and_only_for_the_worse(db: duckdb.DuckDBPyConnection) -> None:
    rng, quality = np.random.default_rng(7), Watched(name="x", side="low", scale="difference", least=0.02)
    old, new = column(db, rng.beta(9, 1, 5000)), column(db, rng.beta(9, 2, 5000))
    found = by_measure(compare_numbers(new, old, quality, RULE))
    assert found["mean"].outcome is Outcome.FAIL
    assert found["mean"].value == pytest.approx(9 / 11 - 0.9, abs=0.01)
    assert {effect.outcome for effect in compare_numbers(old, new, quality, RULE)} == {Outcome.PASS}
    assert level_of(old, quality) == pytest.approx(0.9, abs=0.01)
    assert level_of(NumberColumn(name="x"), quality) is None


def test_words_that_came_and_went_are_a_change_of_the_right_size(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(8)
    old = scan(
        db,
        pd.DataFrame({"x": 1.0, "m": rng.choice(["stop", "length", "old"], 3000, p=[0.85, 0.1, 0.05])}),
        categories="m",
    )
    new = scan(
        db,
        pd.DataFrame({"x": 1.0, "m": rng.choice(["stop", "length", "filter"], 3000, p=[0.6, 0.1, 0.3])}),
        categories="m",
    )
    effect = compare_words(new.category("m"), old.category("m"), RULE)
    assert effect.outcome is Outcome.FAIL
    assert effect.value == pytest.approx(0.3, abs=0.03)
    assert effect.low < 0.3 < effect.high
    assert compare_words(old.category("m"), old.category("m"), RULE).outcome is Outcome.PASS


def test_rare_words_are_counted_together(db: duckdb.DuckDBPyConnection) -> None:
    frame = pd.DataFrame({"x": 1.0, "m": [f"w{at % 300}" for at in range(3000)] + ["w1"] * 50})
    counts = dict(scan(db, frame, categories="m").category("m").categories.counts)
    assert len(counts) == 101
    assert counts["w1"] == 60
    assert sum(counts.values()) == 3050


def test_effective_numbers_of_known_designs() -> None:
    rng = np.random.default_rng(9)
    independent = rng.multinomial(100, [0.2] * 5, size=64).astype(float)
    assert effective_n(independent) == pytest.approx(6400, rel=0.35)
    same_inside = np.zeros((64, 5))
    same_inside[np.arange(64), rng.integers(0, 5, 64)] = 100
    assert effective_n(same_inside) == pytest.approx(64, rel=0.35)
    assert effective_n(np.array([[5.0, 5.0]])) == 1.0


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("halves", [False, True])
def test_azure_traces_equal_the_truth(
    db: duckdb.DuckDBPyConnection, data_file: DataFile, name: str, halves: bool
) -> None:
    conversation, code = (
        pd.read_parquet(data_file(f"traces/azure_llm_2023_{trace}.parquet")) for trace in ("conv", "code")
    )
    truth = pd.read_csv(data_file("truth/numeric_drift.csv"), index_col="pair")
    pair = f"azure conv {'first vs second half-hour' if halves else 'vs code'} {name}"
    old, new = (conversation, code)
    if halves:
        size = int(truth["n_ref"][pair])
        ordered = conversation.sort_values("ts_utc", kind="stable")
        old, new = ordered.iloc[:size], ordered.iloc[size:]
    sides = [column(db, side[name].to_numpy(np.float64)) for side in (new, old)]
    assert [side.histogram.n for side in sides] == [truth.loc[pair, "n_cur"], truth.loc[pair, "n_ref"]]
    assert measure_distance(sides[0], sides[1], WATCHED) == pytest.approx(truth.loc[pair, "ks"], abs=0.01)
    outcomes = {effect.outcome for effect in compare_numbers(sides[0], sides[1], WATCHED, RULE)}
    assert Outcome.FAIL in outcomes, "the halves differ by a tenth and more as well: measured, not a night's noise"


@pytest.mark.parametrize(("provider", "sign"), [("anyscale", 0), ("fireworks", -1), ("together", -1)])
def test_provider_swaps_have_the_right_sign(
    db: duckdb.DuckDBPyConnection, data_file: DataFile, provider: str, sign: int
) -> None:
    frame = pd.read_parquet(data_file("latency/llmperf.parquet"))
    good = frame[(frame["error_code"] == "None") & (frame["size"] == "70b")]
    truth = pd.read_csv(data_file("truth/numeric_drift.csv"), index_col="pair")
    old, new = (
        column(db, good[good["provider"] == name]["ttft_s"].to_numpy(np.float64) * 1000) for name in (provider, "groq")
    )
    row = truth.loc[f"llmperf ttft {provider}_70b vs groq_70b"]
    assert measure_distance(new, old, WATCHED) == pytest.approx(row["ks"], abs=0.02)
    found = by_measure(compare_numbers(new, old, WATCHED, RULE))
    if sign:
        assert found["mean"].outcome is Outcome.FAIL
        assert found["mean"].high < 1 / 1.05, "groq is the faster one"
    else:
        assert found["p50"].low < 1 < found["p50"].high


def test_the_distance_equals_the_two_sample_statistic_of_scipy(db: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(10)
    for factor in (1.0, 1.3, 5.0):
        old, new = rng.lognormal(5, 1, 3000), rng.lognormal(5, 1, 2000) * factor
        found = measure_distance(column(db, new), column(db, old), WATCHED)
        assert found == pytest.approx(stats.ks_2samp(old, new).statistic, abs=0.01)


def test_random_halves_raise_no_false_alarm(data_file: DataFile) -> None:
    texts = pd.read_parquet(data_file("drift/prompts.parquet"))["text"].str.len().to_numpy(np.float64)
    rng, failed = np.random.default_rng(11), 0
    for _ in range(100):
        drawn = rng.permutation(texts)[:4000]
        halves = (quick_column(half, rng.integers(0, 64, 2000)) for half in (drawn[:2000], drawn[2000:]))
        effects = compare_numbers(next(halves), next(halves), WATCHED, RULE)
        failed += any(effect.outcome is Outcome.FAIL for effect in effects)
    assert failed == 0


def test_categories_can_be_empty_on_both_sides() -> None:
    assert Categories().n == 0
    assert math.isnan(compare_words(Scan().category("m"), Scan().category("m"), RULE).value)
