"""register → deploy → smoke test → ramp → promote."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from tasks.release import rollout_steps as steps
from tasks.release.model import ReleaseSpec
from tasks.release.ramp import RampPolicy
from tasks.settings import settings
from tasks.smoke.suite import SmokeSuite

Who = Annotated[str, Field(max_length=200)]


@flow(name="rollout", flow_run_name="{release.application}: {release.model_id} {release.version}")
def rollout(
    release: ReleaseSpec,
    ramp: RampPolicy = RampPolicy(),  # noqa: B008 - frozen
    smoke: SmokeSuite = SmokeSuite(),  # noqa: B008 - frozen
    override_reason: str = "",
    who: Who = "",
) -> State[str]:
    """Roll a release out: registered, deployed, smoke-tested, ramped against the champion, promoted.

    The run ends Promoted, Held (the evidence allows neither), Rejected (before any user saw it) or RolledBack (after).
    Started again after a crash it continues where it was, or undoes what had failed.

    Args:
        release: The release, as in a release file.
        ramp: How it gets its users.
        smoke: What it must answer before any user sees it.
        override_reason: Why a release in quarantine may try again, or any release in a freeze window or without the
            A/B test that its file asks for.
        who: Who asks for it, for the record.
    """
    where = settings()
    with steps.change(where, release.application) as lease:
        registered = steps.register(where, release)
        running = steps.begin(where, lease, registered, ramp, override_reason, who)
        if running.is_under_way:
            running = steps.deploy(where, lease, running, registered)
        if running.is_under_way:
            running = steps.smoke_test(where, lease, running, registered, smoke)
        if running.is_under_way:
            for step in steps.ramp_steps(where, running, ramp):
                running = steps.shift_traffic(where, lease, running, registered, step)
                if step.watched:
                    running = steps.watch(where, lease, running, registered, step=step, policy=ramp)
                if not running.is_under_way:
                    break
        ending = steps.conclude(where, lease, running, registered)
    steps.tell(where)
    return steps.as_state(ending)
