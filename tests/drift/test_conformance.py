"""What the stored counts say, held against exact values, and against those of Evidently 0.7.23 on the same rows."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from tasks.drift.columns import CategoryColumn, NumberColumn
from tasks.drift.distance import measure
from tasks.drift.nights import Watched
from tasks.drift.numeric import NumberRule, compare_numbers, compare_words, measure_distance
from tasks.evaluation.summary import BIN_RATIO, SMALLEST, Categories, Histogram
from tasks.monitors.verdict import Outcome

DataFile = Callable[[str], Path]
Values = NDArray[np.float64]
AZURE, HALVES, TTFT = "azure conv vs code", "azure conv first vs second half-hour", "llmperf ttft"
PAIRS = (
    *(f"{name} {column}" for name in (AZURE, HALVES) for column in ("input_tokens", "output_tokens")),
    *(f"{TTFT} {provider}_70b vs groq_70b" for provider in ("anyscale", "fireworks", "together")),
)
EVIDENTLY_WASSERSTEIN = dict(zip(PAIRS, (0.83410, 1.12675, 0.15925, 0.15634, 0.37166, 2.16188, 4.37798), strict=True))
"""Its ``wasserstein``: the distance over the reference's standard deviation; from 0.1 on it calls it drift."""
EVIDENTLY_WORDS = {"jensenshannon": 0.48552661331196634, "psi": 3.8888495410598662}
"""Of the models of the first half of the aider messages, the reference, and of the second half."""


def sides(data_file: DataFile, pair: str) -> tuple[Values, Values]:
    """Return the reference and the current values of a pair; seconds become milliseconds."""
    if pair.startswith(TTFT):
        frame = pd.read_parquet(data_file("latency/llmperf.parquet"))
        good = frame[(frame["error_code"] == "None") & (frame["size"] == "70b")]
        provider = pair.removeprefix(f"{TTFT} ").split("_")[0]
        old, new = (good[good["provider"] == name]["ttft_s"].to_numpy(np.float64) * 1000 for name in (provider, "groq"))
        return old, new
    column = pair.rsplit(" ", 1)[1]
    frame = pd.read_parquet(data_file("traces/azure_llm_2023_conv.parquet"))
    old = frame[column].to_numpy(np.float64)
    if pair.startswith(AZURE):
        return old, pd.read_parquet(data_file("traces/azure_llm_2023_code.parquet"))[column].to_numpy(np.float64)
    half = int(truth(data_file)["n_ref"][pair])
    ordered = frame.sort_values("ts_utc", kind="stable")[column].to_numpy(np.float64)
    return ordered[:half], ordered[half:]


def truth(data_file: DataFile) -> pd.DataFrame:
    return pd.read_csv(data_file("truth/numeric_drift.csv"), index_col="pair")


def column_of(values: Values) -> NumberColumn:
    return NumberColumn(name="x", histogram=Histogram.of(values), effective_n=len(values))


def spread(column: NumberColumn) -> tuple[Values, Values]:
    """Return the middle of each bin and the share of the values in it."""
    bins = np.array(column.histogram.bins, dtype=np.float64)
    places = np.where(bins[:, 0] > 0, SMALLEST * BIN_RATIO ** (bins[:, 0] - 0.5), 0.0)
    return places, bins[:, 1] / bins[:, 1].sum()


@pytest.mark.parametrize("pair", PAIRS)
def test_the_stored_bins_give_the_exact_distances(data_file: DataFile, pair: str) -> None:
    old, new = sides(data_file, pair)
    exact = truth(data_file).loc[pair]
    assert (len(old), len(new)) == (exact["n_ref"], exact["n_cur"])
    stored, current = column_of(old), column_of(new)
    assert len(json.dumps(stored.histogram.bins)) < 6000, "the rows are not needed"
    distance = measure_distance(current, stored, Watched(name="x"))
    assert distance == pytest.approx(exact["ks"], abs=0.004)
    (was, share_was), (now, share_now) = spread(stored), spread(current)
    moved = wasserstein_distance(was, now, share_was, share_now)
    unit = 1000 if pair.startswith(TTFT) else 1
    assert moved / unit == pytest.approx(exact["wasserstein"], rel=0.01)
    deviation = math.sqrt(float(share_was @ (was - share_was @ was) ** 2))
    assert moved / deviation == pytest.approx(EVIDENTLY_WASSERSTEIN[pair], rel=0.015)


@pytest.mark.parametrize("pair", PAIRS)
def test_what_evidently_calls_drift_is_called_drift_where_it_matters(data_file: DataFile, pair: str) -> None:
    assert EVIDENTLY_WASSERSTEIN[pair] >= 0.1, "it calls all of them drift"
    old, new = sides(data_file, pair)
    watched = Watched(name="x")
    effects = compare_numbers(column_of(new), column_of(old), watched, NumberRule(watched=(watched,)))
    said = {effect.measure: effect.outcome for effect in effects}
    few = f"{TTFT} anyscale_70b vs groq_70b"
    assert (Outcome.FAIL in said.values()) is (pair != few), "150 rows with p 0.0049 do not show it at 0.01 over all"
    assert (said["distribution"] is Outcome.FAIL) is (pair != few and not pair.startswith(HALVES))


def test_words_give_evidentlys_numbers_to_the_last_digit(data_file: DataFile) -> None:
    with gzip.open(data_file("traces/aider_usage.jsonl.gz"), "rt", encoding="utf-8") as lines:
        models = [model for line in lines if (model := json.loads(line)["main_model"])]
    old, new = Categories.of(models[: len(models) // 2]), Categories.of(models[len(models) // 2 :])
    words = sorted({word for side in (old, new) for word, _ in side.counts})
    was, now = (np.array([dict(side.counts).get(word, 0) / side.n for word in words]) for side in (old, new))
    assert float(jensenshannon(was, now)) == pytest.approx(EVIDENTLY_WORDS["jensenshannon"], rel=1e-12)
    filled_was, filled_now = fill(was), fill(now)
    psi = float(np.sum((filled_was - filled_now) * np.log(filled_was / filled_now)))
    assert psi == pytest.approx(EVIDENTLY_WORDS["psi"], rel=1e-12)
    stored, current = (CategoryColumn(name="x", categories=side, effective_n=side.n) for side in (old, new))
    effect = compare_words(current, stored, NumberRule(watched=(), categories=("x",)))
    assert effect.outcome is Outcome.FAIL
    assert effect.value == pytest.approx(0.5029985007496253)


def fill(shares: Values) -> Values:
    """Return shares with Evidently's stand-in for those that are 0."""
    least = float(shares[shares > 0].min())
    return np.where(shares == 0, least / 10**6 if least <= 1e-4 else 1e-4, shares)


def test_total_variation_counts_ties_that_evidently_loses(data_file: DataFile) -> None:
    cases = json.loads(data_file("conformance/evidently_stattests.json").read_text(encoding="utf-8"))
    found = [case for case in cases if case["test"].startswith("tvd")]
    assert len(found) == 2
    for case in found:
        at_least, above = tails(case["reference"], case["current"])
        sides_of = (Categories.of(case[name]) for name in ("current", "reference"))
        ours = measure("x", *sides_of, rng=np.random.default_rng(0))
        assert ours.p_value == pytest.approx(at_least, abs=3 * math.sqrt(at_least * (1 - at_least) / 999))
        assert above < case["expected_score"] < at_least, "it compares floats, so some ties do not count"


def tails(reference: Sequence[object], current: Sequence[object]) -> tuple[float, float]:
    """Return how often a permutation gives the distance or more, and more; in whole numbers."""
    old, new = (dict(Categories.of(side).counts) for side in (reference, current))
    was, now = (np.array([side.get(word, 0) for word in sorted({*old, *new})]) for side in (old, new))
    drawn = np.random.default_rng(1).multivariate_hypergeometric(was + now, was.sum(), size=200_000)
    distances = np.abs(2 * drawn - (was + now)).sum(axis=1)
    seen = np.abs(was - now).sum()
    return float((distances >= seen).mean()), float((distances > seen).mean())
