"""failed verdict → last good release, verified from the data path."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.states import State
from pydantic import Field

from tasks.release import rollback_steps as steps
from tasks.release.smoke import SmokeSuite
from tasks.settings import settings


@flow(flow_run_name="{application}")
def rollback(
    application: Annotated[str, Field(description="What users call.")],
    reason: Annotated[str, Field(min_length=1, description="Why, for the record.")],
    release_digest: Annotated[
        str | None, Field(description="The release that failed; empty: the one most users get.")
    ] = None,
    smoke: Annotated[SmokeSuite, Field(description="What the target must answer first.")] = SmokeSuite(),  # noqa: B008
) -> State[str]:
    """Put the last proven release back in force and verify it from the answers users get.

    The run ends RolledBack, NothingToDo (the release no longer serves) or NoCandidate (nothing proven can come back;
    what serves goes on serving). Started again after a crash, or twice for one event, it finishes the same rollback.
    """
    where = settings()
    with steps.change(where, application, seize=True) as lease:
        decision = steps.decide(where, application, release_digest)
        if not decision.bad:
            return steps.as_state(steps.nothing_to_do(decision))
        target = steps.choose_target(where, application, decision, smoke)
        if target is None:
            return steps.as_state(steps.no_candidate(application, decision, reason))
        steps.restore(where, lease, decision, target, reason)
        steps.verify(where, target)
        return steps.as_state(steps.finish(where, lease, decision, target, reason))
