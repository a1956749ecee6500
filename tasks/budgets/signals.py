"""What budgets say of the alerts that people are told of: one for each budget and period that is not kept to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from tasks.budgets.state import Alert as BudgetAlert
from tasks.budgets.state import BudgetState, check_state
from tasks.monitors.alerts import Alert, Signal
from tasks.monitors.verdict import Outcome

EVERYBODY: Final = "every application"
_PREFIX: Final = "budget:"
_LENGTHS: Final = {len("2025-03-30"): "day", len("2025-03"): "month"}


def find_signals(
    states: Sequence[BudgetState], known: Iterable[Alert], now: datetime, told: Sequence[BudgetAlert] = ()
) -> tuple[Signal, ...]:
    """Return what there is to say of the alerts of budgets.

    A budget that is broken, or fails closed, raises its alert. One that is kept to resolves it, as does one that is no
    longer there, or counts nothing in its new period. One that is inconclusive says nothing. A day that is over has an
    alert of its own, where it was not told of while it went on.

    Args:
        states: Where every budget stands.
        known: The alerts that are not resolved.
        now: The time, UTC.
        told: What was told just now for the first time.
    """
    late = {(alert.budget, alert.period) for alert in told}
    heard = [state for state in states if state.is_finished and (state.budget.name, state.period) not in late]
    said = tuple(_signals([state for state in states if state not in heard], now))
    spoken = {_key(signal) for signal in said} | {_key(_signal(state, Outcome.PASS, now)) for state in states}
    gone = (alert for alert in known if alert.monitor.startswith(_PREFIX) and _key(alert) not in spoken)
    return (*said, *(_end(alert, now) for alert in gone))


def _signals(states: Sequence[BudgetState], now: datetime) -> Iterator[Signal]:
    for state in states:
        outcome = check_state(state).outcome
        if outcome is not Outcome.INCONCLUSIVE:
            yield _signal(state, outcome, now)


def _signal(state: BudgetState, outcome: Outcome, now: datetime) -> Signal:
    scope = state.budget.scope
    return Signal(
        application=(scope.application or EVERYBODY)[:64],
        release_digest=scope.release or "",
        monitor=_PREFIX + _LENGTHS[len(state.period)],
        segment=f"budget={state.budget.name}" + (f" of {state.period}" if state.is_finished else ""),
        outcome=outcome,
        reason=check_state(state).statement,
        window_end=now,
    )


def _end(alert: Alert, now: datetime) -> Signal:
    return Signal(
        application=alert.application,
        release_digest=alert.release_digest,
        monitor=alert.monitor,
        segment=alert.segment,
        outcome=Outcome.PASS,
        reason="nothing counts against the budget now",
        window_end=now,
    )


def _key(of: Alert | Signal) -> tuple[str, str, str, str]:
    return (of.application, of.release_digest, of.monitor, of.segment)
