from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.drift.distance import ALPHA, JUDGED, MIN_ROWS, compare, measure
from tasks.evaluation.summary import Categories, Histogram, Summary

DataFile = Callable[[str], Path]
LIMIT = 0.2
"""The default of a release's drift monitor."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lengths(texts: pd.Series) -> Histogram:
    return Histogram.of(texts.str.len().to_numpy().astype(np.float64))


def test_same_counts_have_no_distance_and_disjoint_ones_all() -> None:
    one, two = Histogram.of(np.arange(1.0, 200)), Histogram.of(np.arange(1000.0, 1200))
    same = measure("x", one, one, rng=rng())
    assert (same.distance, same.p_value) == (0.0, 1.0)
    apart = measure("x", one, two, rng=rng())
    assert apart.distance == pytest.approx(1)
    assert apart.p_value == 1 / 1000


def test_direction_counts_only_the_worse_side() -> None:
    low, high = Histogram.of(np.full(200, 0.3)), Histogram.of(np.full(200, 0.9))
    assert measure("quality", low, high, worse="lower", rng=rng()).distance == 1.0
    better = measure("quality", high, low, worse="lower", rng=rng())
    assert (better.distance, better.p_value) == (0.0, 1.0)
    assert measure("quality", high, low, worse="higher", rng=rng()).distance == 1.0


def test_categories_are_compared_by_the_share_that_changed() -> None:
    old = Categories((("length", 10), ("stop", 90)))
    new = Categories((("content_filter", 30), ("length", 10), ("stop", 60)))
    assert measure("finish_reason", new, old, rng=rng()).distance == pytest.approx(0.3)


def test_distance_has_no_unit() -> None:
    base = rng().lognormal(6, 0.7, 4000)
    moved = rng(1).lognormal(6.3, 0.7, 4000)
    seconds = measure("x", Histogram.of(moved), Histogram.of(base), rng=rng())
    micro = measure("x", Histogram.of(moved * 1e6), Histogram.of(base * 1e6), rng=rng())
    assert seconds.distance == pytest.approx(micro.distance, abs=0.01)


def test_columns_with_few_values_on_a_side_are_left_out() -> None:
    few, many = Histogram.of(rng().random(MIN_ROWS - 1)), Histogram.of(rng().random(1000))
    current = Summary(n=1000, question_chars=few, answer_chars=many)
    baseline = Summary(n=1000, question_chars=many, answer_chars=many)
    assert [distance.column for distance in compare(current, baseline)] == ["answer_chars"]
    assert compare(Summary(), baseline) == ()


def test_the_largest_distance_comes_first_and_a_seed_repeats_it() -> None:
    near, far = Histogram.of(rng().random(500)), Histogram.of(rng().random(500) + 5)
    current = Summary(n=500, question_chars=near, answer_chars=far)
    baseline = Summary(n=500, question_chars=near, answer_chars=near)
    found = compare(current, baseline, seed=3)
    assert [distance.column for distance in found] == ["answer_chars", "question_chars"]
    assert found == compare(current, baseline, seed=3)


@pytest.mark.parametrize("column", ["input_tokens", "output_tokens"])
def test_azure_distances_equal_the_truth_and_drift(data_file: DataFile, column: str) -> None:
    conversation, code = (
        pd.read_parquet(data_file(f"traces/azure_llm_2023_{name}.parquet"))[column].to_numpy(np.float64)
        for name in ("conv", "code")
    )
    truth = pd.read_csv(data_file("truth/numeric_drift.csv"), index_col="pair")["ks"]
    found = measure(column, Histogram.of(code), Histogram.of(conversation), rng=rng())
    assert found.distance == pytest.approx(truth[f"azure conv vs code {column}"], abs=0.02)
    assert found.distance > LIMIT
    assert found.p_value <= ALPHA / len(JUDGED)
    half = len(conversation) // 2
    quiet = measure(column, Histogram.of(conversation[half:]), Histogram.of(conversation[:half]), rng=rng())
    assert quiet.distance < LIMIT


@pytest.mark.parametrize("provider", ["anyscale", "fireworks", "together"])
def test_provider_distances_equal_the_truth(data_file: DataFile, provider: str) -> None:
    frame = pd.read_parquet(data_file("latency/llmperf.parquet"))
    good = frame[(frame["error_code"] == "None") & (frame["size"] == "70b")]
    truth = pd.read_csv(data_file("truth/numeric_drift.csv"), index_col="pair")["ks"]
    old, new = (
        Histogram.of(good[good["provider"] == name]["ttft_s"].to_numpy(np.float64) * 1000)
        for name in (provider, "groq")
    )
    found = measure("ttft", new, old, rng=rng())
    assert found.distance == pytest.approx(truth[f"llmperf ttft {provider}_70b vs groq_70b"], abs=0.03)


def test_question_lengths_tell_the_known_pairs(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("drift/prompts.parquet"))
    by = {source: rows["text"].reset_index(drop=True) for source, rows in frame.groupby("source")}
    math = by["gsm8k"]
    train = frame[(frame["source"] == "gsm8k") & (frame["split"] == "train")]["text"]
    test = frame[(frame["source"] == "gsm8k") & (frame["split"] == "test")]["text"]
    for old, new in ((train.iloc[::2], train.iloc[1::2]), (train, test)):
        assert measure("question_chars", lengths(new), lengths(old), rng=rng()).distance < LIMIT / 2
    for name in ("humaneval", "pandalm"):
        found = measure("question_chars", lengths(by[name]), lengths(math), rng=rng())
        assert found.distance > LIMIT
        assert found.p_value <= ALPHA / len(JUDGED)


@pytest.mark.parametrize("n", [MIN_ROWS, 400])
def test_random_halves_raise_no_false_alarm(data_file: DataFile, n: int) -> None:
    texts = pd.read_parquet(data_file("drift/prompts.parquet"))["text"].str.len().to_numpy(np.float64)
    source = rng(11)
    rejected = failed = 0
    rounds = 100
    for _ in range(rounds):
        drawn = source.permutation(texts)[: 2 * n]
        found = measure("question_chars", Histogram.of(drawn[:n]), Histogram.of(drawn[n:]), rng=source)
        rejected += found.p_value <= 0.05
        failed += found.distance > LIMIT and found.p_value <= ALPHA / len(JUDGED)
    assert rejected / rounds <= 0.1
    assert failed == 0
