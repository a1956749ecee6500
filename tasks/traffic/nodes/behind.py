"""Which nodes do not have the plan on record, as an alert says it."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tasks.errors import DeliveryError, UnreachableError
from tasks.monitors.alerts import Signal
from tasks.monitors.verdict import Outcome
from tasks.traffic.driver import Driver
from tasks.traffic.nodes.driver import NodesDriver
from tasks.traffic.nodes.remote import RemoteNode
from tasks.traffic.plan import Plan

NODES: Final = "nodes"
"""The monitor of nodes: an alert of the application as a whole."""


def find_behind(path: Driver, plan: Plan) -> tuple[str, ...]:
    """Return what is wrong with each node that does not have a plan in effect.

    Args:
        path: The data path; one without nodes has none that is behind.
        plan: The plan on record.
    """
    if not isinstance(path, NodesDriver):
        return ()
    return tuple(wrong for node in path.nodes if (wrong := _wrong(node, plan)))


def judge_nodes(path: Driver, plan: Plan, now: datetime) -> Signal:
    """Return whether every node has the plan on record in effect, as the monitor ``nodes`` says it.

    Args:
        path: The data path.
        plan: The plan on record.
        now: The time, UTC.
    """
    wrong = find_behind(path, plan)
    return Signal(
        application=plan.application,
        release_digest="",
        monitor=NODES,
        outcome=Outcome.ERROR if wrong else Outcome.PASS,
        reason="; ".join(wrong) or f"every node has revision {plan.revision} in effect",
        window_end=now,
    )


def _wrong(node: RemoteNode, plan: Plan) -> str:
    try:
        if node.observe(plan.application) == plan.buckets:
            return ""
    except UnreachableError as error:
        return str(error)
    except DeliveryError as error:
        return f"revision {plan.revision} is not known to be in effect: {error}"
    return f"node {node.url}: revision {plan.revision} of {plan.application} is not in effect"
