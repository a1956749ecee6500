"""How a ramp is judged: what is compared, how much chance is allowed, and what follows when time is up.

One budget, ``alpha``, covers everything that can roll back: each metric's harm and each fixed limit gets an equal
share of it. Nothing is set aside for looks, because every share is spent on a bound that holds on the whole path, and
nothing for steps, because the path runs through all of them. Only the fixed limits begin anew with each step, so that
what went well before hides nothing, and divide their share by the planned steps. Non-inferiority is the other way
round: all metrics must reach it, so a release that is worse in one of them passes with that one's chance at most, and
nothing is divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.errors import InputError
from tasks.monitors.verdict import Outcome
from tasks.release.analysis.metrics import Metric

SLOW_SHARE: Final = 0.05
"""A limit on the 95th percentile is a limit on this share of slower calls."""
FIXED_LIMITS: Final = 2
"""Errors and latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RampRules:
    """What a ramp is held to.

    Attributes:
        metrics: What the candidate is compared by.
        errors: Highest share of failed calls, 0 to 1.
        latency_ms: Limit of the 95th percentile of latency, milliseconds.
        alpha: Chance that a candidate with nothing wrong is rolled back, over all checks, looks and steps.
        noninferiority_alpha: Chance that a candidate worse by the margin in some metric is called not worse.
        ratio_alpha: Chance that users shared out as planned are called mis-shared, over all looks and steps.
        min_units: Users of each arm that every metric needs.
        min_requests: Calls of the candidate that each step needs; fewer break no limit and meet none.
    """

    metrics: tuple[Metric, ...]
    errors: float
    latency_ms: float
    alpha: float = 0.05
    noninferiority_alpha: float = 0.05
    ratio_alpha: float = 0.01
    min_units: int = 50
    min_requests: int = 30

    def __post_init__(self) -> None:
        """Refuse rules that could never decide, or that would decide on nothing."""
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) != len(names):
            raise InputError.of("metrics", names, "one or more, each name once")
        for place in ("alpha", "noninferiority_alpha", "ratio_alpha"):
            if not 0 < getattr(self, place) < 1:
                raise InputError.of(place, getattr(self, place), "above 0 and below 1")
        if not 0 < self.errors < 1 or not self.latency_ms > 0 or min(self.min_units, self.min_requests) < 1:
            place = "errors, latency_ms, min_units, min_requests"
            value = (self.errors, self.latency_ms, self.min_units, self.min_requests)
            raise InputError.of(place, value, "a share between 0 and 1, and numbers above 0")

    @property
    def check_alpha(self) -> float:
        """The share of ``alpha`` that one metric's harm or one fixed limit may use."""
        return self.alpha / (len(self.metrics) + FIXED_LIMITS)


class AtTimeout(StrEnum):
    """What to do when a step's time is up and the evidence is still inconclusive."""

    HOLD = "hold"
    EXTEND = "extend"
    REVERT = "revert"
    ASK = "ask"


class Move(StrEnum):
    """What follows from a look."""

    WAIT = "wait"
    ADVANCE = "advance"
    ROLL_BACK = "roll back"
    HOLD = "hold"
    EXTEND = "extend"
    ASK = "ask"


_AT_TIMEOUT: Final = {
    AtTimeout.HOLD: Move.HOLD,
    AtTimeout.EXTEND: Move.EXTEND,
    AtTimeout.REVERT: Move.ROLL_BACK,
    AtTimeout.ASK: Move.ASK,
}


def next_move(
    outcome: Outcome,
    *,
    elapsed_s: float,
    min_step_s: float,
    max_step_s: float,
    at_timeout: AtTimeout = AtTimeout.HOLD,
    extensions_left: int = 0,
) -> Move:
    """Return what follows from a look.

    Args:
        outcome: Of the judgement.
        elapsed_s: Seconds since the step began, or was last extended.
        min_step_s: Shortest time of a step, seconds.
        max_step_s: Longest, seconds.
        at_timeout: What to do then without a conclusion.
        extensions_left: How often the step may still be extended; without any, an extension is a hold.

    Returns:
        A failure rolls back at once, an error is held. ``AtTimeout.REVERT`` is a choice outside the error budget.
    """
    if outcome is Outcome.FAIL:
        return Move.ROLL_BACK
    if outcome is Outcome.PASS:
        return Move.ADVANCE if elapsed_s >= min_step_s else Move.WAIT
    if elapsed_s < max_step_s:
        return Move.WAIT
    if outcome is Outcome.ERROR or (at_timeout is AtTimeout.EXTEND and extensions_left < 1):
        return Move.HOLD
    return _AT_TIMEOUT[at_timeout]
