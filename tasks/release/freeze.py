"""Freeze windows: times in which no release gets more users than it has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from tasks.release.model import Record

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Freeze(Record):
    """A window that comes back every week.

    A window whose end is not after its start lasts over midnight, and belongs to the day it starts on.
    """

    weekdays: tuple[Weekday, ...] = Field(default=WEEKDAYS, min_length=1, description="The days it starts on.")
    start: time = Field(default=time(0, 0), description="When it starts, local time: 17:00.")
    end: time = Field(default=time(0, 0), description="When it ends, local time; 00:00 is the end of the day.")
    timezone: str = Field(default="UTC", description="Whose local time: Europe/Berlin.")
    reason: str = Field(default="freeze window", min_length=1, max_length=200, description="Why, for who is stopped.")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no time zone; write one like Europe/Berlin or UTC") from error
        return value

    @model_validator(mode="after")
    def _naive(self) -> Self:
        if self.start.tzinfo is not None or self.end.tzinfo is not None:
            raise ValueError("start and end are local times; the zone stands in timezone")
        return self

    def covers(self, moment: datetime) -> bool:
        """Return whether a moment (with a time zone) lies in the window."""
        local = moment.astimezone(ZoneInfo(self.timezone))
        today, yesterday = WEEKDAYS[local.weekday()], WEEKDAYS[local.weekday() - 1]
        clock = local.time()
        if self.start < self.end:
            return today in self.weekdays and self.start <= clock < self.end
        return (today in self.weekdays and clock >= self.start) or (yesterday in self.weekdays and clock < self.end)


def freeze_at(freezes: Sequence[Freeze], moment: datetime) -> Freeze | None:
    """Return the first window a moment lies in, None where it lies in none."""
    return next((freeze for freeze in freezes if freeze.covers(moment)), None)
