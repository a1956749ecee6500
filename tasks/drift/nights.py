"""What one night came to, and which of its numbers are watched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from tasks.errors import InputError

Side = Literal["high", "low", "both"]
Scale = Literal["ratio", "difference"]

FEWEST_NIGHTS: Final = 4
"""With fewer nights of its day type in the baseline, a night cannot be judged."""
NIGHT_PARTS: Final = 3
"""Tests within one night: it as a whole, its columns, its texts."""
FIRST_SATURDAY: Final = 5
STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What one night came to, a number a metric.

    Attributes:
        day: The UTC day.
        n: Interactions it rests on.
        values: Metric and value; the logarithm of the value where the metric's scale is a ratio.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    day: date
    n: int
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A metric whose nights are ranked.

    Attributes:
        name: As the nights name it.
        side: Which change is a change for the worse.
        scale: How a change is told: a ratio (the values are logarithms) or a difference.
        least: The smallest change that matters: a logarithm of a ratio, or a difference.
    """

    name: str
    side: Side = "both"
    scale: Scale = "ratio"
    least: float = math.log(1.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmPolicy:
    """How nights are judged.

    Attributes:
        identity: What the nights are of (application, release, segment); breaks ties the same way each time.
        watched: The metrics, at least one.
        alpha: The chance of any alarm while nothing is wrong, over all metrics and nights, 0 to 1.
        slow_share: Share of alpha that the bets over nights may spend.
        least_share: A night with a smaller share of the baseline's usual interactions is not ranked.
    """

    identity: str
    watched: tuple[Watched, ...]
    alpha: float = 0.05
    slow_share: float = 0.8
    least_share: float = 0.5

    def night_alpha(self, ordinal: int) -> float:
        """Return what each part of the tests within one night may spend, so that all nights spend no more than alpha.

        Args:
            ordinal: Which night of the stretch it is, from 1.
        """
        return self.alpha * (1 - self.slow_share) / (ordinal * (ordinal + 1)) / NIGHT_PARTS

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: A share is not above 0 and below 1, or no metric is watched.
        """
        for name in ("alpha", "slow_share", "least_share"):
            if not 0 < getattr(self, name) < 1:
                raise InputError.of(f"alarm policy.{name}", getattr(self, name), "above 0 and below 1")
        if not self.watched:
            raise InputError.of("alarm policy.watched", (), "at least one metric")


def is_weekend(day: date) -> bool:
    """Return whether a day is a Saturday or a Sunday."""
    return day.weekday() >= FIRST_SATURDAY


def value_of(night: Night, metric: str) -> float | None:
    """Return the value of a metric, None where it is missing.

    Raises:
        InputError: It is not finite: what could not be measured is left out, never a number.
    """
    value = dict(night.values).get(metric)
    if value is not None and not math.isfinite(value):
        raise InputError.of(f"night {night.day.isoformat()}.{metric}", value, "a finite number; leave out what is not")
    return value


def baseline_level(baseline: Sequence[Night], metric: str, *, weekend: bool) -> tuple[float, float, int] | None:
    """Return mean, standard deviation and number of the baseline's nights of a day type; None if too few."""
    values = [value_of(night, metric) for night in baseline if is_weekend(night.day) is weekend]
    known = [value for value in values if value is not None]
    if len(known) < FEWEST_NIGHTS:
        return None
    mean = fmean(known)
    # statistics.stdev is exact and fifty times as slow, which a self-test over thousands of nights feels.
    return mean, math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1)), len(known)
