from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

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
