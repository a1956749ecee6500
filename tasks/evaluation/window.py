"""The half-open UTC window that is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From ``start`` up to but without ``end``, both UTC."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: datetime | None, end: datetime | None, now: datetime) -> Window:
        """Return the window from start to end; what is left out is yesterday, the last whole UTC day.

        Args:
            start: First moment; a time without a zone is UTC. Empty: a day before the end.
            end: First moment after it. Empty: a day after the start, or the last midnight.
            now: The time, to know what yesterday is.

        Raises:
            InputError: It does not end after it starts.
        """
        day = timedelta(days=1)
        midnight = _utc(now).replace(hour=0, minute=0, second=0, microsecond=0)
        last = _utc(end) if end else _utc(start) + day if start else midnight
        first = _utc(start) if start else last - day
        if last <= first:
            raise InputError.of("end", last.isoformat(), f"a time after the start {first.isoformat()}")
        return cls(start=first, end=last)

    @property
    def label(self) -> str:
        """The window for keys and people: two ISO times with a slash between."""
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}/{self.end:%Y-%m-%dT%H:%M:%SZ}"


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
