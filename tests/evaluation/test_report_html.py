"""The HTML report: one file that loads nothing, runs nothing and stays small."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
from sample_release import URL, release_of

from tasks.evaluation.evidence import Cost, Evidence, Shown, estimate_mean, estimate_share
from tasks.evaluation.expectations import Gate
from tasks.evaluation.plots import Line, draw_png, draw_series
from tasks.evaluation.report import Evaluation, Judged, metric_rows, write_report
from tasks.evaluation.report_html import MAX_BYTES, render_html
from tasks.evaluation.segments import Explanation, Segment
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import PromptRef

START = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
EVIL = "<script>alert(1)</script>"


def check(monitor: str, outcome: Outcome, value: float, limit: float, statement: str = "a < b") -> Check:
    return Check(monitor=monitor, outcome=outcome, statement=statement, value=value, limit=limit, n=50)


def judged_of(version: str, *, segments: int = 1) -> Judged:
    release = release_of(version, endpoint=URL, prompt=PromptRef(name="answer", text="t"))
    checks = (check("quality", Outcome.FAIL, 0.25, 0.7), check("errors", Outcome.PASS, 0.01, 0.05))
    estimate = estimate_share(30, 60)
    assert estimate is not None
    names = [f"route={EVIL}{at}" for at in range(segments)]
    return Judged(
        release=release,
        evidence=Evidence(
            summary=Summary(n=60),
            errors=estimate_share(3, 60),
            quality=estimate_mean(np.full(50, 0.25)),
            answers=57,
            cost=Cost(usd_per_day=1.5, coverage=1.0, n=60),
        ),
        verdict=Verdict(
            application="faq", release_digest=release.digest, window_start=START, window_end=START + DAY, checks=checks
        ),
        segments=tuple(
            Segment(name=name, n=60, estimates={"errors": estimate}, p_values={"errors": 0.0}) for name in names
        ),
        segment_checks=tuple((name, check("errors", Outcome.FAIL, 0.5, 0.05, f"of {name}")) for name in names),
        explanations=(Explanation(monitor="quality", segment=f"route={EVIL}", n=9, without=0.8, share=1.0),),
        deployment_id="bot-1-now",
    )


def evaluation_of(*judged: Judged) -> Evaluation:
    return Evaluation(
        application="faq",
        window=Window(start=START, end=START + DAY),
        gate=Gate(success=True, n=70, expectations=12),
        judged=judged,
        interactions=70,
        hours={START + timedelta(hours=at): at for at in range(24)},
        usual={START + timedelta(hours=at): 12.0 for at in range(24)},
    )


def history_of(evaluated: Evaluation, nights: int) -> list[dict[str, object]]:
    rows = [row for row in metric_rows(evaluated) if not row["segment"]]
    return [
        {**row, "window_end": row["window_end"] + night * DAY, "value": row["value"] + night}
        for night in range(nights)
        for row in rows
    ]


class Reader(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))


def test_it_loads_nothing_and_runs_nothing_whatever_names_say() -> None:
    evaluated = evaluation_of(judged_of("1"))
    html = render_html(evaluated, history_of(evaluated, 3))
    reader = Reader()
    reader.feed(html)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "object", "img", "a"}
    assert not [given for _, given in reader.tags if set(given) & {"src", "href", "onload", "onclick"}]
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", html)


def test_it_shows_checks_segments_explanations_and_series() -> None:
    evaluated = evaluation_of(judged_of("1"), judged_of("2"))
    html = render_html(evaluated, history_of(evaluated, 3))
    for shown in (
        "FAIL",
        "WARNING",
        "a &lt; b",
        "What explains the breaches",
        "it would be 0.8",
        "1.5, 100.0% of calls",
    ):
        assert shown in html
    assert html.count("<h3>") == 4, "interactions, quality, failed calls, cost; the others were not measured"
    assert "Over the nights" not in render_html(evaluated, history_of(evaluated, 1))


def test_it_stays_small_whatever_there_is_to_show() -> None:
    evaluated = evaluation_of(*(judged_of(str(at), segments=400) for at in range(6)))
    html = render_html(evaluated, history_of(evaluated, 120))
    assert len(html.encode()) < MAX_BYTES
    assert "2200 more are in the metrics store." in html


def test_a_page_that_would_be_too_large_loses_its_largest_parts_and_says_so() -> None:
    one = judged_of("1", segments=40)
    more = tuple(Shown(name=f"check:{at}", statement="é" * 400, valid="-") for at in range(3000))
    html = render_html(evaluation_of(replace(one, evidence=replace(one.evidence, shown=more))))
    assert len(html.encode()) < MAX_BYTES
    assert "<h2>Also measured</h2>\n<p>Left out: the page would be larger than 1 MB. " in html
    assert html.count("Left out") == 1
    assert "<td>a &lt; b</td>" in html
    long = replace(one, verdict=replace(one.verdict, checks=(check("errors", Outcome.FAIL, 1, 0, "x" * 2_000_000),)))
    html = render_html(evaluation_of(long))
    assert len(html.encode()) < MAX_BYTES
    assert "FAIL" in html
    assert "<h2>Checks</h2>\n<p>Left out" in html


def test_there_is_a_picture_and_markdown_with_charts() -> None:
    evaluated = evaluation_of(judged_of("1"))
    assert draw_png(evaluated).startswith(b"\x89PNG")
    assert draw_png(replace(evaluated, judged=(), hours={}, usual={})).startswith(b"\x89PNG")
    chart = draw_series("quality", [Line(name="1", points=((START, 0.5),))], 0.7)
    text = write_report(
        evaluated, charts=[chart], links={"run of bot 1": "http://127.0.0.1:5000/#/x", "report": "/r.html"}
    )
    assert "![chart](data:image/svg+xml;base64," in text
    assert "[run of bot 1](http://127.0.0.1:5000/#/x)" in text
    assert "report: `/r.html`" in text
    assert "Warnings of segments, bot 1:" in text


def test_rows_of_the_metrics_store_are_of_the_release_and_of_its_segments() -> None:
    rows = metric_rows(evaluation_of(judged_of("1")))
    short = [(row["segment"][:6], row["metric"], row["value"], row["outcome"]) for row in rows]
    assert short == [
        ("", "interactions", 60.0, None),
        ("", "quality_mean", 0.25, "fail"),
        ("", "failed_share", 0.05, "pass"),
        ("", "cost_coverage", 1.0, None),
        ("", "cost_usd_per_day", 1.5, None),
        ("route=", "interactions", 60.0, None),
        ("route=", "failed_share", 0.5, "fail"),
    ]
    assert rows[0]["low"] is None
    assert {row["deployment_id"] for row in rows} == {"bot-1-now"}
