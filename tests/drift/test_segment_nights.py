"""Segments of a baseline and of nights after it: what is kept, what is warned of, and what is not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta

import duckdb
import numpy as np
import pytest
from scipy import stats

from tasks.drift.baseline import make_night
from tasks.drift.columns import CategoryColumn, NumberColumn, Scan
from tasks.drift.named import SPEC
from tasks.drift.nights import Night
from tasks.drift.scan import scan_relation
from tasks.drift.segment_nights import ALPHA, hold_segments, usual_nights
from tasks.drift.segments import (
    KeptSegment,
    KeptSegments,
    Segment,
    SegmentNight,
    keep_segments,
    read_segments,
    scan_segments,
    segments_row,
)
from tasks.errors import InputError
from tasks.evaluation.summary import Categories, Histogram
from tasks.monitors.verdict import Check, Outcome

MONDAY = date(2026, 3, 2)
KNOWN, EACH = 14, 900
KEYS = {"application": "faq", "name": "autumn", "digest": "d" * 64}
FAIL, PASS = Outcome.FAIL, Outcome.PASS


@pytest.fixture(scope="module")
def calls() -> Iterator[duckdb.DuckDBPyRelation]:
    """Return two weeks and two nights more, without any change; weekends are slower by a quarter."""
    with duckdb.connect() as db:
        db.execute("SET threads = 1")
        db.execute("SELECT setseed(0.25)")
        day, normal = f"DATE '{MONDAY}' + (i // {EACH})::INT", "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
        db.execute(
            f"""
            CREATE TABLE calls AS
            SELECT {day} AS date_utc, 'u' || (random() * 299)::INT AS user_hash,
                   NULL::VARCHAR AS session_id, NULL::VARCHAR AS unit, 'i' || i AS interaction_id,
                   exp(5 + 0.3 * {normal}) * if(isodow({day}) > 5, 1.25, 1) AS latency_ms,
                   (20 + random() * 20)::BIGINT AS input_tokens, (30 + random() * 30)::BIGINT AS output_tokens,
                   (50 + random() * 50)::BIGINT AS question_chars, NULL::BIGINT AS answer_chars,
                   if(random() < 0.95, 'stop', 'length') AS finish_reason, 'en' AS language,
                   if(i % 9 = 0, 'search', 'chat') AS route, 'bot' AS model, 1 + i % 2 AS prompt_version,
                   if(i % 4 = 0, ['team=one', 'kind=' || i], ['team=two']) AS tags
            FROM range({(KNOWN + 2) * EACH}) t(i)
            """  # noqa: S608 - of our own
        )
        yield db.table("calls")


@pytest.fixture(scope="module")
def kept(calls: duckdb.DuckDBPyRelation) -> KeptSegments:
    return keep_segments(calls.filter(f"date_utc < DATE '{MONDAY + timedelta(days=KNOWN)}'"), SPEC)


def night_of(
    calls: duckdb.DuckDBPyRelation, kept: KeptSegments, night: int, latency: str = "latency_ms", more: str = "true"
) -> SegmentNight:
    rows = calls.filter(f"date_utc = DATE '{MONDAY + timedelta(days=night)}' AND {more}")
    others = ", ".join(name for name in rows.columns if name != "latency_ms")
    return scan_segments(rows.project(f"{others}, {latency} AS latency_ms"), kept, SPEC)


def warned(told: Sequence[tuple[str, Check]]) -> dict[str, str]:
    return {name: check.statement for name, check in told if check.outcome is FAIL}


def test_the_largest_of_each_dimension_are_kept_with_what_each_night_came_to(
    calls: duckdb.DuckDBPyRelation, kept: KeptSegments
) -> None:
    assert [(one.segment.name, one.n) for one in kept.segments] == [
        ("route=chat", 11200),
        ("route=search", 1400),
        ("prompt_version=1", 6300),
        ("prompt_version=2", 6300),
        ("tag=team=two", 9450),
        ("tag=team=one", 3150),
    ], "one model and one language are the whole, and tags of one call each are too small"
    one = next(one for one in kept.segments if one.segment.name == "tag=team=one")
    rows = calls.filter(f"list_contains(tags, 'team=one') AND date_utc = DATE '{MONDAY + timedelta(days=3)}'")
    scan = scan_relation(rows, replace(SPEC, segments=()))
    assert one.nights[3] == make_night(MONDAY + timedelta(days=3), scan, SPEC.numbers)
    assert [item.name for item in one.words] == ["finish_reason", "language"]


def test_they_are_read_as_they_were_kept_and_nothing_else_is(kept: KeptSegments) -> None:
    row = segments_row(KEYS, kept)
    assert read_segments(row, KEYS["digest"]) == kept
    assert len(row["content"][0].as_py()) < 1200 * len(kept.segments)
    assert read_segments(row, "e" * 64) is None
    assert read_segments(None, KEYS["digest"]) is None
    changed = row.set_column(3, row.schema.field("content"), [["x" + row["content"][0].as_py()[1:]]])
    with pytest.raises(InputError, match="segments: they are not what was kept; make the baseline anew"):
        read_segments(changed, KEYS["digest"])
    with pytest.raises(InputError, match=r"segments: they cannot be read \(error\); make the baseline anew"):
        KeptSegments.unpack("0" * 20)
    with pytest.raises(InputError, match=r"segments\.format: 2 is not allowed; allowed: 1; make the baseline anew"):
        KeptSegments.unpack(replace(kept, format=2).pack())


@pytest.mark.parametrize("night", [KNOWN, KNOWN + 1])
def test_a_quiet_night_warns_of_nothing(calls: duckdb.DuckDBPyRelation, kept: KeptSegments, night: int) -> None:
    told = hold_segments(night_of(calls, kept, night), SPEC, (), weekend=False)
    assert {check.outcome for _, check in told} == {PASS}
    assert (
        "drift of route=chat: 6 columns not shown to differ (n=800, baseline n=11200)"
        in {check.statement for _, check in told}
        or night > KNOWN
    ), "the answers have no length"


def test_a_route_that_is_slower_by_half_is_warned_of_by_its_name_and_nothing_else_is(
    calls: duckdb.DuckDBPyRelation, kept: KeptSegments
) -> None:
    night = night_of(calls, kept, KNOWN, "if(route = 'search', 1.5, 1.0) * latency_ms")
    told = warned(hold_segments(night, SPEC, (), weekend=False))
    assert list(told) == ["route=search"]
    found = re.fullmatch(
        r"drift of route=search: latency_ms mean x 1\.(..?) \[x 1\.\d+, x \d\.\d+\] (.*)", told["route=search"]
    )
    assert found is not None
    assert float(f"1.{found[1]}") == pytest.approx(1.5, abs=0.12)
    assert found[2] == "wholly beyond x 1.05 (n=100, baseline n=1400)"


def test_weekends_are_held_against_weekends(calls: duckdb.DuckDBPyRelation, kept: KeptSegments) -> None:
    saturday = KNOWN - 2
    night = night_of(calls, kept, saturday)
    assert warned(hold_segments(night, SPEC, (), weekend=True)) == {}
    told = warned(hold_segments(night, SPEC, (), weekend=False))
    assert "route=chat" in told
    assert told["route=chat"].startswith("drift of route=chat: latency_ms mean x 1.2")


def test_what_failed_as_a_whole_is_not_said_again_and_too_few_calls_say_nothing(
    calls: duckdb.DuckDBPyRelation, kept: KeptSegments
) -> None:
    slow = night_of(calls, kept, KNOWN, "2 * latency_ms")
    assert len(warned(hold_segments(slow, SPEC, (), weekend=False))) == len(kept.segments)
    assert warned(hold_segments(slow, SPEC, ("latency_ms",), weekend=False)) == {}
    few = night_of(calls, kept, KNOWN, "2 * latency_ms", "interaction_id LIKE '%7'")
    assert hold_segments(few, SPEC, (), weekend=False) == ()


def test_words_of_a_segment_are_held_too(kept: KeptSegments) -> None:
    cut = Categories((("length", 240), ("stop", 60)))
    words = (CategoryColumn(name="finish_reason", categories=cut, effective_n=300.0),)
    scans = [Scan(n=300, categories=words) if one.segment.value == "search" else Scan() for one in kept.segments]
    told = warned(hold_segments(SegmentNight(kept=kept, scans=tuple(scans)), SPEC, (), weekend=False))
    assert list(told) == ["route=search"]
    assert told["route=search"].startswith("drift of route=search: finish_reason words +0.7")


def test_one_user_is_no_evidence(kept: KeptSegments) -> None:
    one = NumberColumn(name="latency_ms", histogram=Histogram(((400, 300),)), effective_n=1.0)
    night = SegmentNight(kept=kept, scans=tuple(Scan(n=300, numbers=(one,)) for _ in kept.segments))
    assert hold_segments(night, SPEC, (), weekend=False) == ()


def nights(values: Sequence[float], n: int = 100) -> tuple[Night, ...]:
    return tuple(Night(day=MONDAY + timedelta(days=at), n=n, values=(("x", value),)) for at, value in enumerate(values))


def test_what_is_usual_is_the_prediction_interval_of_one_more_night() -> None:
    values = [1.0, 1.2, 0.8, 1.1, 0.9, 3.0, 3.2]
    usual = usual_nights(nights(values), "x", weekend=False)
    assert usual is not None
    squares = sum((value - 1.0) ** 2 for value in values[:5]) + 2 * 0.1**2
    assert usual.mean == pytest.approx(1.0)
    assert (usual.nights, usual.freedom, usual.n) == (5, 5, 100)
    assert usual.deviation == pytest.approx(math.sqrt(squares / 5))
    wanted = stats.t.isf(0.005, 5) * usual.deviation * math.sqrt(1 + 1 / 5)
    assert usual.margin(0.01, 100) == pytest.approx(wanted)
    assert usual.margin(0.01, 400) == pytest.approx(wanted), "more calls than usual are no licence"
    assert usual.margin(0.01, 25) == pytest.approx(wanted * math.sqrt(4 + 1 / 5) / math.sqrt(1 + 1 / 5))
    weekend = usual_nights(nights(values), "x", weekend=True)
    assert weekend is not None
    assert weekend.mean == pytest.approx(3.1)
    assert (weekend.nights, weekend.deviation) == (2, usual.deviation)


@pytest.mark.parametrize(
    ("values", "weekend"), [([1.0] * 4, False), ([1.0] * 6, True), ([1.0] * 5, True)], ids=["few", "one", "none"]
)
def test_too_few_nights_say_nothing(values: list[float], weekend: bool) -> None:
    assert usual_nights(nights(values), "x", weekend=weekend) is None


def test_a_night_of_less_than_half_the_calls_is_left_out() -> None:
    usual = (*nights([1.0, 1.2, 0.8, 1.1, 0.9]), Night(day=MONDAY + timedelta(days=7), n=40, values=(("x", 9.0),)))
    found = usual_nights(usual, "x", weekend=False)
    assert found == usual_nights(nights([1.0, 1.2, 0.8, 1.1, 0.9]), "x", weekend=False)


def test_quiet_nights_are_warned_of_as_seldom_as_they_may_be() -> None:
    """Draw what nights came to as the test supposes: normal, in 100 worlds of 8 segments, weekdays and weekends."""
    source, false = np.random.default_rng(7), 0
    spec = replace(SPEC, numbers=SPEC.numbers[:1], categories=())
    for _ in range(100):
        levels = source.normal(5, 0.05, (8, KNOWN + 1))
        segments = [
            replace(_segment(at), nights=tuple(_night(day, value) for day, value in enumerate(row[:KNOWN])))
            for at, row in enumerate(levels)
        ]
        scans = tuple(_scan(row[-1]) for row in levels)
        night = SegmentNight(kept=KeptSegments(segments=tuple(segments)), scans=scans)
        false += bool(warned(hold_segments(night, spec, (), weekend=False)))
    assert false <= stats.binom.ppf(0.999, 100, ALPHA / 2)


def _segment(at: int) -> KeptSegment:
    return KeptSegment(segment=Segment(dimension="route", value=f"r{at}"), n=KNOWN * 500, words=(), nights=())


def _night(day: int, level: float) -> Night:
    return Night(day=MONDAY + timedelta(days=day), n=500, values=(("latency_ms", float(level)),))


def _scan(level: float) -> Scan:
    values = np.exp(np.full(500, level))
    column = NumberColumn(name="latency_ms", histogram=Histogram.of(values), effective_n=500.0)
    return Scan(n=500, numbers=(column,))
