"""Time series: replaced by window, read from Python and SQL, and SQL reads nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.stores.lake import Lake
from tasks.stores.metrics import METRICS_SCHEMA, Metrics

START = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(Lake(tmp_path / "lake"))


def row(night: int, value: float, *, digest: str = "a" * 64, segment: str = "", metric: str = "quality_mean") -> Any:
    start = START + night * DAY
    times = {"window": f"night {night}", "window_start": start, "window_end": start + DAY}
    names = {"application": "faq", "release_digest": digest, "version": "1", "segment": segment, "metric": metric}
    return {**names, **times, "value": value, "low": value - 0.1, "high": None, "n": 10, "outcome": "pass"}


def test_without_any_evaluation_there_is_an_empty_series(metrics: Metrics) -> None:
    assert metrics.series("faq", "quality_mean").schema == METRICS_SCHEMA
    assert metrics.query("SELECT count(*) AS n FROM metrics").to_pylist() == [{"n": 0}]


def test_a_window_that_is_measured_again_replaces_itself(metrics: Metrics) -> None:
    metrics.replace("faq", "night 0", [row(0, 0.5), row(0, 0.4, segment="route=a"), row(0, 0.1, digest="b" * 64)])
    metrics.replace("faq", "night 1", [row(1, 0.6)])
    metrics.replace("faq", "night 0", [row(0, 0.9)])
    found = metrics.series("faq", "quality_mean", segment=None).to_pylist()
    assert [(one["window_start"], one["value"]) for one in found] == [(START, 0.9), (START + DAY, 0.6)]
    with pytest.raises(InputError, match="replacing window 'night 1' with rows of window night 0"):
        metrics.replace("faq", "night 1", [row(0, 0.9)])


def test_a_series_is_of_a_time_a_release_and_a_segment(metrics: Metrics) -> None:
    for night in range(4):
        here = [row(night, 0.1 * night), row(night, 0.5, digest="b" * 64), row(night, 0.7, segment="route=a")]
        metrics.replace("faq", f"night {night}", [*here, row(night, 3, metric="drift")])

    def values(**keys: Any) -> list[float]:
        return list(metrics.series("faq", "quality_mean", **keys)["value"].to_pylist())

    assert values(since=START + DAY, until=START + 2 * DAY, release="a" * 12) == [0.1]
    assert values(release="b") == [0.5] * 4
    assert values(segment="route=a", since=START + 2 * DAY) == [0.7] * 2
    assert metrics.series("other", "quality_mean").num_rows == 0
    with pytest.raises(InputError, match="metric: 'qualty' is not allowed; allowed: interactions, latency_p95_ms"):
        metrics.series("faq", "qualty")
    with pytest.raises(InputError, match="a time with a time zone"):
        metrics.series("faq", "drift", since=datetime(2026, 1, 1))  # noqa: DTZ001


def test_sql_reads_the_metrics(metrics: Metrics) -> None:
    metrics.replace("faq", "night 0", [row(0, 0.5), row(0, 0.7, segment="route=a")])
    found = metrics.query("SELECT segment, avg(value) AS mean FROM metrics GROUP BY 1 ORDER BY 1")
    assert found.to_pylist() == [{"segment": "", "mean": 0.5}, {"segment": "route=a", "mean": 0.7}]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DROP VIEW metrics", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("COPY metrics TO '/tmp/out.csv'", "one SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT * FROM '/etc/hosts.csv'", "hosts.csv"),
        ("SELECT nothing FROM metrics", "columns of metrics: application, release_digest"),
        ("SELEC", "columns of metrics"),
        ("", "one SELECT"),
    ],
)
def test_sql_that_does_anything_else_is_refused(metrics: Metrics, sql: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        metrics.query(sql)
