"""What people ask of an experiment: arms, sample, limits, end; and how many users an effect takes to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.documents import read_document
from tasks.errors import InputError
from tasks.experiments.experiment import MIN_USERS, wanted_buckets
from tasks.release.model import NAME_PATTERN, Name, Record, ReleaseSpec
from tasks.release.preview import TrafficSeen
from tasks.traffic.plan import BUCKETS

_DAY_S = 86_400
_TYPICAL_SPREAD = 0.25
_TYPICAL_BAD = 0.05
MetricName = Literal["success", "latency", "quality", "toxicity", "missing", "cost"]
METRICS: tuple[MetricName, ...] = ("success", "latency", "quality", "toxicity", "missing", "cost")


class OnEnd(StrEnum):
    """Who gets the users when the sample is reached."""

    CONTROL = "control"
    KEEP = "keep"
    WINNER = "winner"


class Arm(Record):
    """One release of an experiment, and its weight."""

    release: str = Field(pattern=NAME_PATTERN, description="Its digest, the first 12 digits of it, or its version.")
    weight: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False, description="Relative to their sum.")

    @field_validator("release", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Interest(Record):
    """The smallest effect that the sample must be able to show."""

    metric: MetricName = "success"
    effect: float = Field(gt=0, lt=1, allow_inf_nan=False, description="Difference in the metric: 0.03 is 3 points.")
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Chance to find it where it is there.")


class ExperimentDesign(Record):
    """An A/B test of any number of arms, as a file or a form."""

    application: Name = Field(description="What users call.")
    name: Name = Field(description="What people call the experiment; each one of an application has a name of its own.")
    control: str = Field(pattern=NAME_PATTERN, description="The arm the others are compared with; it serves now.")
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=20, description="Every release, the control's too.")
    users_per_arm: int | None = Field(
        default=None, ge=2, le=10_000_000, description="Users of each arm to wait for; empty: computed from interest."
    )
    interest: Interest | None = Field(default=None, description="The smallest effect of interest, instead of a number.")
    max_duration_s: float = Field(
        default=604_800.0, gt=0, le=7_776_000, description="Longest time; after that it ends as it is. Seconds."
    )
    metrics: tuple[MetricName, ...] = Field(default=METRICS, min_length=1, description="What arms are compared by.")
    primary: MetricName = Field(default="success", description="What a winner must be better in.")
    on_end: OnEnd = Field(
        default=OnEnd.CONTROL,
        description=(
            "Who gets the users at the end: the control; the arms as they are, guarded, until keep_s is over or it is "
            "stopped; or the winner, if one is better in the primary metric and worse in none, else the control."
        ),
    )
    keep_s: float = Field(
        default=604_800.0, gt=0, le=7_776_000, description="How long at most the arms keep their users. Seconds."
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance to call anything different that is not.")
    look_s: float = Field(default=10.0, gt=0, le=3600, description="Time between two looks at the limits, seconds.")
    settle_s: float = Field(
        default=5.0, ge=0, le=86_400, description="How late a call may be logged: the last look waits for it. Seconds."
    )
    min_requests: int = Field(
        default=30, ge=1, le=10_000_000, description="Requests of an arm before a fixed limit can take it out."
    )

    @field_validator("control", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [arm.release for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms name a release twice: {', '.join(names)}")
        if self.control not in names:
            raise ValueError(f"control {self.control} is none of the arms: {', '.join(names)}")
        if (self.users_per_arm is None) == (self.interest is None):
            raise ValueError("give either users_per_arm or interest, the smallest effect to be found")
        if self.primary not in self.metrics:
            raise ValueError(f"primary {self.primary} is none of the metrics: {', '.join(self.metrics)}")
        try:
            wanted_buckets({arm.release: arm.weight for arm in self.arms})
        except InputError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def comparisons(self) -> int:
        """How many comparisons share ``alpha``."""
        return len(self.metrics) * (len(self.arms) - 1)


def design_of(spec: ReleaseSpec, control: str, users_per_arm: int) -> ExperimentDesign:
    """Return the experiment that a release file asks for, against the release that serves now.

    Args:
        spec: The release, with ``ab_test``.
        control: Digest of the release that serves.
        users_per_arm: How many users of each arm to wait for.

    Raises:
        InputError: The file asks for no experiment, or for one in which nobody or everybody sees the release.
    """
    test = spec.ab_test
    if test is None:
        raise InputError.of("ab_test", None, "name and share, in the release file")
    if not 0 < test.share < 1:
        raise InputError.of("ab_test.share", test.share, "above 0 and below 1")
    arms = (Arm(release=control, weight=1 - test.share), Arm(release=spec.version, weight=test.share))
    return ExperimentDesign(
        application=spec.application, name=test.name, control=control, arms=arms, users_per_arm=users_per_arm
    )


def read_experiment_file(path: Path) -> ExperimentDesign:
    """Read an experiment file (YAML or JSON).

    Raises:
        InputError: It cannot be read, or a value is not allowed; every bad field is named.
    """
    return read_document(path, ExperimentDesign)


def users_needed(design: ExperimentDesign, seen: TrafficSeen) -> int:
    """Return how many users of each arm the experiment waits for: those asked for, or those the effect takes.

    The size is that of a two-sided test of two means at ``alpha`` over all comparisons (Bonferroni, never fewer than
    Holm needs), with the spread of one call a user: more calls make it smaller, so the number is on the safe side.

    Args:
        design: What was asked for.
        seen: The traffic of the last day; its share of failed calls is that of the control.
    """
    from scipy import stats

    if design.users_per_arm is not None:
        return design.users_per_arm
    interest = design.interest
    if interest is None:
        raise InputError.of("interest", None, "the smallest effect to be found, where users_per_arm is empty")
    variance = sum(_variances(interest, seen))
    reach = stats.norm.isf(design.alpha / design.comparisons / 2) + stats.norm.ppf(interest.power)
    return max(MIN_USERS, math.ceil(float(reach) ** 2 * variance / interest.effect**2))


def _variances(interest: Interest, seen: TrafficSeen) -> Sequence[float]:
    if interest.metric in {"quality", "cost"}:
        return [_TYPICAL_SPREAD**2] * 2
    bad = seen.failed_share if interest.metric == "success" and seen.failed_share else _TYPICAL_BAD
    worse = min(bad + interest.effect, 0.5)  # an effect for the worse has the wider spread
    return [bad * (1 - bad), worse * (1 - worse)]


def forecast(design: ExperimentDesign, seen: TrafficSeen) -> str:
    """Return in words how many users are waited for, and how long that takes at the traffic seen."""
    users = users_needed(design, seen)
    counts = wanted_buckets({arm.release: arm.weight for arm in design.arms})
    words = f"{users} users of each arm"
    if not seen.users:
        return f"{words}; no traffic was seen in the last day: how long it takes cannot be foretold"
    duration_s = users * BUCKETS / min(counts.values()) / seen.users * _DAY_S
    late = "" if duration_s <= design.max_duration_s else f" > {time_words(design.max_duration_s)}, the longest it may"
    return f"{words}, about {time_words(duration_s)} at the {seen.users} users seen in the last day{late}"


def time_words(seconds: float) -> str:
    """Return a duration for people: ``3 days``, ``12 min``."""
    for unit, size in (("days", _DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
