"""failed verdict → last good release, verified from the data path."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from tasks.release import rollback_steps as steps
from tasks.release.model import NAME_PATTERN
from tasks.settings import settings
from tasks.smoke.suite import SmokeSuite

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Reason = Annotated[str, Field(min_length=1, max_length=2000)]


@flow(name="rollback", flow_run_name="{application}")
def rollback(
    application: Name,
    reason: Reason,
    release: Name | None = None,
    smoke: SmokeSuite = SmokeSuite(),  # noqa: B008 - frozen
) -> State[str]:
    """Put the last proven release back in force and verify it from the answers users get.

    The run ends RolledBack, NothingToDo (the release no longer serves) or NoCandidate (nothing proven can come back;
    what serves goes on serving). Started again after a crash, or twice for one event, it finishes the same rollback.

    Args:
        application: What users call.
        reason: Why, for the record.
        release: The release that failed: its digest, the first 12 digits of it, or its version. Empty: the one that
            is being rolled out, else the one most users get.
        smoke: What the restored release must answer first.
    """
    where = settings()
    # Without the lease first: an event about a release that serves nobody must not disturb a rollout.
    if not (seen := steps.decide(where, application, release)).bad:
        return steps.as_state(steps.nothing_to_do(where, application, seen))
    with steps.change(where, application, seize=True) as lease:
        # The same release as seen before: another rollback may have put a good one in its place meanwhile.
        decision = steps.decide(where, application, seen.bad)
        if not decision.bad:
            return steps.as_state(steps.nothing_to_do(where, application, decision))
        target = steps.choose_target(where, application, decision, smoke)
        if decision.serves and target is None:
            return steps.as_state(steps.no_candidate(application, decision, reason))
        steps.restore(where, lease, decision, target, reason)
        return steps.as_state(steps.finish(where, lease, decision, target, reason))
