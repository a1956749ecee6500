"""What people look at: a bar chart of days, and the tables."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from tasks.costs.line import Rollup, known_sum
from tasks.costs.rates import PUSD_PER_USD
from tasks.costs.rollup import format_usd

_WIDTH: Final = 720
_ROW: Final = 22
_LEFT: Final = 90
_RIGHT: Final = 150


def daily_costs(lines: Sequence[Rollup]) -> dict[date, int | None]:
    """Return what each day cost, pico-USD, in order; None where nothing of it is known."""
    days = sorted({line.key.day for line in lines})
    return {day: known_sum(line.cost_pusd for line in lines if line.key.day == day) for day in days}


def draw_days(costs: dict[date, int | None]) -> str:
    """Return the days as a bar chart, SVG; a bar is as long as its share of the dearest day."""
    largest = max([cost for cost in costs.values() if cost is not None], default=0)
    bars = [_bar(index, day, cost, largest) for index, (day, cost) in enumerate(costs.items())]
    height = _ROW * max(1, len(bars)) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>{"".join(bars)}</svg>'
    )


def as_image(svg: str) -> str:
    """Return a drawing as an address that holds it."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def usage_row(line: Rollup) -> dict[str, Any]:
    """Return a line for people."""
    of = line.key
    return {
        "day": of.day.isoformat(),
        "application": of.application,
        "release": (of.release_digest or "unknown")[:12],
        "model": of.model or "unknown",
        "USD": "unpriced" if line.cost_pusd is None else format_usd(line.cost_pusd),
        "requests": line.requests,
        "coverage": f"{line.priced_requests} of {line.requests}",
        "not priced": f"{line.unpriced_requests} unpriced, {line.partial_requests} partial",
        "price from": of.price_layer,
        "input tokens": line.input_tokens,
        "output tokens": line.output_tokens,
        "cached input tokens": line.cached_input_tokens,
        "prompt": f"{of.prompt_name}@{of.prompt_version}" if of.prompt_name else None,
        "provider": of.provider or "unknown",
        "team": of.team,
        "tier": of.service_tier,
    }


def describe_total(lines: Sequence[Rollup]) -> str:
    """Return what the lines cost in one sentence."""
    cost = known_sum(line.cost_pusd for line in lines)
    amount = f"{format_usd(cost)} USD" if cost is not None else "Cost unknown"
    priced, requests = (sum(getattr(line, name) for line in lines) for name in ("priced_requests", "requests"))
    return f"{amount} for {priced} priced of {requests} requests"


def _bar(index: int, day: date, cost: int | None, largest: int) -> str:
    top, middle = index * _ROW + 6, index * _ROW + 20
    length = 0 if not cost or not largest else max(1, round((_WIDTH - _LEFT - _RIGHT) * cost / largest))
    label = "unpriced" if cost is None else f"{cost / PUSD_PER_USD:,.4f} USD"
    return (
        f'<text x="4" y="{middle}" fill="#333333">{day.isoformat()}</text>'
        f'<rect x="{_LEFT}" y="{top}" width="{length}" height="{_ROW - 6}" fill="#2f6fde"/>'
        f'<text x="{_LEFT + length + 6}" y="{middle}" fill="#333333">{label}</text>'
    )
