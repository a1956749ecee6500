from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pytest

from tasks.drift.alarm_checks import check_first_night, check_slow_change, measure_night, recent_change
from tasks.drift.alarms import SUSPICION, AlarmState, Calibration, replay
from tasks.drift.nights import AlarmPolicy, Night, Watched, is_weekend, value_of
from tasks.errors import InputError
from tasks.monitors.verdict import Outcome

MONDAY = date(2026, 3, 2)
METRICS = tuple(f"m{at}" for at in range(8))
POLICY = AlarmPolicy(identity="faq", watched=tuple(Watched(name=name, least=0.01) for name in METRICS))
ONE = AlarmPolicy(identity="faq", watched=(Watched(name="latency_ms"),))


def night(at: int, *, n: int = 1000, **values: float) -> Night:
    return Night(day=MONDAY + timedelta(days=at), n=n, values=tuple(sorted(values.items())))


def draw(rng: np.random.Generator, nights: int, *, effect: float = 0.08, weekend: float = 0.5) -> list[Night]:
    """Draw nights of 1,000 rows each: night effects, sampling, and other weekends."""
    sd = math.hypot(effect, 1 / math.sqrt(1000))
    drawn = []
    for at in range(nights):
        level = weekend if is_weekend(MONDAY + timedelta(days=at)) else 0.0
        drawn.append(
            Night(
                day=MONDAY + timedelta(days=at),
                n=1000,
                values=tuple((m, float(rng.normal(level, sd))) for m in METRICS),
            )
        )
    return drawn


def shift(nights: list[Night], metric: str, by: float) -> list[Night]:
    return [
        replace(item, values=tuple((name, value + by if name == metric else value) for name, value in item.values))
        for item in nights
    ]


def test_quiet_nights_raise_few_alarms_and_a_change_of_a_third_of_a_deviation_is_found_in_a_week() -> None:
    rng, alarms, found = np.random.default_rng(11), 0, []
    for _ in range(40):
        drawn = draw(rng, 28 + 60)
        baseline, nights = drawn[:28], drawn[28:]
        alarms += replay(baseline, nights, POLICY).alarmed is not None
        calibration, worse = Calibration.of(baseline, POLICY), shift(nights[:30], "m3", 0.3)
        state, at = calibration.begin(), 0
        while state.alarmed is None and at < len(worse):
            state, at = calibration.advance(state, worse[at]), at + 1
        found.append(at if state.alarmed else 99)
    assert alarms <= 2
    assert sum(at < 99 for at in found) >= 38
    assert np.median(found) <= 8


def test_the_expected_evidence_is_one_whatever_the_distribution() -> None:
    """Over every gap the next night may fall into, weighted by its chance, a bet wins nothing."""
    rng = np.random.default_rng(2)
    baseline = [night(at, latency_ms=float(value)) for at, value in enumerate(rng.pareto(1.0, 28))]
    calibration = Calibration.of(baseline, ONE)
    state = calibration.begin()
    for at in range(28, 33):
        base = [placed[0] for placed in calibration.sorted_values["latency_ms", is_weekend(night(at).day)]]
        edges = [base[0] - 1, *base, base[-1] + 1]
        counts = state.stakes[0].weekend if is_weekend(night(at).day) else state.stakes[0].weekday
        after = [
            calibration.advance(state, night(at, latency_ms=(low + high) / 2)).evidence for low, high in pairwise(edges)
        ]
        chances = [(count + 1) / (len(base) + 1 + sum(counts)) for count in counts]
        assert sum(c * e for c, e in zip(chances, after, strict=True)) == pytest.approx(state.evidence)
        state = calibration.advance(state, night(at, latency_ms=base[at % 5] + 1e-9))


def test_weekends_are_ranked_among_weekends() -> None:
    rng = np.random.default_rng(4)
    quiet = draw(rng, 42, weekend=5.0)
    state = replay(quiet[:28], quiet[28:], POLICY)
    assert state.alarmed is None
    only_weekdays = [item for item in quiet[:28] if not is_weekend(item.day)]
    mixed = replay(only_weekdays, quiet[28:], POLICY)
    assert sum(mixed.stakes[0].weekend) == 0, "a weekend without weekends in the baseline is left out"
    assert sum(mixed.stakes[0].weekday) == 10


def test_a_state_is_the_same_from_a_replay_and_from_its_json() -> None:
    drawn = draw(np.random.default_rng(5), 50)
    calibration = Calibration.of(drawn[:28], POLICY)
    state = calibration.begin()
    for item in drawn[28:]:
        state = AlarmState.from_json(calibration.advance(state, item).to_json())
    assert state == replay(drawn[:28], reversed(drawn[28:]), POLICY)
    assert state.nights == 22
    assert len(state.to_json()) < 8000


def test_ties_are_broken_by_identity_alone() -> None:
    flat = [night(at, latency_ms=1.0) for at in range(28)]
    nights = [night(at, latency_ms=1.0) for at in range(28, 88)]
    once, other = replay(flat, nights, ONE), replay(flat, nights, replace(ONE, identity="search"))
    assert once == replay(flat, nights, ONE)
    assert once != other
    assert max(once.evidence, other.evidence) < 25, "constant values are no evidence"
    assert max(once.stakes[0].weekday) < 10, "ties are spread over the gaps"


def test_missing_nights_metrics_and_small_nights_are_left_out() -> None:
    baseline = [night(at, latency_ms=math.sin(at)) for at in range(28)]
    gaps = [night(30, latency_ms=0.1), night(45, latency_ms=0.2)]
    assert replay(baseline, gaps, ONE).nights == 2
    half = replay(baseline, [night(30, n=499, latency_ms=9.0)], ONE)
    assert (half.nights, half.evidence) == (0, 1.0)
    missing = replay(baseline, [night(30)], ONE)
    assert missing.nights == 1
    assert missing.evidence == pytest.approx(1.0)


def test_order_and_numbers_are_checked() -> None:
    baseline = [night(at, latency_ms=math.sin(at)) for at in range(28)]
    calibration = Calibration.of(baseline, ONE)
    state = calibration.advance(calibration.begin(), night(30, latency_ms=0.0))
    with pytest.raises(InputError, match=r"night: '2026-04-01' is not allowed; allowed: a day after 2026-04-01"):
        calibration.advance(state, night(30, latency_ms=0.0))
    with pytest.raises(
        InputError, match=r"night 2026-03-02\.x: nan is not allowed; allowed: a finite number; leave out"
    ):
        value_of(night(0, x=math.nan), "x")
    with pytest.raises(InputError, match=r"alpha: 1\.0 is not allowed"):
        AlarmPolicy(identity="x", watched=ONE.watched, alpha=1.0)
    with pytest.raises(InputError, match="at least one metric"):
        AlarmPolicy(identity="x", watched=())


@pytest.mark.parametrize(
    "change", [{"nights": -1.5}, {"more": 1}, {"stakes": [{"name": "x"}]}, {"alarmed": "yesterday"}]
)
def test_a_state_that_was_tampered_with_is_refused(change: dict[str, object]) -> None:
    document = json.loads(replay([], [], ONE).to_json()) | change
    with pytest.raises(InputError, match=r"alarm state: .*; replay the nights"):
        AlarmState.from_json(json.dumps(document))


def test_a_stretch_under_suspicion_does_not_become_a_baseline_and_an_acknowledged_alarm_starts_anew() -> None:
    drawn = draw(np.random.default_rng(8), 80)
    baseline, worse = drawn[:28], shift(drawn[28:60], "m0", 0.4)
    calibration = Calibration.of(baseline, POLICY)
    state = calibration.begin()
    suspected = None
    for item in worse:
        state = calibration.advance(state, item)
        assert state.fit_for_baseline is (state.alarmed is None and state.evidence < SUSPICION)
        suspected = suspected or (None if state.fit_for_baseline else item.day)
    assert suspected is not None
    assert state.alarmed is not None
    assert suspected <= state.alarmed
    again = replay(baseline, [item for item in drawn[60:] if item.day > worse[-1].day], POLICY)
    assert (again.alarmed, again.nights) == (None, 20)


def base(rng: np.random.Generator, nights: int = 28) -> list[Night]:
    return [night(at, n=10_000, latency_ms=6 + float(rng.normal(0, 0.01))) for at in range(nights)]


def test_gross_change_is_seen_on_the_first_night_in_the_users_words() -> None:
    baseline = base(np.random.default_rng(1))
    slower = night(28, n=10_000, latency_ms=6 + math.log(1.1))
    check = check_first_night(baseline, slower, ONE, 1)
    assert check.outcome is Outcome.FAIL
    assert check.statement.startswith("drift: latency_ms x 1.10")
    assert check.statement.endswith("(n=10000, 20 nights)")
    assert " tonight, > ordinary x/÷ 1.0" in check.statement
    assert check_first_night(baseline, night(28, n=10_000, latency_ms=6.0), ONE, 1).outcome is Outcome.PASS
    high = replace(ONE, watched=(Watched(name="latency_ms", side="high"),))
    faster = night(28, n=10_000, latency_ms=6 - math.log(1.5))
    assert check_first_night(baseline, faster, high, 1).outcome is Outcome.PASS
    assert check_first_night(baseline, faster, ONE, 1).outcome is Outcome.FAIL


def test_a_certain_change_that_is_too_small_to_matter_is_inconclusive() -> None:
    baseline = [night(at, n=10_000, latency_ms=6 + 1e-4 * math.sin(at)) for at in range(28)]
    check = check_first_night(baseline, night(28, n=10_000, latency_ms=6.01), ONE, 1)
    assert check.outcome is Outcome.INCONCLUSIVE
    assert "less than the x/÷ 1.050 that matters" in check.statement
    nights = [night(at, n=10_000, latency_ms=6.01) for at in range(28, 40)]
    slow = check_slow_change(baseline, nights, ONE, replay(baseline, nights, ONE))
    assert slow.outcome is Outcome.INCONCLUSIVE
    assert "latency_ms x 1.010 over the last 7 nights, too little to matter; evidence >= 25" in slow.statement


def test_later_nights_may_spend_less() -> None:
    baseline = base(np.random.default_rng(1))
    tonight = night(28, n=10_000, latency_ms=6.05)
    margins = [measure_night(baseline, tonight, ONE, at)[0].margin for at in (1, 10, 60)]
    assert margins == sorted(margins)
    assert sum(ONE.night_alpha(at) for at in range(1, 100_000)) == pytest.approx(0.01 / 3, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "statement"),
    [
        (lambda: night(28, n=0), "drift: no interactions tonight (n=0)"),
        (lambda: night(28, n=4999, latency_ms=6.0), "drift: 4999 interactions tonight < 5000, 50% of a usual night"),
        (lambda: night(28, n=9000, other=6.0), "drift: 20 weekday nights in the baseline < minimum 4, or no metric"),
    ],
)
def test_nights_that_cannot_be_judged_say_why(make: Callable[[], Night], statement: str) -> None:
    check = check_first_night(base(np.random.default_rng(1)), make(), ONE, 1)
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.statement.startswith(statement)


def test_a_baseline_of_few_nights_judges_nothing() -> None:
    baseline = base(np.random.default_rng(1), nights=3)
    check = check_first_night(baseline, night(28, n=10_000, latency_ms=9.0), ONE, 1)
    assert check.outcome is Outcome.INCONCLUSIVE
    assert "3 weekday nights in the baseline < minimum 4" in check.statement
    nights = [night(28, n=10_000, latency_ms=9.0)]
    slow = check_slow_change(baseline, nights, ONE, replay(baseline, nights, ONE))
    assert slow.outcome is Outcome.INCONCLUSIVE
    assert slow.statement == "drift: no night could be ranked among 3 nights of the baseline (n=10000)"


def test_slow_change_fails_with_its_size_and_since_when() -> None:
    rng = np.random.default_rng(3)
    baseline = base(rng)
    nights = [night(at, n=10_000, latency_ms=6.07 + float(rng.normal(0, 0.01))) for at in range(28, 42)]
    check = check_slow_change(baseline, nights, ONE, replay(baseline, nights, ONE))
    assert check.outcome is Outcome.FAIL
    assert check.statement.startswith("drift: latency_ms x 1.068 over the last 7 nights; ")
    assert "evidence >= 25 since 2026-04-0" in check.statement
    assert recent_change(baseline, nights, ONE.watched[0]) == pytest.approx(0.07, abs=0.01)
    quiet = [night(at, n=10_000, latency_ms=6 + float(rng.normal(0, 0.01))) for at in range(28, 42)]
    passed = check_slow_change(baseline, quiet, ONE, replay(baseline, quiet, ONE))
    assert passed.outcome is Outcome.PASS
    assert passed.statement.endswith("< 25 after 14 nights (n=140000)")
