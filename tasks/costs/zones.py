"""Days of a time zone: 23 to 25 hours long where its clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tasks.errors import InputError


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone by its name in the tz database.

    Raises:
        InputError: There is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError.of("timezone", name, "a name of the tz database, such as UTC or Europe/Berlin") from error


def day_window(day: date, zone: str) -> tuple[datetime, datetime]:
    """Return when a day of a zone begins and ends, UTC, half-open."""
    place = find_zone(zone)
    start, end = (datetime.combine(one, time(), place).astimezone(UTC) for one in (day, day + timedelta(days=1)))
    return start, end


def utc_dates(start: datetime, end: datetime) -> tuple[date, ...]:
    """Return the UTC days that a half-open window touches, in order."""
    first, last = start.astimezone(UTC).date(), (end.astimezone(UTC) - timedelta(microseconds=1)).date()
    return tuple(first + timedelta(days=index) for index in range((last - first).days + 1))


def days_between(first: date, last: date) -> tuple[date, ...]:
    """Return the days from the first to the last, both of them.

    Raises:
        InputError: The last is before the first.
    """
    if last < first:
        raise InputError(f"from {first} to {last}: the last day is before the first; swap them")
    return tuple(first + timedelta(days=index) for index in range((last - first).days + 1))
