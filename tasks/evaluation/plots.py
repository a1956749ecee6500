"""The drawings of a report: SVG written by hand, which needs nothing to be read, and one PNG for chats and mails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from io import BytesIO
from typing import Final

from tasks.evaluation.report import Evaluation, sorted_checks
from tasks.monitors.verdict import Outcome

COLOURS: Final = {
    Outcome.PASS: "#2e8b57",
    Outcome.INCONCLUSIVE: "#b8860b",
    Outcome.ERROR: "#8a2be2",
    Outcome.FAIL: "#c0392b",
}
LINES: Final = ("#2f6fde", "#e67e22", "#16a085", "#8e44ad", "#c0392b", "#7f8c8d")
MAX_BARS: Final = 40
MAX_RATIO: Final = 2.0
"""A value twice its limit or more fills the drawing."""
_WIDTH: Final = 720
_ROW: Final = 22
_LEFT: Final = 210
_RIGHT: Final = 170
_HEIGHT: Final = 170


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A value held against its limit: ``ratio`` 1 is the limit."""

    label: str
    ratio: float
    text: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series: its name, and values at times."""

    name: str
    points: tuple[tuple[datetime, float], ...]


def limit_bars(night: Evaluation) -> list[Bar]:
    """Return every check that has a value and a limit, the gravest first."""
    bars = []
    for release, check in sorted_checks(night.judged)[:MAX_BARS]:
        if check.value is None or not check.limit:
            continue
        side = "at least" if check.monitor == "quality" else "at most"
        text = f"{check.value:.4g}, {side} {check.limit:.4g}"
        bar = Bar(
            label=f"{release.label} {check.monitor}", ratio=check.value / check.limit, text=text, outcome=check.outcome
        )
        bars.append(bar)
    return bars


def draw_limits(bars: Sequence[Bar]) -> str:
    """Return values as shares of their limits, SVG; the vertical line is the limit."""
    scale = (_WIDTH - _LEFT - _RIGHT) / MAX_RATIO
    height, rows = _ROW * max(1, len(bars)) + 12, []
    for index, bar in enumerate(bars):
        top = index * _ROW + 6
        length = max(1.0, scale * min(max(bar.ratio, 0.0), MAX_RATIO))
        rows += [
            _text(4, top + 13, bar.label[:34]),
            f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_ROW - 6}" fill="{COLOURS[bar.outcome]}"/>',
            _text(_LEFT + MAX_RATIO * scale + 6, top + 13, bar.text),
        ]
    x = _LEFT + scale
    limit = f'<line x1="{x}" y1="2" x2="{x}" y2="{height - 2}" stroke="#333333" stroke-dasharray="4 3"/>'
    return _svg(height, "".join([*rows, limit]), "values as shares of their limits; the dashed line is the limit")


def draw_hours(hours: Mapping[datetime, int], usual: Mapping[datetime, float]) -> str:
    """Return the calls of each hour as bars, and the usual ones as dashes, SVG."""
    times = sorted({*hours, *usual})
    most = max([1.0, *(float(calls) for calls in hours.values()), *usual.values()])
    step, rows = (_WIDTH - 60) / max(1, len(times)), []
    for index, time in enumerate(times):
        x, height = 50 + index * step, 120 * hours.get(time, 0) / most
        rows.append(
            f'<rect x="{x:.1f}" y="{140 - height:.1f}" width="{max(1.0, step - 2):.1f}" height="{height:.1f}" '
            f'fill="{LINES[0]}"><title>{time:%Y-%m-%d %H:%M}: {hours.get(time, 0)} calls</title></rect>'
        )
        if time in usual:
            y = 140 - 120 * usual[time] / most
            rows.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + step - 2:.1f}" y2="{y:.1f}" stroke="#333333"/>')
        if index % max(1, len(times) // 8) == 0:
            rows.append(_text(x, 156, f"{time:%H:%M}"))
    return _svg(_HEIGHT, _text(4, 24, f"{most:.0f}") + "".join(rows), "calls an hour; the dash is the usual number")


def draw_series(title: str, lines: Sequence[Line], limit: float | None = None) -> str:
    """Return series over time, SVG; the dashed line is the limit.

    Args:
        title: What is shown.
        lines: At least one with a point.
        limit: In the unit of the values.
    """
    times = [time.timestamp() for line in lines for time, _ in line.points]
    values = [value for line in lines for _, value in line.points] + ([limit] if limit is not None else [])
    first, span = min(times), max(max(times) - min(times), 1.0)
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0

    def place(time: datetime, value: float) -> str:
        x = 60 + (_WIDTH - 240) * (time.timestamp() - first) / span
        return f"{x:.1f},{140 - 110 * (value - low) / room:.1f}"

    rows = [_text(4, 34, f"{high:.4g}"), _text(4, 144, f"{low:.4g}")]
    if limit is not None:
        y = 140 - 110 * (limit - low) / room
        rows.append(
            f'<line x1="60" y1="{y:.1f}" x2="{_WIDTH - 180}" y2="{y:.1f}" stroke="#333333" stroke-dasharray="4 3"/>'
        )
    for number, line in enumerate(lines):
        colour = LINES[number % len(LINES)]
        points = [place(time, value) for time, value in line.points]
        dots = "".join(
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="2.5" fill="{colour}"/>' for p in points
        )
        rows.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}')
        rows.append(_text(_WIDTH - 170, 34 + 16 * number, line.name[:26], colour))
    start, end = min(t for line in lines for t, _ in line.points), max(t for line in lines for t, _ in line.points)
    rows += [_text(60, 160, f"{start:%Y-%m-%d}"), _text(_WIDTH - 250, 160, f"{end:%Y-%m-%d}")]
    return _svg(_HEIGHT, "".join(rows), title)


def draw_png(night: Evaluation) -> bytes:
    """Return the values as shares of their limits, and the calls of each hour, as one PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    bars, times = limit_bars(night), sorted({*night.every_hour, *night.usual})
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, 2.6 + 0.25 * len(bars)), dpi=110, layout="constrained")
        top, bottom = figure.subplots(2, 1, height_ratios=[max(2, len(bars)), 6])
        top.barh(
            range(len(bars)),
            [min(max(bar.ratio, 0.0), MAX_RATIO) for bar in bars],
            color=[COLOURS[bar.outcome] for bar in bars],
        )
        top.set_yticks(range(len(bars)), [bar.label for bar in bars], parse_math=False)
        top.axvline(1.0, color="#333333", linestyle="--")
        top.set(xlim=(0, MAX_RATIO), xlabel="share of the limit")
        top.invert_yaxis()
        top.set_title(f"{night.application}: {night.outcome.upper()}  {night.window.label}", parse_math=False)
        bottom.bar(range(len(times)), [night.hours.get(time, 0) for time in times], color=LINES[0])
        bottom.plot(range(len(times)), [night.usual.get(time, float("nan")) for time in times], "k_")
        bottom.set(ylabel="calls an hour", xticks=range(0, len(times), 3))
        bottom.set_xticklabels([f"{time:%H:%M}" for time in times[::3]])
        out = BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _svg(height: int, inner: str, title: str) -> str:
    """Return a drawing under its title, which is also read to people who do not see it."""
    whole = height + _ROW
    return (
        f'<svg width="{_WIDTH}" height="{whole}" viewBox="0 0 {_WIDTH} {whole}" '
        f'font-family="sans-serif" font-size="12" role="img"><title>{escape(title)}</title>'
        f'<rect width="{_WIDTH}" height="{whole}" fill="#ffffff"/>{_text(4, 15, title)}'
        f'<g transform="translate(0 {_ROW})">{inner}</g></svg>'
    )


def _text(x: float, y: float, text: str, colour: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>'
