"""The life cycle: every transition there is, and none besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DeliveryError
from tasks.release.lifecycle import FINISHED, TRANSITIONS, Event, State, after, as_mermaid


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


def test_every_unfinished_rollout_can_be_rolled_back() -> None:
    assert all((state, Event.ROLL_BACK) in TRANSITIONS for state in State if state not in FINISHED)


def test_a_rejected_or_rolled_back_release_goes_nowhere() -> None:
    assert not [event for state, event in TRANSITIONS if state in {State.REJECTED, State.ROLLED_BACK}]


def test_the_diagram_shows_every_transition() -> None:
    diagram = as_mermaid()
    assert diagram.count(" --> ") == len(TRANSITIONS) + 1 + len(FINISHED)
    assert "ramping --> rolled_back: roll back" in diagram
