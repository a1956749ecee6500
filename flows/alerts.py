"""limits that calls broke, ended silences and notices that wait → people."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.monitors import steps
from tasks.settings import settings


@flow(name="alerts")
def alerts() -> State[int]:
    """Alert where calls broke limits, open alerts whose silence is over, and deliver every notice that is due.

    What does not arrive is tried again.
    """
    where = settings()
    steps.raise_alerts(where, steps.find_call_signals(where))
    steps.wake(where)
    return steps.conclude(steps.deliver(where))
