"""begin → deploy and smoke-test the arms → share users out → watch → report → users go where it says."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.experiments import steps
from tasks.experiments.design import ExperimentDesign
from tasks.release.model import ReleaseSpec
from tasks.settings import settings
from tasks.smoke.suite import SmokeSuite


@flow(name="experiment", flow_run_name="{design.application}: {design.name}")
def experiment(
    design: ExperimentDesign,
    smoke: SmokeSuite = SmokeSuite(),  # noqa: B008 - frozen
    release: ReleaseSpec | None = None,
) -> State[str]:
    """Compare releases on real users: any number of arms by weight, a fixed sample, one report.

    The run ends Concluded, Inconclusive (the sample was not reached, or users were not shared out as planned), Rejected
    (an arm failed before any user saw it), RolledBack (an arm broke a limit: every user is the control's again) or
    ControlFailed (the control broke one: likewise, and nobody is blamed). Arms that keep their users are guarded until
    ``keep_s`` is over. Started again after a crash it continues where it was, or undoes what had failed.

    Args:
        design: Arms, sample, metrics and end, as in an experiment file.
        smoke: What every arm must answer before any user sees it.
        release: A release to register first, so that it can be an arm. Empty: every arm is known here.
    """
    where = settings()
    if release is not None:
        steps.introduce(where, release)
    with steps.change(where, design.application) as lease:
        record = steps.begin(where, lease, design)
        if record.is_under_way:
            record = steps.prepare(where, lease, record, smoke)
        if record.is_under_way:
            record = steps.share_out(where, lease, record)
        if record.is_under_way:
            record = steps.watch(where, lease, record)
        return steps.as_state(steps.conclude(where, lease, record))
