"""The steps of reconciling what is with what is on record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State as FlowState
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.errors import DeliveryError, LeaseError
from tasks.experiments.life import judge_guard
from tasks.monitors.alerts import ROLLBACK
from tasks.release.acting import change, driver, enforce, now
from tasks.release.lifecycle import Event
from tasks.release.mending import mend_aliases
from tasks.release.reconciling import EVENT_S, Gap, find_failed_nights, find_gaps, judge_nights
from tasks.release.rollout import Ending
from tasks.release.telling import announce, announce_alerts, route_of, tell
from tasks.settings import Settings
from tasks.stores.ledger import Ledger, database
from tasks.traffic.nodes.behind import judge_nodes

__all__ = [
    "conclude",
    "conclude_all",
    "find_applications",
    "hold",
    "look",
    "put_in_force",
    "run_name",
    "tell",
    "tend_alerts",
]


def run_name() -> str:
    """Return the name of a flow run, for people."""
    return f"reconcile {flow_run.parameters.get('application') or 'every application'}"


@task(cache_policy=NO_CACHE)
def find_applications(where: Settings, application: str | None) -> list[str]:
    """Return the application that was asked for, or every one that has a traffic plan."""
    return [application] if application is not None else Ledger(where.ledger).applications()


@task(cache_policy=NO_CACHE, task_run_name="look at {application}")
def look(where: Settings, application: str) -> tuple[Gap, ...]:
    """Return what was left undone; where somebody changes the application at the moment, only nights that failed.

    A rollback is due then, too, where the event of the failure was lost, and takes the application over.
    """
    ledger = Ledger(where.ledger)
    plan, rollouts, verdicts = ledger.plan(application), ledger.rollouts(application), ledger.verdicts(application)
    experiment = ledger.open_experiment(application)
    expiry = ledger.lease_expiry(application)
    # One that runs longer than a lease lives was written before the clock was set back: whoever asks for it will see.
    if expiry is not None and now() < expiry <= now() + timedelta(seconds=database.LEASE_S):
        get_run_logger().info(f"{application} is being changed, until {expiry:%H:%M:%S} UTC at least: left alone")
        gaps = find_failed_nights(plan, rollouts, verdicts, experiment, now() - timedelta(seconds=EVENT_S))
        # Where people know that nothing can come back, what is under way may be what they do about it.
        stranded = {alert.release_digest for alert in ledger.alerts(application) if alert.monitor == ROLLBACK}
        gaps = tuple(gap for gap in gaps if gap.release_digest not in stranded)
    else:
        gaps = find_gaps(plan, rollouts, verdicts, experiment)
    for gap in gaps:
        get_run_logger().warning(f"{application}, release {gap.release_digest[:12]}: {gap.cure}, because {gap.reason}")
    return gaps


@task(cache_policy=NO_CACHE, task_run_name="hold the rollout of {gap.application}")
def hold(where: Settings, gap: Gap) -> FlowState[str]:
    """Put a ramp that nobody watches on hold, and tell people."""
    message = f"{gap.reason}; start the rollout again, or: delivery abort {gap.application}"
    try:
        with change(where, gap.application) as lease:
            ledger = Ledger(where.ledger)
            for rollout in ledger.rollouts(gap.application):
                if rollout.release_digest == gap.release_digest and rollout.is_under_way:
                    ledger.advance(lease, rollout.rollout_id, Event.HOLD, gap.reason, now())
    except LeaseError as error:
        return Completed(name="Busy", message=str(error))
    ending = Ending(name="Held", message=message, is_failure=True, release_digest=gap.release_digest)
    announce(gap.application, "delivery.rollout.interrupted", ending)
    return Completed(name="Held", message=message)


@task(cache_policy=NO_CACHE, task_run_name="put the plan of {application} in force", retries=1, retry_delay_seconds=5)
def put_in_force(where: Settings, application: str) -> None:
    """Have every release of the plan on record run, the plan in effect, and the registry say who serves."""
    ledger, path = Ledger(where.ledger), driver(where)
    # In this order: whoever retires a release meanwhile has written the plan without it before.
    running = set(path.running(application))
    plan, missing = ledger.plan(application), list[DeliveryError]()
    for digest in plan.counts() if plan else {}:
        if digest not in running:
            get_run_logger().warning(f"release {digest[:12]} of {application} has users and no server: deployed again")
            try:
                path.ensure(ledger.recall(application, digest))
            except DeliveryError as error:
                missing.append(error)
    enforce(where, application)
    mend_aliases(where, application)
    if missing:
        raise missing[0]


@task(cache_policy=NO_CACHE, task_run_name="look at the alerts of {application}")
def tend_alerts(where: Settings, application: str) -> None:
    """Alert where no night was judged for too long, nobody guards an experiment or a node is behind; close the rest."""
    ledger, route = Ledger(where.ledger), route_of(where)
    plans = ledger.plans(application)
    if not plans:
        return
    nights = judge_nights(application, plans[-1].time, ledger.verdicts(application), now())
    experiment, until = ledger.open_experiment(application), ledger.lease_expiry(application)
    guard = judge_guard(application, experiment, until, now())
    nodes = judge_nodes(driver(where), plans[0], now())
    announce_alerts(ledger.signal_alerts([nights, guard, nodes], route, now()))
    announce_alerts(ledger.close_rollback_alerts(application, "the release serves nobody any more", route, now()))


def conclude(ended: Sequence[FlowState[Any]]) -> FlowState[str]:
    """Return the state of the run: what was put right, and whether anything could not be."""
    if not ended:
        return Completed(name="NothingToDo", message="everything is as it is on record")
    message = "; ".join(f"{state.name}: {state.message}" for state in ended)
    broken = any(state.is_failed() or state.is_crashed() for state in ended)
    return Failed(message=message) if broken else Completed(name="Reconciled", message=message)


def conclude_all(names: Sequence[str], ended: Sequence[FlowState[Any]]) -> FlowState[str]:
    """Return the state of the run over all applications, in the order of their names."""
    if len(ended) == 1:
        return ended[0]
    told = [(name, state) for name, state in zip(names, ended, strict=True) if state.name != "NothingToDo"]
    if not told:
        return conclude(())
    message = "; ".join(f"{name}: {state.message}" for name, state in told)
    broken = any(not state.is_completed() for _, state in told)
    return Failed(message=message) if broken else Completed(name="Reconciled", message=message)
