"""How many replicas: within the limits, after the delays, more for more, the same for the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.release.model import Autoscaling
from tasks.traffic.autoscaling import GAP_S, SMOOTHING_S, Load, Scaling, decide, replicas_for

SPEC = Autoscaling(min_replicas=1, max_replicas=5, target_ongoing_requests=2, upscale_delay_s=10, downscale_delay_s=30)
LOADS = st.lists(st.integers(0, 60), min_size=1, max_size=80)


@st.composite
def specs(draw: st.DrawFn) -> Autoscaling:
    low = draw(st.integers(1, 6))
    return Autoscaling(
        min_replicas=low,
        max_replicas=low + draw(st.integers(0, 10)),
        target_ongoing_requests=draw(st.sampled_from([5e-324, 0.1, 0.7, 1.0, 2.0, 3.5, 100.0])),
        upscale_delay_s=draw(st.sampled_from([0.0, 1.0, 2.5, 7.0, 30.0])),
        downscale_delay_s=draw(st.sampled_from([0.0, 1.0, 2.5, 20.0])),
    )


def follow(loads: Sequence[int], spec: Autoscaling = SPEC, *, begin: int = 1, start_s: float = 100.0) -> list[int]:
    """Return the replicas after each look, one look a second."""
    return [state.replicas for state in states(loads, spec, Scaling(replicas=begin), start_s)]


def states(loads: Sequence[int], spec: Autoscaling, state: Scaling, start_s: float) -> list[Scaling]:
    found = []
    for second, ongoing in enumerate(loads):
        state = decide(Load(sessions=ongoing, queued=0), spec, state, start_s + second)
        found.append(state)
    return found


def test_more_replicas_come_after_the_delay_and_go_after_theirs() -> None:
    seen = follow([6] * 20 + [1] * 60)
    assert seen[:10] == [1] * 10  # wanted for 0 to 9 s
    assert seen[10:20] == [3] * 10
    # The mean of the last five looks is 4 at the second look, 2 at the fourth; then 30 s each.
    assert seen[20:] == [3] * 31 + [2] * 2 + [1] * 27


def test_what_waits_in_the_queue_counts_like_what_is_answered() -> None:
    for load in (Load(sessions=6, queued=0), Load(sessions=2, queued=4)):
        state = Scaling(replicas=1)
        for second in range(11):
            state = decide(load, SPEC, state, float(second))
        assert state.replicas == 3


def test_one_look_the_other_way_begins_the_wait_again() -> None:
    spec = SPEC.model_copy(update={"target_ongoing_requests": 1.0})
    assert follow([4] * 6 + [0] * 6 + [4] * 10, spec)[-1] == 1
    assert follow([4] * 6 + [0] * 6 + [4] * 15, spec)[-1] == 4
    assert follow([0] * 25 + [4] * 3 + [0] * 33, spec, begin=2)[-1] == 2
    assert follow([0] * 25 + [4] * 3 + [0] * 34, spec, begin=2)[-1] == 1


def test_a_rise_below_the_first_wish_is_followed_only_as_far_as_it_held() -> None:
    assert follow([10] * 6 + [6] * 10)[-1] == 3


def test_after_a_gap_nothing_of_before_counts() -> None:
    before = states([6] * 9, SPEC, Scaling(replicas=1), 0.0)[-1]
    near = states([6] * 3, SPEC, before, 8 + GAP_S)
    far = states([6] * 3, SPEC, before, 8 + GAP_S + 1)
    assert [state.replicas for state in near] == [3, 3, 3]
    assert [state.replicas for state in far] == [1, 1, 1]


def test_without_delays_the_first_look_decides() -> None:
    spec = Autoscaling(max_replicas=5, target_ongoing_requests=2, upscale_delay_s=0, downscale_delay_s=0)
    assert follow([7], spec) == [4]
    assert follow([1], spec, begin=5) == [1]


@pytest.mark.parametrize(
    ("ongoing", "target", "wanted"),
    [(0, 2.0, 1), (2, 2.0, 1), (3, 2.0, 2), (4, 2.0, 2), (0.3, 0.1, 3), (1.1, 0.1, 5), (10**9, 1.0, 5), (1, 5e-324, 5)],
)
def test_the_fewest_replicas_that_carry_it(ongoing: float, target: float, wanted: int) -> None:
    assert replicas_for(ongoing, SPEC.model_copy(update={"target_ongoing_requests": target})) == wanted


@given(LOADS, specs(), st.integers(1, 30))
def test_it_is_never_outside_the_limits(loads: list[int], spec: Autoscaling, begin: int) -> None:
    assert all(spec.min_replicas <= replicas <= spec.max_replicas for replicas in follow(loads, spec, begin=begin))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80), specs(), st.integers(1, 9))
def test_more_load_is_never_fewer_replicas(loads: list[tuple[int, int]], spec: Autoscaling, begin: int) -> None:
    less = follow([one for one, _ in loads], spec, begin=begin)
    more = follow([one + more for one, more in loads], spec, begin=begin)
    assert all(a <= b for a, b in zip(less, more, strict=True))


@given(LOADS, st.integers(0, 60), specs(), st.integers(1, 9))
def test_under_a_constant_load_it_settles_at_what_carries_it(
    before: list[int], load: int, spec: Autoscaling, begin: int
) -> None:
    still = math.ceil(SMOOTHING_S + max(spec.upscale_delay_s, spec.downscale_delay_s)) + 1
    seen = follow([*before, *[load] * (still + 20)], spec, begin=begin)
    assert seen[-20:] == [replicas_for(load, spec)] * 20


@given(st.integers(0, 20), st.integers(1, 3), st.sampled_from([0.0, 1.0, 5.0]), st.integers(1, 5))
def test_a_load_on_a_boundary_does_not_flap(level: int, swing: int, delay_s: float, begin: int) -> None:
    spec = Autoscaling(
        max_replicas=9, target_ongoing_requests=2, upscale_delay_s=delay_s, downscale_delay_s=delay_s + 2
    )
    seen = follow([level + swing * (second % 2) for second in range(80)], spec, begin=begin)
    assert len(set(seen[20:])) == 1


@given(LOADS, specs())
def test_nothing_changes_before_its_delay(loads: list[int], spec: Autoscaling) -> None:
    seen = follow(loads, spec, begin=spec.min_replicas)
    for second in range(1, len(seen)):
        if seen[second] > seen[second - 1]:
            assert second >= spec.upscale_delay_s
        if seen[second] < seen[second - 1]:
            assert second >= spec.downscale_delay_s


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_what_is_remembered_stays_small(loads: list[int]) -> None:
    spec = Autoscaling(max_replicas=4, upscale_delay_s=10**9, downscale_delay_s=10**9)
    state = states(loads, spec, Scaling(replicas=1), 0.0)[-1]
    assert len(state.fewest) <= 4
    assert len(state.most) <= 4
    assert len(state.looks) <= SMOOTHING_S
