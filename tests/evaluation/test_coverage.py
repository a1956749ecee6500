"""Half a night is seen by its missing hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tasks.evaluation.coverage import check_coverage, usual_calls
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Outcome

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
NIGHT = Window(start=MONDAY, end=MONDAY + 24 * HOUR)


def calls_of(day: datetime, hours: range = range(24), calls: int = 100) -> dict[datetime, int]:
    return {day + at * HOUR: calls for at in hours}


def test_the_first_night_has_nothing_to_be_compared_with() -> None:
    tonight = calls_of(MONDAY, range(12))
    assert check_coverage(tonight, usual_calls(tonight, NIGHT)) is None


def test_half_a_night_is_inconclusive_with_its_hours() -> None:
    before = calls_of(MONDAY - 24 * HOUR)
    found = check_coverage(calls_of(MONDAY, range(13)), usual_calls(before, NIGHT))
    assert found is not None
    assert (found.monitor, found.outcome) == ("coverage", Outcome.INCONCLUSIVE)
    assert found.statement == (
        "coverage: 11 of 24 hours are missing, which usually have 46% of the calls > limit 20% (n=1300, usually 2400)"
    )


def test_calls_that_are_missing_evenly_are_missing_too() -> None:
    usual = usual_calls(calls_of(MONDAY - 24 * HOUR), NIGHT)
    thin, thick = check_coverage(calls_of(MONDAY, calls=11), usual), check_coverage(calls_of(MONDAY, calls=80), usual)
    assert thin is not None
    assert thick is not None
    assert (thin.outcome, thin.statement) == (
        Outcome.INCONCLUSIVE,
        (
            "coverage: 0 of 24 hours are missing, which usually have 0% of the calls <= limit 20%, "
            "and all hours have 11% of the calls < minimum 50% (n=264, usually 2400)"
        ),
    )
    assert thick.outcome is Outcome.PASS
    assert thick.statement.endswith("have 0% of the calls <= limit 20% (n=1920, usually 2400)")


def test_a_window_of_half_an_hour_is_held_against_half_of_the_hours_calls() -> None:
    short = Window(start=MONDAY + HOUR / 2, end=MONDAY + 1.5 * HOUR)
    usual = usual_calls(calls_of(MONDAY - 24 * HOUR), short)
    assert usual == {MONDAY: 50.0, MONDAY + HOUR: 50.0}
    found = check_coverage({MONDAY: 45, MONDAY + HOUR: 40}, usual)
    assert found is not None
    assert found.outcome is Outcome.PASS


def test_no_call_at_all_is_every_hour_missing_and_a_quiet_night_is_none() -> None:
    usual = usual_calls(calls_of(MONDAY - 24 * HOUR), NIGHT)
    nothing, quiet = check_coverage({}, usual), check_coverage(calls_of(MONDAY, calls=55), usual)
    assert nothing is not None
    assert quiet is not None
    assert nothing.statement.startswith("coverage: 24 of 24 hours are missing, which usually have 100%")
    assert quiet.outcome is Outcome.PASS


def test_weekdays_are_held_against_weekdays_and_rare_calls_against_nothing() -> None:
    before: dict[datetime, int] = {}
    for days in range(1, 6):  # Sunday, Saturday, and three weekdays
        before |= calls_of(MONDAY - days * 24 * HOUR, calls=800 if days < 3 else 500)
    assert set(usual_calls(before, NIGHT).values()) == {500.0}
    assert check_coverage({}, usual_calls(calls_of(MONDAY - 24 * HOUR, range(1), 19), NIGHT)) is None


def test_a_long_outage_ago_does_not_make_outages_usual() -> None:
    before: dict[datetime, int] = {}
    for days in (1, 4, 5, 6):
        before |= calls_of(MONDAY - days * 24 * HOUR)
    before |= calls_of(MONDAY - 7 * 24 * HOUR, range(6))
    found = check_coverage(calls_of(MONDAY, range(6)), usual_calls(before, NIGHT))
    assert found is not None
    assert found.outcome is Outcome.INCONCLUSIVE
