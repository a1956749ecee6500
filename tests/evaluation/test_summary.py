from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.evaluation.summary import (
    SUMMARY_COLUMNS,
    Categories,
    Histogram,
    Summary,
    caller_errors,
    failed_calls,
    release_calls,
    summarise,
)
from tasks.interactions.columns import SCHEMA

DataFile = Callable[[str], Path]

_values = st.lists(st.floats(min_value=0, max_value=1e9), max_size=20)
_words = st.lists(st.sampled_from(["stop", "length", "200", "a|b", "\u00fc"]) | st.none(), max_size=10)


@st.composite
def summaries(draw: st.DrawFn) -> Summary:
    histograms = [Histogram.of(np.array(draw(_values), dtype=np.float64)) for _ in range(6)]
    words = [Categories.of(draw(_words)) for _ in range(3)]
    names = [name for name, _ in Summary().columns()]
    return Summary(n=draw(st.integers(0, 10**9)), **dict(zip(names, [*histograms, *words], strict=True)))


@given(summaries(), summaries(), summaries())
def test_merge_adds_in_any_order_and_grouping(one: Summary, two: Summary, three: Summary) -> None:
    assert one.merge(two) == two.merge(one)
    assert one.merge(two).merge(three) == one.merge(two.merge(three))
    assert one.merge(Summary()) == one


@given(summaries())
def test_json_gives_the_summary_back(summary: Summary) -> None:
    assert Summary.from_json(summary.to_json()) == summary
    assert Summary.from_json(summary.to_json()).to_json() == summary.to_json()


@given(st.lists(st.floats(min_value=0.02, max_value=1e8), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantile_is_within_two_percent(values: list[float], share: float) -> None:
    ordered = sorted(values)
    exact = ordered[max(1, math.ceil(share * len(ordered))) - 1]
    read = Histogram.of(np.array(values)).quantile(share)
    assert read == pytest.approx(exact, rel=0.0201)


def test_quantile_of_nothing_is_unknown_and_zero_is_zero() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram.of(np.array([0.0, 0.0, np.nan])).quantile(0.95) == 0.0
    assert Histogram.of(np.array([0.0, 0.0, np.nan])).n == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, ratio 1.04"),
        ({"ratio": 1.02}, "format 1, ratio 1.02"),
        ({"unknown": 1}, "a JSON object of n"),
        ({"n": -1}, "summary.n: -1 is not allowed; allowed: a count of 0 or more"),
        ({"n": True}, "summary.n: True"),
        ({"latency_ms": [1, 2.5]}, "summary.latency_ms: 2.5"),
        ({"latency_ms": {}}, "summary.latency_ms: {}"),
        ({"status": []}, "summary.status"),
        ({"status": {"200": "3"}}, "summary.status: '3'"),
    ],
)
def test_anything_else_is_no_summary(change: dict[str, object], message: str) -> None:
    document = {**json.loads(Summary().to_json()), **change}
    with pytest.raises(InputError) as caught:
        Summary.from_json(json.dumps(document))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"n":1}'])
def test_a_text_that_is_no_summary_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="summary"):
        Summary.from_json(text)


def test_a_million_rows_stay_under_six_kilobytes(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("traces/servegen_msmall_14d.parquet"), columns=["input_tokens", "output_tokens"])
    inputs, outputs = (Histogram.of(frame[name].to_numpy(np.float64)) for name in ("input_tokens", "output_tokens"))
    spread = Histogram.of(np.exp(np.random.default_rng(1).normal(6.5, 0.7, 1_000_000)))
    scores = Histogram.of(np.random.default_rng(2).beta(5, 1, 1_000_000))
    summary = Summary(
        n=len(frame),
        latency_ms=spread,
        input_tokens=inputs,
        output_tokens=outputs,
        question_chars=inputs,
        answer_chars=outputs,
        quality=scores,
        status=Categories((("200", 1_000_000), ("429", 20_000))),
    )
    assert len(summary.to_json()) < 6 * 1024


def interactions(**columns: list[object]) -> pa.Table:
    """Return rows of the log with the given columns; the others are NULL."""
    n = len(next(iter(columns.values())))
    rows = {field.name: pa.array(columns.get(field.name, [None] * n), field.type) for field in SCHEMA}
    return pa.table({name: rows[name] for name in SUMMARY_COLUMNS})


def test_failed_calls_count_as_failed_and_nowhere_else() -> None:
    table = interactions(
        status=[200, 429, 200, 500],
        error_type=[None, None, "timeout", None],
        latency_ms=[100.0, 0.0, 1.0, None],
        input_tokens=[10, 10, 10, None],
        input_text=["abcde", "x", None, "xy"],
        output_text=["\u00fcber", "", "", None],
        finish_reason=["stop", None, None, None],
        model=["m", "m", "m", None],
    )
    summary = summarise(table, np.array([0.9]))
    assert summary.n == 4
    assert summary.status.counts == (("200", 2), ("429", 1), ("500", 1))
    assert [column.n for _, column in summary.columns()] == [1, 1, 0, 3, 1, 1, 4, 1, 1]
    assert summary.latency_ms.quantile(0.95) == pytest.approx(100, rel=0.02)
    assert summary.answer_chars.quantile(0.5) == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("status", "error_type", "whose"),
    [
        (200, None, "nobody"),
        (399, None, "nobody"),
        *((status, None, "caller") for status in (400, 404, 405, 413, 415, 422, 499)),
        *((status, None, "release") for status in (401, 402, 403, 408, 409, 429, 500, 502, 503, 504, 529)),
        (400, "invalid_request_error", "caller"),
        (413, "request_too_large", "caller"),
        (499, "ClientDisconnect", "caller"),
        (200, "ClientDisconnect", "caller"),
        (400, "endpoint.invalid_request_error", "release"),
        (404, "endpoint.status_404", "release"),
        (499, "endpoint.ReadError", "release"),
        (200, "endpoint.ReadError", "release"),
        (200, "ValueError", "release"),
        (503, "Unloggable", "release"),
        (401, "invalid_request_error", "release"),
        (500, "invalid_request_error", "release"),
    ],
)
def test_whose_fault_a_failed_call_is(status: int, error_type: str | None, whose: str) -> None:
    table = interactions(status=[status, 200], error_type=[error_type, None])
    assert failed_calls(table).to_pylist() == [whose == "release", False]
    assert caller_errors(table).to_pylist() == [whose == "caller", False]
    assert release_calls(table).num_rows == (1 if whose == "caller" else 2)


def test_no_calls_are_nobodys_fault() -> None:
    table = interactions(status=[200]).slice(0, 0)
    assert failed_calls(table).to_pylist() == caller_errors(table).to_pylist() == []


def test_published_latency_quantiles_are_met_without_errors(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("latency/llmperf.parquet"))
    published = pd.read_csv(data_file("truth/llmperf_published_quantiles.csv"), index_col="name")
    checked = 0
    for (provider, size), rows in frame.groupby(["provider", "size"]):
        good = rows[rows["error_code"] == "None"]["end_to_end_latency_s"] * 1000
        histogram = summarise(_calls(rows), np.array([])).latency_ms
        assert histogram.n == len(good)
        for at, share in {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95}.items():
            truth = published.loc[f"{provider}_{size}", f"end_to_end_latency_s_quantiles_{at}"] * 1000
            assert np.quantile(good, share) == pytest.approx(truth, rel=1e-6)
            # The publisher interpolates between two calls; a histogram names one of the two.
            low, high = (np.quantile(good, share, method=method) for method in ("lower", "higher"))
            assert low * 0.98 <= (histogram.quantile(share) or 0) <= high * 1.02
            checked += 1
    assert checked == 56


def test_counting_failed_calls_would_make_a_failing_provider_look_faster(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("latency/llmperf.parquet"))
    rows = frame[(frame["provider"] == "lepton") & (frame["size"] == "70b")]
    everything = Histogram.of(rows["end_to_end_latency_s"].to_numpy(np.float64) * 1000)
    honest = summarise(_calls(rows), np.array([])).latency_ms
    assert (everything.quantile(0.5) or 0) < 0.5 * (honest.quantile(0.5) or 0)


def _calls(rows: pd.DataFrame) -> pa.Table:
    failed = rows["error_code"] != "None"
    return interactions(
        status=[429 if bad else 200 for bad in failed],
        latency_ms=(rows["end_to_end_latency_s"] * 1000).tolist(),
    )
