"""Units: who enters, when, and with what; and who is compared with whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.release.analysis.cohorts import Cohort, Ramp
from tasks.release.analysis.matching import Clock, Entries, Pairs, enter, pair

START = datetime(2026, 3, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("bucket", pa.int32()),
        ("time_utc", pa.timestamp("us", "UTC")),
        ("release_digest", pa.string()),
        ("bad", pa.float64()),
    ]
)
FIRST = Cohort(start=START, candidate_buckets=frozenset({0}), stable_buckets=frozenset({1}))
SECOND = Cohort(start=START + timedelta(minutes=10), candidate_buckets=frozenset({2}), stable_buckets=frozenset({3}))
RAMP = Ramp(application="faq", candidate="c", stable="s", cohorts=(FIRST, SECOND), planned_steps=2, salt="one")
LATE = Clock(now=START + timedelta(days=1))


def call(unit: str | None, bucket: int | None, minute: float, digest: str | None, bad: float = 0.0) -> dict[str, Any]:
    time = START + timedelta(minutes=minute)
    return {"unit": unit, "bucket": bucket, "time_utc": time, "release_digest": digest, "bad": bad}


def entered(*calls: dict[str, Any], clock: Clock = LATE, ramp: Ramp = RAMP) -> Entries:
    return enter(pa.Table.from_pylist(list(calls), schema=SCHEMA), ramp, clock)


def observed(entries: Entries) -> list[float]:
    return entries.observe(entries.calls["bad"].to_numpy()).tolist()


def test_a_user_enters_once_with_the_mean_of_their_first_tick() -> None:
    entries = entered(
        call("u", 0, 0.1, "c", 1.0), call("u", 0, 0.5, "c", 0.0), call("u", 0, 1.5, "c", 1.0), call("u", 0, 99, "c", 1)
    )
    assert (len(entries.cohort), observed(entries)) == (1, [0.5])


def test_unknown_observations_are_left_out_of_the_mean() -> None:
    entries = entered(call("u", 0, 0.1, "c", 1.0), call("u", 0, 0.2, "c", np.nan), call("v", 1, 0.1, "s", np.nan))
    assert sorted(observed(entries), key=str) == pytest.approx([1.0, np.nan], nan_ok=True)


def test_what_came_before_the_step_does_not_keep_a_user_out_nor_count() -> None:
    entries = entered(call("u", 2, 1, "s", 1.0), call("u", 2, 11, "c", 0.0), call("v", 3, 1, "s", 1.0))
    assert (observed(entries), entries.is_candidate.tolist(), entries.cohort.tolist()) == ([0.0], [True], [1])


@pytest.mark.parametrize(
    "stray",
    [
        call(None, 0, 1, "c"),
        call("u", None, 1, "c"),
        call("u", 0, 1, "s"),
        call("u", 1, 1, "c"),
        call("u", 1, 1, None),
        call("u", 7, 1, "c"),
        call("u", 0, -1, "c"),
    ],
)
def test_calls_of_nobody_of_no_cohort_or_not_as_planned_enter_nobody(stray: dict[str, Any]) -> None:
    assert len(entered(stray).cohort) == 0
    assert len(pair(entered(stray), np.empty(0)).differences) == 0


def test_a_tick_waits_until_its_slow_calls_are_logged() -> None:
    calls = [call("u", 0, 0.5, "c"), call("v", 1, 1.5, "s")]
    for minutes, known in ((0.9, 0), (1.5, 0), (2.0, 1), (2.9, 1), (3.0, 2)):
        assert len(entered(*calls, clock=Clock(now=START + timedelta(minutes=minutes))).cohort) == known


def test_users_of_different_times_are_not_compared_unless_one_arm_is_empty() -> None:
    pairs = compared(
        call("a", 0, 0, "c", 1.0), call("b", 1, 0, "s", 1.0), call("c", 0, 1, "c", 0.0), call("d", 1, 2, "s", 0.0)
    )
    assert (pairs.differences.tolist(), pairs.block_ends.tolist()) == ([0.0, 0.0], [1, 2])


def test_the_larger_arm_is_dealt_out_and_nobody_is_thrown_away() -> None:
    one = call("x", 0, 0, "c", 1.0)
    pairs = compared(one, *(call(f"s{at}", 1, 0, "s", bad) for at, bad in enumerate((1.0, 0.0, 0.0, 0.0))))
    assert (pairs.differences.tolist(), pairs.n_candidate, pairs.n_stable, pairs.stable) == ([0.75], 1, 4, 0.25)
    mirrored = compared(call("x", 1, 0, "s", 1.0), *(call(f"c{at}", 0, 0, "c", 0.0) for at in range(4)))
    assert mirrored.differences.tolist() == [-1.0]


def compared(*calls: dict[str, Any]) -> Pairs:
    entries = entered(*calls)
    return pair(entries, np.array(observed(entries)))


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.floats(0, 1)), max_size=60), st.integers(1, 40))
def test_a_longer_log_only_adds_blocks(users: list[tuple[int, bool, float]], minutes: int) -> None:
    calls = [
        call(f"u{at}", 0 if ours else 1, minute, "c" if ours else "s", bad)
        for at, (minute, ours, bad) in enumerate(users)
    ]
    early = entered(*calls, clock=Clock(now=START + timedelta(minutes=minutes)))
    before, after = (pair(entries, np.array(observed(entries))) for entries in (early, entered(*calls)))
    n = len(before.differences)
    assert np.allclose(after.differences[:n], before.differences)
    assert after.block_ends[: len(before.block_ends)].tolist() == before.block_ends.tolist()


def test_the_order_of_the_log_does_not_matter_and_the_salt_does() -> None:
    calls = [call(f"u{at}", at % 2, at % 3, "cs"[at % 2], (at * 7 % 10) / 10) for at in range(40)]
    there, back = compared(*calls), compared(*reversed(calls))
    assert there.differences.tolist() == back.differences.tolist()
    other = Ramp(application="faq", candidate="c", stable="s", cohorts=RAMP.cohorts, planned_steps=2, salt="two")
    entries = entered(*calls, ramp=other)
    assert pair(entries, np.array(observed(entries))).differences.tolist() != there.differences.tolist()


@pytest.mark.parametrize("times", [{"tick_s": 0}, {"settle_s": -1}, {"tick_s": float("nan")}])
def test_a_clock_that_makes_no_sense_is_refused(times: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Clock(now=START, **times)


def test_blocks_come_in_the_order_of_time_whatever_their_step() -> None:
    pairs = compared(call("a", 0, 20, "c", 1.0), call("b", 1, 20, "s"), call("c", 2, 11, "c"), call("d", 3, 11, "s"))
    assert pairs.differences.tolist() == [0.0, 1.0]
