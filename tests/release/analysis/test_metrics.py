"""Metrics: what each call is worth, and what is not known about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import InputError
from tasks.release.analysis.metrics import Margins, Metric, capped_cost, default_metrics, failures, slower_than

SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("status", pa.int32()),
        ("error_type", pa.string()),
        ("latency_ms", pa.float64()),
        ("quality", pa.float64()),
        ("toxicity", pa.float64()),
        ("cost_pusd", pa.int64()),
    ]
)
GOOD = {
    "unit": "u",
    "status": 200,
    "error_type": None,
    "latency_ms": 100.0,
    "quality": 0.9,
    "toxicity": 0.1,
    "cost_pusd": 1000,
}
METRICS = {metric.name: metric for metric in default_metrics(latency_limit_ms=1000, stable_cost_pusd=1000.0)}


def badness(metric: Metric, **changed: Any) -> float:
    return float(metric.observe(pa.Table.from_pylist([GOOD | changed], schema=SCHEMA))[0])


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("success", {}, 0.0),
        ("success", {"status": 429}, 1.0),
        ("success", {"error_type": "timeout"}, 1.0),
        ("latency", {"latency_ms": 1000.0}, 0.0),
        ("latency", {"latency_ms": 1000.1}, 1.0),
        ("latency", {"latency_ms": None}, np.nan),
        ("latency", {"latency_ms": 1.0, "status": 500}, np.nan),
        ("quality", {}, 0.1),
        ("quality", {"quality": None}, np.nan),
        ("quality", {"quality": 1.0, "status": 500}, np.nan),
        ("toxicity", {"toxicity": 0.5}, 1.0),
        ("toxicity", {"toxicity": 0.49}, 0.0),
        ("toxicity", {"toxicity": None}, np.nan),
        ("missing", {}, 0.0),
        ("missing", {"quality": None}, 1.0),
        ("missing", {"quality": None, "status": 500}, np.nan),
        ("cost", {}, 0.25),
        ("cost", {"cost_pusd": 9_999_999}, 1.0),
        ("cost", {"cost_pusd": None}, np.nan),
        ("cost", {"cost_pusd": 2000, "status": 500}, 1.0),
        ("cost", {"cost_pusd": None, "status": 500}, np.nan),
    ],
)
def test_each_call_is_a_badness_from_0_to_1_or_unknown(name: str, changed: dict[str, Any], expected: float) -> None:
    assert badness(METRICS[name], **changed) == pytest.approx(expected, nan_ok=True)


def test_failed_calls_are_paid_for_by_the_answers_of_their_user() -> None:
    rows = [
        {"unit": "a", "cost_pusd": 500},
        {"unit": "b", "cost_pusd": 1000},
        {"unit": "a", "cost_pusd": 1500, "status": 500},
        {"unit": "c", "cost_pusd": 10},
        {"unit": "c", "cost_pusd": None},
    ]
    calls = pa.Table.from_pylist([GOOD | row for row in rows], schema=SCHEMA)
    found = METRICS["cost"].observe(calls)
    assert found[:3].tolist() == [2000 / 4000, 1000 / 4000, 2000 / 4000]
    assert np.isnan(found[3:]).all()
    assert METRICS["cost"].observe(calls.slice(0, 0)).tolist() == []


def test_people_read_success_and_quality_the_other_way_round() -> None:
    assert [METRICS[name].shown(0.1) for name in ("success", "quality", "toxicity")] == [0.9, 0.9, 0.1]


def test_the_defaults_leave_out_what_is_not_known() -> None:
    assert list(METRICS) == ["success", "latency", "quality", "toxicity", "missing", "cost"]
    assert [metric.name for metric in default_metrics(latency_limit_ms=1, is_scored=False)] == ["success", "latency"]
    assert default_metrics(latency_limit_ms=1, margins=Margins(success=0.5))[0].margin == 0.5


def test_a_second_quantile_has_its_own_name() -> None:
    assert badness(slower_than("median latency", 50, 0.1)) == 1.0


@pytest.mark.parametrize("margin", [0, 1, float("nan")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match="margin of x"):
        Metric(name="x", words="x", margin=margin, observe=failures)


@pytest.mark.parametrize("cost", [0, -1, float("nan")])
def test_unknown_cost_is_no_scale(cost: float) -> None:
    with pytest.raises(InputError, match="None where it is unknown"):
        capped_cost(cost, 0.1)
