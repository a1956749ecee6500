"""what is on record against what is: failures are undone, plans are in force, ramps are watched."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.rollback import rollback
from tasks.release import reconcile_steps as steps
from tasks.release.model import Name
from tasks.release.reconciling import Cure
from tasks.settings import settings


@flow(name="reconcile", flow_run_name=steps.run_name)
def reconcile(application: Name | None = None) -> State[str]:
    """Find what was left undone, and do it.

    A failed night whose rollback never ran or was killed is rolled back, a ramp that nobody watches any more is held,
    every plan on record is put in force, and people are told where no night was judged for 26 hours. An application
    that somebody changes at the moment is left alone.

    Args:
        application: What users call. Empty: every application.
    """
    where = settings()
    names = steps.find_applications(where, application)
    # Each on its own: what cannot be put right in one must not keep the others from it.
    ended = [reconcile_application(name, return_state=True) for name in names]
    steps.tell(where)
    return steps.conclude_all(names, ended)


@flow(name="reconcile one application", flow_run_name="reconcile {application}")
def reconcile_application(application: Name) -> State[str]:
    """Find what was left undone in one application, and do it.

    Args:
        application: What users call.
    """
    where = settings()
    ended: list[State[Any]] = []
    for gap in steps.look(where, application):
        if gap.cure is Cure.HOLD:
            ended.append(steps.hold(where, gap, return_state=True))
        else:
            undo = {"release": gap.release_digest, "who": "reconcile"}
            ended.append(rollback(application, gap.reason, **undo, return_state=True))
    steps.tend_alerts(where, application)
    steps.put_in_force(where, application)
    return steps.conclude(ended)
