"""The life cycle: every transition there is, and none besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DeliveryError
from tasks.release.lifecycle import FINISHED, TRANSITIONS, UNDOING, Event, State, after, as_mermaid


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_what_is_not_in_the_table_is_refused(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(DeliveryError, match=f"a rollout that is {state} cannot {event}"):
            after(state, event)


@given(st.lists(st.sampled_from(list(Event)), max_size=12))
def test_nothing_is_promoted_without_a_smoke_test_and_a_share(events: list[Event]) -> None:
    state, passed, shifted = State.REGISTERED, False, False
    for event in events:
        if (state, event) not in TRANSITIONS:
            continue
        passed |= event is Event.SMOKE_PASSED
        shifted |= event is Event.SHIFT
        state = after(state, event)
        if state is State.PROMOTED:
            assert passed
            assert shifted


def test_every_rollout_can_fail_and_what_failed_can_only_be_undone() -> None:
    over = {State.REJECTED, State.ROLLED_BACK}
    assert all((state, Event.FAIL) in TRANSITIONS for state in State if state not in UNDOING | over)
    assert {event for state, event in TRANSITIONS if state in UNDOING} == {Event.UNDONE}
    assert not [event for state, event in TRANSITIONS if state in over]


def test_who_had_users_is_rolled_back_and_who_had_none_is_rejected() -> None:
    without = {State.REGISTERED, State.DEPLOYED, State.TESTED}
    failed = {state: TRANSITIONS[state, Event.FAIL] for state, event in TRANSITIONS if event is Event.FAIL}
    assert {state for state, to in failed.items() if to is State.REJECTING} == without
    assert {to for state, to in failed.items() if state not in without} == {State.REVERTING}


def test_the_diagram_shows_every_transition() -> None:
    diagram = as_mermaid()
    assert diagram.count(" --> ") == len(TRANSITIONS) + 1 + len(FINISHED)
    assert "ramping --> reverting: fail" in diagram
