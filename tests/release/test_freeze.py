"""Freeze windows."""

from __future__ import annotations

from datetime import UTC, datetime, time

import pytest
from pydantic import ValidationError

from tasks.release.freeze import WEEKDAYS, Freeze, freeze_at

FRIDAY = Freeze(weekdays=("fri",), start=time(16), timezone="Europe/Berlin", reason="weekend")
NIGHT = Freeze(weekdays=("mon",), start=time(22), end=time(6))


@pytest.mark.parametrize(
    ("moment", "frozen"),
    [
        ("2026-03-27T14:59:00+00:00", False),  # a Friday, 15:59 in Berlin, winter time
        ("2026-03-27T15:00:00+00:00", True),
        ("2026-03-27T22:59:00+00:00", True),
        ("2026-03-27T23:00:00+00:00", False),  # Saturday there
        ("2026-04-03T13:59:00+00:00", False),  # summer time by now
        ("2026-04-03T14:00:00+00:00", True),
    ],
)
def test_a_window_keeps_local_time_across_clock_changes(moment: str, *, frozen: bool) -> None:
    assert FRIDAY.covers(datetime.fromisoformat(moment)) is frozen


@pytest.mark.parametrize(
    ("moment", "frozen"),
    [
        ("2026-03-02T21:59:00+00:00", False),
        ("2026-03-02T22:00:00+00:00", True),  # a Monday
        ("2026-03-03T05:59:00+00:00", True),
        ("2026-03-03T06:00:00+00:00", False),
        ("2026-03-03T22:30:00+00:00", False),
        ("2026-03-02T05:00:00+00:00", False),  # Sunday's night is none
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_starts_on(moment: str, *, frozen: bool) -> None:
    assert NIGHT.covers(datetime.fromisoformat(moment)) is frozen


def test_whole_days_are_the_default_and_the_first_window_counts() -> None:
    always = Freeze()
    assert always.weekdays == WEEKDAYS
    now = datetime(2026, 3, 27, 18, 30, 59, tzinfo=UTC)
    assert freeze_at([NIGHT, FRIDAY, always], now) is FRIDAY
    assert freeze_at([NIGHT], now) is None
    assert always.covers(now)


@pytest.mark.parametrize(
    "wrong",
    [{"timezone": "Mars/Olympus"}, {"timezone": "../etc/passwd"}, {"weekdays": ()}, {"weekdays": ("friday",)},
     {"start": "25:00"}, {"start": "16:00+02:00"}, {"until": "06:00"}],
)  # fmt: skip
def test_a_window_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Freeze.model_validate(wrong)
