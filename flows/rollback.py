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
Reason = Annotated[str, Field(min_length=1)]
Who = Annotated[str, Field(max_length=200)]


@flow(name="rollback", flow_run_name="roll back {application}")
def rollback(
    application: Name,
    reason: Reason,
    release: Name | None = None,
    smoke: SmokeSuite = SmokeSuite(),  # noqa: B008 - frozen
    who: Who = "",
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
        who: Who asks, for the record. The automation and the reconciliation say that it is them.
    """
    where, order = settings(), steps.make_order(who, reason)
    # Without the lease first: an event about a release that serves nobody must not disturb a rollout.
    if not (seen := steps.decide(where, application, release, order)).bad:
        return steps.as_state(steps.nothing_to_do(where, application, seen))
    if seen.is_stranded:  # nor may one that can change nothing: it may be the cure that is being rolled out
        ending = steps.no_candidate(where, application, seen, steps.NOBODY, order)
        steps.tell(where)
        return steps.as_state(ending)
    with steps.change(where, application, seize=True) as lease:
        # The same release as seen before: another rollback may have put a good one in its place meanwhile.
        decision = steps.decide(where, application, seen.bad, order)
        if not decision.bad:
            return steps.as_state(steps.nothing_to_do(where, application, decision))
        choice = steps.choose_target(where, application, decision, smoke)
        if decision.serves and choice.target is None:
            ending = steps.no_candidate(where, application, decision, choice, order)
        else:
            steps.restore(where, lease, decision, choice, order)
            ending = steps.finish(where, lease, decision, choice, order)
    steps.tell(where)
    return steps.as_state(ending)
