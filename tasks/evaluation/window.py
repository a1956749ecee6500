"""The half-open UTC window that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tasks.errors import InputError

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MAX_NIGHTS: Final = 366


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
        midnight = _midnight(_utc(now))
        last = _utc(end) if end else _utc(start) + DAY if start else midnight
        first = _utc(start) if start else last - DAY
        if last <= first:
            raise InputError.of("end", last.isoformat(), f"a time after the start {first.isoformat()}")
        return cls(start=first, end=last)

    @classmethod
    def nights(cls, start: datetime | None, end: datetime | None, nights: int | None, now: datetime) -> list[Window]:
        """Return the windows of a run, the oldest first: one, or one for each of some UTC days.

        Args:
            start: As ``of``; with nights the first of them begins then.
            end: As ``of``; with nights and without a start the last of them ends then.
            nights: How many UTC days; None: one window, whatever its length. With a start and an end it must be the
                number of days between them; 0 means as many as there are.
            now: The time.

        Raises:
            InputError: The times and the number contradict each other, or a night does not begin at midnight, UTC.
        """
        if nights is None:
            return [cls.of(start, end, now)]
        if start and end:
            whole = cls.of(start, end, now)
        elif start:
            whole = cls.of(start, start + max(1, nights) * DAY, now)
        else:
            last = cls.of(None, end, now).end
            whole = cls.of(last - max(1, nights) * DAY, last, now)
        if not whole.is_whole:
            raise InputError.of("nights", whole.label, "times at midnight, UTC; leave nights out for any other window")
        count = (whole.end - whole.start) // DAY
        if count > MAX_NIGHTS or (start and end and nights not in {0, count}):
            raise InputError.of("nights", nights, f"{count} between {whole.label}, and at most {MAX_NIGHTS}")
        return [cls(start=whole.start + night * DAY, end=whole.start + (night + 1) * DAY) for night in range(count)]

    @property
    def days(self) -> float:
        """How long it is, in days."""
        return (self.end - self.start) / DAY

    @property
    def is_whole(self) -> bool:
        """Whether it begins and ends at midnight, UTC."""
        return all(_midnight(time) == time for time in (self.start, self.end))

    def hours(self) -> list[datetime]:
        """Return the first moment of every hour that has a part in it."""
        first = self.start.replace(minute=0, second=0, microsecond=0)
        return [first + at * HOUR for at in range(-((first - self.end) // HOUR))]

    def shards(self, calls: Mapping[datetime, int], most: int) -> list[Window]:
        """Return the window in slices of whole hours that hold about so many calls at most; one at least.

        Args:
            calls: How many calls each hour that has any holds, by its first moment, UTC.
            most: How many calls a slice should hold at most; an hour is never split.
        """
        cuts, held = [self.start], 0
        for hour in sorted(calls):
            if held and held + calls[hour] > most and self.start < hour < self.end:
                cuts.append(hour)
                held = 0
            held += calls[hour]
        return [Window(start=at, end=until) for at, until in zip(cuts, [*cuts[1:], self.end], strict=True)]

    @property
    def label(self) -> str:
        """The window for keys and people: two ISO times with a slash between."""
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}/{self.end:%Y-%m-%dT%H:%M:%SZ}"


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def _utc(time: datetime) -> datetime:
    """Return a plain time in UTC: the orchestrator's own subclasses of it divide differently."""
    at = time if time.tzinfo is None else time.astimezone(UTC)
    return datetime(at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, tzinfo=UTC)
