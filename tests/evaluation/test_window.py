from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from tasks.errors import InputError
from tasks.evaluation.window import Window

NOW = datetime(2026, 3, 30, 2, 15, tzinfo=UTC)
DAY = datetime(2026, 3, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, (DAY, DAY + timedelta(days=1))),
        (DAY, None, (DAY, DAY + timedelta(days=1))),
        (None, DAY, (DAY - timedelta(days=1), DAY)),
        (datetime(2026, 3, 29), datetime(2026, 3, 29, 6), (DAY, DAY + timedelta(hours=6))),  # noqa: DTZ001
    ],
)
def test_what_is_left_out_is_a_day(
    start: datetime | None, end: datetime | None, expected: tuple[datetime, datetime]
) -> None:
    window = Window.of(start, end, NOW)
    assert (window.start, window.end) == expected


def test_yesterday_is_yesterday_in_utc_wherever_the_clock_stands() -> None:
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    assert Window.of(None, None, tokyo) == Window.of(None, None, NOW)
    assert Window.of(None, None, NOW).label == "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z"


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InputError, match=r"end: '2026-03-29T00:00:00.00:00' is not allowed; allowed: a time after"):
        Window.of(DAY, DAY, NOW)


MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)
DUE = datetime(2026, 1, 9, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "nights", "first", "count"),
    [
        (None, None, 3, 6, 3),
        (None, datetime(2026, 1, 5, tzinfo=UTC), 2, 3, 2),
        (MIDNIGHT, None, 4, 2, 4),
        (MIDNIGHT, datetime(2026, 1, 5, tzinfo=UTC), 0, 2, 3),
        (MIDNIGHT, datetime(2026, 1, 5, tzinfo=UTC), 3, 2, 3),
        (None, None, 0, 8, 1),
        (None, None, None, 8, 1),
    ],
)
def test_many_nights_are_whole_utc_days_the_oldest_first(
    start: datetime | None, end: datetime | None, nights: int | None, first: int, count: int
) -> None:
    found = Window.nights(start, end, nights, DUE)
    assert [window.start.day for window in found] == [first + at for at in range(count)]
    assert {window.days for window in found} == {1.0}


def test_nights_that_contradict_the_times_are_refused() -> None:
    with pytest.raises(InputError, match="nights: 2 is not allowed; allowed: 3 between 2026-01-02T00:00:00Z"):
        Window.nights(MIDNIGHT, datetime(2026, 1, 5, tzinfo=UTC), 2, DUE)
    with pytest.raises(InputError, match="times at midnight, UTC; leave nights out"):
        Window.nights(MIDNIGHT + timedelta(hours=1), None, 2, DUE)


def test_the_orchestrators_own_times_become_plain_ones() -> None:
    import pendulum

    (one, _) = Window.nights(None, None, 2, pendulum.datetime(2026, 1, 9, 0, 30))
    assert type(one.start) is datetime
    assert one.days == 1.0


def test_slices_cover_the_window_and_split_no_hour() -> None:
    window = Window(start=MIDNIGHT, end=MIDNIGHT + timedelta(days=1))
    calls = {MIDNIGHT + timedelta(hours=at): 40 for at in range(24)}
    shards = window.shards(calls, 100)
    assert (shards[0].start, shards[-1].end, len(shards)) == (window.start, window.end, 12)
    assert all(one.end == other.start for one, other in pairwise(shards))
    assert window.shards({}, 100) == [window]
    assert len(window.shards({MIDNIGHT: 900, MIDNIGHT + timedelta(hours=1): 5}, 100)) == 2
