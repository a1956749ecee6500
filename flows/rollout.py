"""register → deploy → smoke test → ramp → promote."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.monitors.verdict import Outcome
from tasks.release import rollout_steps as steps
from tasks.release.model import ReleaseSpec
from tasks.release.ramp import RampPolicy
from tasks.release.smoke import SmokeSuite
from tasks.settings import settings


@flow(name="rollout", flow_run_name="{release.application}-{release.model_id}-{release.version}")
def rollout(
    release: ReleaseSpec,
    ramp: RampPolicy = RampPolicy(),  # noqa: B008 - frozen
    smoke: SmokeSuite = SmokeSuite(),  # noqa: B008 - frozen
    override_reason: str = "",
) -> State[str]:
    """Roll a release out: registered, deployed, smoke-tested, ramped against the champion, promoted.

    The run ends Promoted, Held (the evidence allows neither), Rejected (smoke test) or RolledBack (ramp). Started
    again after a crash it continues where it was.

    Args:
        release: The release, as in a release file.
        ramp: How it gets its users.
        smoke: What it must answer before any user sees it.
        override_reason: Why a release in quarantine may try again; needed only for such a release.
    """
    where = settings()
    with steps.change(where, release.application) as lease:
        registered = steps.register(where, release)
        running = steps.begin(where, lease, registered, override_reason)
        running = steps.deploy(where, lease, running, registered)
        tested = steps.smoke_test(where, registered, smoke)
        if tested.outcome is not Outcome.PASS:
            return steps.as_state(steps.reject(where, lease, running, registered, tested))
        running = steps.pass_smoke(where, lease, running)
        for step in steps.ramp_steps(where, registered, ramp):
            plan = steps.shift_traffic(where, lease, running, registered, step.buckets)
            if step.watched:
                seen = steps.watch(where, registered, plan, ramp)
                if seen.outcome is Outcome.FAIL:
                    return steps.as_state(steps.take_back(where, lease, running, registered, seen))
                if seen.outcome is not Outcome.PASS:
                    return steps.as_state(steps.hold(where, lease, running, registered, seen))
        return steps.as_state(steps.promote(where, lease, running, registered))
