"""find the candidate → draw logged inputs → deploy → smoke test → replay → judge both answers → retire."""

from __future__ import annotations

from datetime import datetime

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.release.model import Name, ReleaseSpec
from tasks.settings import settings
from tasks.shadows import steps
from tasks.shadows.shadow import ShadowPolicy
from tasks.smoke.suite import SmokeSuite


@flow(name="shadow", flow_run_name=steps.run_name)
def shadow(  # noqa: PLR0917 - the form
    release: ReleaseSpec | None = None,
    application: Name | None = None,
    known: Name | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    policy: ShadowPolicy = ShadowPolicy(),  # noqa: B008 - frozen
    smoke: SmokeSuite = SmokeSuite(),  # noqa: B008 - frozen
) -> State[str]:
    """Try a release on what users asked before, without touching any of them.

    The run ends Passed (worse in nothing that decides), Worse, Inconclusive, or Rejected (its smoke test failed). The
    candidate is retired at the end unless it ran before.

    Args:
        release: The candidate, as in a release file; it is registered as in a rollout.
        application: What users call, where a known release is tried.
        known: A known release instead: its digest, the first 12 digits of it, or its version.
        since: First moment of the inputs, UTC. Empty: a day before the end.
        until: First moment after the inputs, UTC. Empty: now.
        policy: How many inputs, how fast, for how much, and what decides.
        smoke: What the candidate must answer first.
    """
    where = settings()
    candidate = steps.find_candidate(where, release, application, known)
    inputs = steps.take_inputs(where, candidate, since, until, policy)
    with steps.deployed(where, candidate):
        tested = steps.smoke_test(where, candidate, smoke)
        if not steps.passes(tested):
            return steps.as_state(steps.reject(candidate, tested))
        sent = steps.replay(where, candidate, inputs, policy)
    return steps.as_state(steps.conclude(where, steps.judge(inputs, sent, policy)))
