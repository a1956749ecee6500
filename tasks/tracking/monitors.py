"""Checks of single calls that cost nothing, made as soon as a call is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tasks.errors import InputError
from tasks.interactions.schema import CALLER_ERRORS, CALLER_STATUSES, Interaction
from tasks.monitors.verdict import Check, Outcome

_FAILED: Final = 400
_PUSD_PER_USD: Final = 10**12
_PUSD_PER_TOKEN: Final = 10**6
"""Of a US dollar per million tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitors:
    """Limits that hold for every single call; None checks nothing.

    Attributes:
        max_latency_ms: Slowest answer, milliseconds.
        max_cost_usd: Dearest answer, US dollars; a call whose tokens or price are unknown is not checked.
        errors: Whether an error that is not the caller's own is a breach.
        input_usd_per_mtok: Price of a million input tokens, US dollars; used where a call does not report its cost.
        output_usd_per_mtok: Price of a million output tokens, US dollars.
    """

    max_latency_ms: float | None = None
    max_cost_usd: float | None = None
    errors: bool = True
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None

    def __post_init__(self) -> None:
        """Refuse a negative limit.

        Raises:
            InputError: It is negative or no number.
        """
        for name in ("max_latency_ms", "max_cost_usd", "input_usd_per_mtok", "output_usd_per_mtok"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError.of(f"Monitors.{name}", value, "0 or more, or None to check nothing")

    def breaches(self, call: Interaction) -> tuple[Check, ...]:
        """Return the failed checks of one call; none where it is within all limits."""
        return tuple(self._breaches(call))

    def cost_usd(self, call: Interaction) -> float | None:
        """Return what a call cost, US dollars; None where its tokens or the price are unknown."""
        if call.reported_cost_pusd is not None:
            return call.reported_cost_pusd / _PUSD_PER_USD
        pairs = ((call.input_tokens, self.input_usd_per_mtok), (call.output_tokens, self.output_usd_per_mtok))
        if any(tokens is None or price is None for tokens, price in pairs):
            return None
        pusd = sum((tokens or 0) * (price or 0.0) * _PUSD_PER_TOKEN for tokens, price in pairs)
        return pusd / _PUSD_PER_USD

    def _breaches(self, call: Interaction) -> Iterator[Check]:
        latency, limit = call.latency_ms, self.max_latency_ms
        if latency is not None and limit is not None and latency > limit:
            yield _failed("latency", f"latency {latency:.0f} ms > limit {limit:.0f} ms (n=1)", latency, limit)
        if self.errors and _is_failed(call) and not _is_callers(call):
            kind = f" {call.error_type}" if call.error_type else ""
            sign = ">= limit" if call.status >= _FAILED else "is an error whatever is below"
            yield _failed("errors", f"status {call.status}{kind} {sign} {_FAILED} (n=1)", call.status, _FAILED)
        cost, most = self.cost_usd(call), self.max_cost_usd
        if cost is not None and most is not None and cost > most:
            yield _failed("cost", f"cost {cost:.6f} USD > limit {most:.6f} USD (n=1)", cost, most)


def _failed(monitor: str, statement: str, value: float, limit: float) -> Check:
    return Check(monitor=monitor, outcome=Outcome.FAIL, statement=statement, value=value, limit=limit, n=1)


def _is_failed(call: Interaction) -> bool:
    return call.status >= _FAILED or call.error_type is not None


def _is_callers(call: Interaction) -> bool:
    """Return whether the caller's own mistake ended a failed call, as evaluations and ramps have it."""
    own_kind = call.error_type is None or call.error_type in CALLER_ERRORS
    return own_kind and (call.status < _FAILED or call.status in CALLER_STATUSES)
