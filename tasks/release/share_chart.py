"""A chart of which release had which share of the users when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from typing import Final

from tasks.traffic.plan import Plan

_WIDTH: Final = 720
_HEIGHT: Final = 220
_LEFT: Final = 44
_TOP: Final = 10
_BOTTOM: Final = 24
_LINE: Final = 18
COLOURS: Final = ("#3b6fb6", "#e07b39", "#4f9d69", "#b0413e", "#8a6fb0", "#a6802a", "#5f9ea0", "#c77da3")
"""Taken in the order the releases first served; after the last it begins again."""


def draw_shares(plans: Sequence[Plan], name: Callable[[str], str], until: datetime) -> str:
    """Return the shares of users over time as stacked areas, SVG.

    Args:
        plans: The latest first.
        name: Returns what people call a release.
        until: Where the drawing ends, UTC; the last plan is in force until then.
    """
    spans = _spans(plans, until)
    digests = tuple(dict.fromkeys(digest for _, _, plan in spans for digest in sorted(plan.counts())))
    height = _TOP + _HEIGHT + _BOTTOM + _LINE * len(digests) + 4
    colours = {digest: COLOURS[number % len(COLOURS)] for number, digest in enumerate(digests)}
    parts = [*_areas(spans, colours), *_axes(spans, until), *_legend(colours, name)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _spans(plans: Sequence[Plan], until: datetime) -> list[tuple[datetime, datetime, Plan]]:
    ordered = sorted(plans, key=lambda plan: plan.revision)
    times = [*(plan.time for plan in ordered), until]
    return [(plan.time, max(end, plan.time), plan) for plan, end in zip(ordered, times[1:], strict=True)]


def _areas(spans: Sequence[tuple[datetime, datetime, Plan]], colours: dict[str, str]) -> list[str]:
    if not spans:
        return []
    place, found = _scale(spans[0][0], spans[-1][1]), []
    for start, end, plan in spans:
        left, top, counts = place(start), float(_TOP + _HEIGHT), plan.shares()
        width = max(place(end) - left, 1.0)  # a step that was short is still seen
        for digest, colour in colours.items():
            if digest in counts:
                tall = counts[digest] * _HEIGHT
                top -= tall
                where = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{tall:.1f}"'
                found.append(f'<rect {where} fill="{colour}"/>')
    return found


def _scale(first: datetime, last: datetime) -> Callable[[datetime], float]:
    whole = max((last - first).total_seconds(), 1e-9)
    return lambda time: _LEFT + (time - first).total_seconds() / whole * (_WIDTH - _LEFT - 8)


def _axes(spans: Sequence[tuple[datetime, datetime, Plan]], until: datetime) -> list[str]:
    marks = [
        f'<text x="{_LEFT - 6}" y="{_TOP + _HEIGHT * (1 - part) + 4:.0f}" text-anchor="end">{part:.0%}</text>'
        for part in (0.0, 0.5, 1.0)
    ]
    first, low = spans[0][0] if spans else until, _TOP + _HEIGHT + 16
    marks.append(f'<text x="{_LEFT}" y="{low}">{first:%Y-%m-%d %H:%M} UTC</text>')
    marks.append(f'<text x="{_WIDTH - 8}" y="{low}" text-anchor="end">{until:%Y-%m-%d %H:%M} UTC</text>')
    return marks


def _legend(colours: dict[str, str], name: Callable[[str], str]) -> list[str]:
    found = []
    for number, (digest, colour) in enumerate(colours.items()):
        top = _TOP + _HEIGHT + _BOTTOM + number * _LINE
        found.append(f'<rect x="{_LEFT}" y="{top}" width="12" height="12" fill="{colour}"/>')
        found.append(f'<text x="{_LEFT + 18}" y="{top + 11}">{escape(name(digest))}</text>')
    return found
