"""Cohorts: whom a step moves, and whom it is compared with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.release.analysis.cohorts import Cohort, Ramp, form_cohorts
from tasks.traffic.plan import BUCKETS, reassign

START = datetime(2026, 3, 1, tzinfo=UTC)


def plans(*percents: float) -> list[tuple[str, ...]]:
    made = [("s",) * BUCKETS]
    for percent in percents:
        count = round(percent * 10)
        made.append(reassign(made[-1], {"c": count, "s": BUCKETS - count}, "salt"))
    return made


def form(*percents: float, begun: int | None = None) -> tuple[Cohort, ...]:
    starts = [START + timedelta(minutes=at) for at in range(len(percents) if begun is None else begun)]
    return form_cohorts(plans(*percents), starts, candidate="c", stable="s")


def test_the_usual_ramp_compares_arms_of_equal_size() -> None:
    sizes = [(len(one.candidate_buckets), len(one.stable_buckets), one.share) for one in form(1, 5, 10, 25, 50)]
    assert sizes == [(10, 10, 0.5), (40, 40, 0.5), (50, 50, 0.5), (150, 150, 0.5), (250, 250, 0.5)]


@given(st.lists(st.integers(1, 980), min_size=1, max_size=10, unique=True).map(sorted))
def test_no_bucket_is_compared_twice_and_none_moves_after_it_was_compared_with(counts: list[int]) -> None:
    cohorts = form(*(count / 10 for count in counts))
    used = [bucket for one in cohorts for bucket in (*one.candidate_buckets, *one.stable_buckets)]
    assert len(used) == len(set(used))
    last = plans(*(count / 10 for count in counts))[-1]
    assert all(last[bucket] == "s" for one in cohorts for bucket in one.stable_buckets)
    assert all(one.candidate_buckets and one.stable_buckets for one in cohorts)


def test_a_later_step_does_not_change_the_earlier_cohorts() -> None:
    assert form(1, 5, 50)[:2] == form(1, 5, 50, begun=2)


@pytest.mark.parametrize("percents", [(50, 100), (10, 5)])
def test_a_ramp_that_leaves_nobody_or_takes_back_is_refused(percents: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        form(*percents)


def test_more_steps_than_planned_are_refused() -> None:
    with pytest.raises(InputError, match="at most 1"):
        form(50, begun=2)


@pytest.mark.parametrize(("begun", "planned"), [(0, 1), (2, 1)])
def test_a_ramp_that_has_not_begun_or_went_too_far_is_refused(begun: int, planned: int) -> None:
    cohorts = form(1, 50)[:begun]
    with pytest.raises(InputError, match="1 to 1, those planned"):
        Ramp(application="faq", candidate="c", stable="s", cohorts=cohorts, planned_steps=planned, salt="x")
