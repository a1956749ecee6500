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
    ended: list[State[Any]] = []
    for name in steps.find_applications(where, application):
        for gap in steps.look(where, name):
            if gap.cure is Cure.HOLD:
                ended.append(steps.hold(where, gap, return_state=True))
            else:
                ended.append(rollback(name, gap.reason, release=gap.release_digest, who="reconcile", return_state=True))
        steps.put_in_force(where, name)
        steps.tend_alerts(where, name)
    steps.tell(where)
    return steps.conclude(ended)
