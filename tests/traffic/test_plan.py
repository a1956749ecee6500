"""The buckets of a plan: complete, sticky, and moved as little as possible."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.traffic.plan import BUCKETS, Plan, bucket_of, reassign

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def plan(buckets: tuple[str, ...]) -> Plan:
    return Plan(
        application="faq",
        revision=1,
        salt="s",
        buckets=buckets,
        author="t",
        reason="r",
        time=datetime.now(UTC),
    )


@st.composite
def wanted(draw: st.DrawFn) -> dict[str, int]:
    first = draw(st.integers(0, BUCKETS))
    second = draw(st.integers(0, BUCKETS - first))
    return {A: first, B: second, C: BUCKETS - first - second}


@given(wanted(), wanted(), st.text(max_size=8))
def test_every_share_is_met_with_the_fewest_moves(before: dict[str, int], after: dict[str, int], salt: str) -> None:
    current = reassign((), before, salt)
    moved_to = reassign(current, after, salt)
    assert {digest: moved_to.count(digest) for digest in after} == after
    moves = sum(1 for old, new in zip(current, moved_to, strict=True) if old != new)
    assert moves == sum(max(0, after[digest] - before[digest]) for digest in after)


@given(st.lists(st.integers(1, BUCKETS), min_size=1, max_size=6), st.text(max_size=8))
def test_a_ramp_never_takes_a_user_back(steps: list[int], salt: str) -> None:
    current, served = (A,) * BUCKETS, set[int]()
    for step in sorted(steps):
        current = reassign(current, {A: BUCKETS - step, B: step}, salt)
        now = {bucket for bucket, digest in enumerate(current) if digest == B}
        assert served <= now
        served = now


def test_a_second_ramp_meets_the_same_users_first() -> None:
    up = reassign((A,) * BUCKETS, {A: 900, B: 100}, "salt")
    down = reassign(up, {A: BUCKETS}, "salt")
    assert reassign(down, {A: 900, B: 100}, "salt") == up
    other = reassign((A,) * BUCKETS, {A: 900, B: 100}, "other")
    assert other != up


def test_a_plan_without_a_release_for_every_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="999 buckets have a release; every plan has 1000"):
        plan((*((A,) * 999), ""))
    with pytest.raises(InputError, match="shares out 999"):
        reassign((), {A: 999}, "s")


def test_buckets_are_those_of_the_published_hash() -> None:
    # xxh32 with seed 0; the data path's own answers are compared in tests/traffic/test_haproxy.py
    assert bucket_of("faq", "user-1") == 0xEC235399 % 1000
    assert {bucket_of("faq", f"user-{n}") for n in range(20_000)} == set(range(BUCKETS))


def test_shares_are_reported_largest_first() -> None:
    assert plan(reassign((), {A: 50, B: 950}, "s")).shares() == {B: 0.95, A: 0.05}
