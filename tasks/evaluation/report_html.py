"""The report of one evaluation as one HTML file: it opens offline, loads nothing, runs nothing, holds no text of users.

Names come from release files and logs, so every one is escaped; a content security policy forbids the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from tasks.drift.report import tell_moved
from tasks.evaluation.plots import COLOURS, Line, draw_hours, draw_limits, draw_series, limit_bars
from tasks.evaluation.report import (
    Evaluation,
    Judged,
    describe_cost,
    describe_estimate,
    describe_explanation,
    remarks,
    sorted_checks,
)
from tasks.monitors.verdict import Check
from tasks.release.model import Monitors
from tasks.scoring.showing import describe_shares, shown_rows
from tasks.scoring.toxicity import LIMITS

MAX_BYTES: Final = 1_000_000
"""A larger page loses its largest parts, and says so."""
_FRAME: Final = 5_000
"""Bytes that are kept free for the title and the style of a page."""
MAX_SEGMENT_ROWS: Final = 200
"""The rest is in the metrics store, and the report says so."""
MAX_LINES: Final = 6
MAX_POINTS: Final = 120
_STYLE: Final = """
body{font:14px/1.45 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0 1.4em;width:100%}
th,td{border-bottom:1px solid #ddd;padding:.3em .6em;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{background:#f4f4f4;overflow-wrap:normal}
td:nth-child(2){overflow-wrap:normal}svg{max-width:100%;height:auto;display:block;margin:.4em 0 1.2em}
.badge{color:#fff;border-radius:4px;padding:.1em .5em;font-weight:600;white-space:nowrap}
footer{color:#666;margin-top:3em;font-size:12px}
"""
_LIMITS: Final = {
    "latency_p95_ms": "latency_ms",
    "quality_mean": "quality",
    "toxic_share": "toxicity",
    "failed_share": "errors",
    "cost_usd_per_day": "cost_usd_per_day",
    "drift": "drift",
    "interactions": "",
}


def render_html(night: Evaluation, history: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the report as one HTML document of less than ``MAX_BYTES``.

    Args:
        night: The evaluation.
        history: Rows of the metrics store of this application, of whole releases, with this window's.
    """
    measured = ("release", "calls", "p95 latency ms", "mean quality", "toxic", "failed", "USD a day", "baseline")
    parts = {
        "": [
            f"<h1>{escape(night.application)} {_badge(night.outcome.value, COLOURS[night.outcome])}</h1>",
            f"<p>{escape(night.window.label)}, {night.interactions} interactions, {len(night.judged)} releases</p>",
            _list(remarks(night)),
        ],
        "Checks": ["<h2>Checks</h2>", _table(("outcome", "release", "monitor", "inequality"), _checks(night))],
        "Values and limits": ["<h2>Values and limits</h2>", draw_limits(limit_bars(night))],
        "Measured": ["<h2>Measured</h2>", _table(measured, [_measured(item) for item in night.judged])],
        "Also measured": [*_shown(night.judged)],
        "Calls an hour": ["<h2>Calls an hour</h2>", draw_hours(night.every_hour, night.usual)],
        "Segments": [*_segments(night.judged)],
        "What moved": [*_moved(night.judged)],
        "Over the nights": [*_series(night, history)],
    }
    footer = f"<footer>One-sided 95 % bounds in brackets. Toxicity: {escape(_limits(night))}</footer>"
    body = _fit({name: "\n".join(lines) for name, lines in parts.items()}, MAX_BYTES - len(footer.encode()) - _FRAME)
    return _document(escape(f"{night.application} {night.window.label}"), f"{body}\n{footer}")


def _fit(parts: dict[str, str], most: int) -> str:
    """Return parts of a page one below the other: the largest are left out until they fit, the checks last of all."""
    droppable = sorted((name for name in parts if name), key=lambda name: (name == "Checks", -len(parts[name])))
    while sum(len(part.encode()) + 1 for part in parts.values()) > most and droppable:
        name = droppable.pop(0)
        why = (
            f"Left out: the page would be larger than {MAX_BYTES // 1_000_000} MB. The lake and the ledger have it all."
        )
        parts = {**parts, name: f"<h2>{name}</h2>\n<p>{why}</p>"}
    return "\n".join(part for part in parts.values() if part)


def render_examples(night: Evaluation, texts: Mapping[str, tuple[str | None, str | None]]) -> str:
    """Return the texts of the interactions that look newest as an HTML document: it is for this machine only.

    Args:
        night: The evaluation.
        texts: Question and answer by the id of the interaction; those that are gone are left out.
    """
    rows = [
        tuple(escape(part or "") for part in (item.release.label, moved.column, one, *texts[one]))
        for item in night.judged
        for moved in item.evidence.drift.moved
        for one in moved.examples
        if one in texts
    ]
    title = escape(f"{night.application} {night.window.label}: interactions that look newest")
    return _document(
        title, f"<h1>{title}</h1>" + _table(("release", "moved", "interaction", "question", "answer"), rows)
    )


def _document(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _checks(night: Evaluation) -> Iterator[tuple[str, ...]]:
    for release, check in sorted_checks(night.judged):
        yield (
            _badge(check.outcome.value, COLOURS[check.outcome]),
            escape(f"{release.label} ({release.short})"),
            escape(check.monitor),
            escape(check.statement),
        )


def _measured(item: Judged) -> tuple[str, ...]:
    found = item.evidence
    estimates = (found.latency_ms, found.quality, found.toxicity, found.errors)
    baseline = found.baseline_name or "none"
    texts = (
        f"{item.release.label} ({item.release.short})",
        str(found.summary.n),
        *(describe_estimate(one) for one in estimates),
        describe_cost(found),
        baseline,
    )
    return tuple(escape(text) for text in texts)


def _shown(judged: Sequence[Judged]) -> Iterator[str]:
    """Yield what informs beside the monitors, and where each can be believed."""
    rows = shown_rows((item.release.label, item.evidence.shown) for item in judged)
    if rows:
        yield "<h2>Also measured</h2>"
        yield "<p>It informs, and decides only where evaluation.yaml gives it a limit.</p>"
        yield _table(("release", "what", "it says", "valid"), [[escape(text) for text in row] for row in rows])
    parts = [(item.release.label, one.name, describe_shares(one.shares)) for item in judged for one in item.segments]
    told = [[escape(text) for text in part] for part in parts if part[2]]
    if told:
        yield _table(("release", "segment", "share of its answers"), told[:MAX_SEGMENT_ROWS])
        yield f"<p>{len(told[MAX_SEGMENT_ROWS:])} more segments are in the metrics store.</p>"


def _limits(night: Evaluation) -> str:
    return " ".join(sorted({item.evidence.toxicity_limits for item in night.judged})) or LIMITS


def _segments(judged: Sequence[Judged]) -> Iterator[str]:
    rows = [(item, name, check) for item in judged for name, check in item.segment_checks]
    explained = [f"{item.release.label}, {describe_explanation(one)}" for item in judged for one in item.explanations]
    if explained:
        yield "<h2>What explains the breaches</h2>"
        yield _list(explained)
    if not rows:
        return
    yield "<h2>Segments</h2>"
    yield "<p>A segment warns and never decides. <em>inconclusive</em> is beyond the limit, but chance allows it.</p>"
    rows.sort(key=lambda row: list(COLOURS).index(row[2].outcome), reverse=True)
    cells = [_segment_row(item, name, check) for item, name, check in rows[:MAX_SEGMENT_ROWS]]
    yield _table(("outcome", "release", "segment", "inequality"), cells)
    if len(rows) > MAX_SEGMENT_ROWS:
        yield f"<p>{len(rows) - MAX_SEGMENT_ROWS} more are in the metrics store.</p>"


def _segment_row(item: Judged, name: str, check: Check) -> tuple[str, ...]:
    said = "warning" if check.outcome.value == "fail" else check.outcome.value
    texts = (item.release.label, name, check.statement)
    return (_badge(said, COLOURS[check.outcome]), *(escape(text) for text in texts))


def _moved(judged: Sequence[Judged]) -> Iterator[str]:
    lines = [f"{one.release.label}, {line}" for one in judged for line in tell_moved(one.evidence.drift, terms=True)]
    if lines:
        yield "<h2>What moved</h2>"
        yield _list(lines)


def _series(night: Evaluation, history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a drawing for each metric that has more than one night."""
    limits: list[Monitors] = [item.release.spec.monitors for item in night.judged]
    drawn = []
    for metric, field in _LIMITS.items():
        rows = [row for row in history if row["metric"] == metric]
        if len({row["window_end"] for row in rows}) < 2:  # noqa: PLR2004 - one night is no series
            continue
        same = {float(getattr(one, field)) for one in limits} if field else set()
        drawn += [f"<h3>{metric}</h3>", draw_series(metric, _lines(rows), same.pop() if len(same) == 1 else None)]
    yield from (["<h2>Over the nights</h2>", *drawn] if drawn else [])


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return a line for each of the releases that were measured last."""
    ordered = sorted(rows, key=lambda row: row["window_end"])
    last = {row["release_digest"]: row for row in ordered}
    newest = sorted(last.values(), key=lambda row: row["window_end"], reverse=True)[:MAX_LINES]
    lines = []
    for row in newest:
        digest = row["release_digest"]
        points = [(one["window_end"], one["value"]) for one in ordered if one["release_digest"] == digest]
        lines.append(Line(name=f"{row['version']} ({digest[:12]})", points=tuple(points[-MAX_POINTS:])))
    return lines


def _badge(text: str, colour: str) -> str:
    return f'<span class="badge" style="background:{colour}">{escape(text.upper())}</span>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are HTML already."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
