"""Segments: who broke a limit, what explains a breach, and that chance raises no warning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.evaluation.evidence import Evidence, Measured
from tasks.evaluation.segments import ALPHA, MIN_ROWS, explain, find_segments, warn
from tasks.evaluation.summary import Summary
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Monitors

MONITORS = Monitors()


def measured_of(n: int, **columns: Any) -> Measured:
    """Return calls that are all well but for the given columns."""
    known: dict[str, Any] = {
        "interaction_id": [str(at) for at in range(n)],
        "failed": np.zeros(n, dtype=bool),
        "latency_ms": np.full(n, 100.0),
        "quality": np.full(n, 0.9),
        "toxicity": np.zeros(n),
        "route": [None] * n,
        "prompt_version": [1] * n,
        "model": ["bot"] * n,
        "language": [None] * n,
        "tags": [None] * n,
    } | columns
    types = {"route": pa.string(), "language": pa.string(), "tags": pa.list_(pa.string()), "prompt_version": pa.int64()}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in known.items()})
    calls = pa.chunked_array([table["interaction_id"].combine_chunks()]).combine_chunks()
    nothing = np.zeros(0)
    return Measured(
        evidence=Evidence(summary=Summary(n=n)), interaction_ids=calls, quality=nothing, toxicity=nothing, calls=table
    )


def failed(monitor: str, value: float, limit: float) -> Check:
    return Check(monitor=monitor, outcome=Outcome.FAIL, statement="", value=value, limit=limit, n=1000)


def routes(n: int) -> list[str]:
    return ["chat" if at % 4 else "search" for at in range(n)]


def test_calls_are_divided_by_column_and_by_each_tag() -> None:
    tags = [["beta=yes", "team=a"] if at < 100 else ["team=a"] if at < 300 else [] for at in range(400)]
    found = find_segments(measured_of(400, route=routes(400), tags=tags), MONITORS)
    assert [(one.name, one.n) for one in found] == [
        ("route=chat", 300),
        ("route=search", 100),
        ("tag=team=a", 300),
        ("tag=beta=yes", 100),
    ]


def test_a_segment_below_the_floor_and_one_of_every_call_are_left_out() -> None:
    language = ["de" if at < MIN_ROWS - 1 else "en" for at in range(400)]
    found = find_segments(measured_of(400, language=language), MONITORS)
    assert [one.name for one in found] == ["language=en"]
    assert find_segments(measured_of(0), MONITORS) == ()


def test_a_segment_that_breaks_a_limit_the_release_keeps_is_a_warning_in_words() -> None:
    is_search = np.array([name == "search" for name in routes(2000)])
    slow = np.where(is_search & (np.arange(2000) % 5 < 1), 5000.0, 100.0)
    wrong = np.where(is_search, 0.5, 0.9)
    measured = measured_of(2000, route=routes(2000), latency_ms=slow, quality=wrong)
    checks = warn(find_segments(measured, MONITORS), [], MONITORS)
    assert [(name, check.statement) for name, check in checks if check.outcome is Outcome.FAIL] == [
        ("route=search", "p95 latency of route=search 5000 ms > limit 1000 ms (n=500)"),
        ("route=search", "mean quality of route=search 0.5 < limit 0.7 (n=500)"),
    ]
    assert {check.outcome for name, check in checks if name == "route=chat"} == {Outcome.PASS}


def test_a_monitor_that_the_release_fails_is_no_news_of_its_segments() -> None:
    measured = measured_of(2000, route=routes(2000), quality=np.full(2000, 0.1))
    checks = warn(find_segments(measured, MONITORS), [failed("quality", 0.1, 0.7)], MONITORS)
    assert "quality" not in {check.monitor for _, check in checks}


def test_segments_on_the_limit_hardly_ever_warn() -> None:
    """Forty segments whose truth is the limit itself, in every monitor: any warning in at most one night in ALPHA."""
    source, warned, nights = np.random.default_rng(3), 0, 100
    languages = np.repeat([f"l{at:02}" for at in range(20)], 60)
    for _ in range(nights):
        n = len(languages)
        measured = measured_of(
            n,
            language=languages,
            failed=source.random(n) < MONITORS.errors,
            toxicity=(source.random(n) < MONITORS.toxicity).astype(float),
            latency_ms=source.exponential(MONITORS.latency_ms / np.log(20), n),
            quality=(source.random(n) < MONITORS.quality).astype(float),
        )
        checks = warn(find_segments(measured, MONITORS), [], MONITORS)
        assert len(checks) == 20 * 4
        warned += any(check.outcome is Outcome.FAIL for _, check in checks)
    assert warned / nights <= 3 * ALPHA


def test_the_segment_behind_a_breach_is_named_with_what_is_left_without_it() -> None:
    broken = np.array([name == "search" and at % 2 == 0 for at, name in enumerate(routes(2000))])
    language = ["en" if at % 2 else "de" for at in range(2000)]
    measured = measured_of(2000, route=routes(2000), failed=broken, language=language)
    (first, second) = explain(measured, failed("errors", float(broken.mean()), 0.05))
    assert (first.segment, first.n, first.without) == ("route=search", 500, 0.0)
    assert first.share == pytest.approx(0.25 / 0.2)
    assert second.segment == "language=de"  # the failures are among its calls, too
    assert explain(measured, failed("errors", 0.04, 0.05)) == ()
    assert explain(measured, failed("drift", 0.4, 0.05)) == ()


def test_quality_is_explained_the_other_way_round() -> None:
    wrong = np.where(np.array(routes(1000)) == "search", 0.0, 0.9)
    (found,) = explain(measured_of(1000, route=routes(1000), quality=wrong), failed("quality", 0.675, 0.7))
    assert found.segment == "route=search"
    assert found.without == pytest.approx(0.9)
