"""The steps of an experiment: each takes the experiment as it is on record, and returns it as it is then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pyarrow.compute as pc
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.costs.calls import COST_COLUMNS, with_costs
from tasks.costs.prices import read_price_book
from tasks.errors import DeliveryError, InputError, LeaseError, ServingError
from tasks.experiments.design import ExperimentDesign, OnEnd, forecast, users_needed
from tasks.experiments.ending import publish_end, put_breach_on_record, record_verdict, turn
from tasks.experiments.experiment import Experiment, experiment_outcomes, report, wanted_buckets
from tasks.experiments.life import ExperimentRecord, Stage, Turn
from tasks.experiments.verdict import arm_verdict, decide, sampled
from tasks.experiments.watching import (
    ExperimentWatch,
    Watched,
    calls_of,
    plan_in_force,
    score_calls,
    take_in,
    traffic_seen,
)
from tasks.monitors.verdict import Outcome
from tasks.release import acting, telling
from tasks.release.acting import driver, enforce, give_everything_to, log_verdict, now, project
from tasks.release.analysis.cohorts import count_as_planned
from tasks.release.model import Release, ReleaseSpec
from tasks.release.ramp import LOOK_COLUMNS
from tasks.release.rollout import Ending, Lease
from tasks.release.telling import as_state
from tasks.settings import Settings
from tasks.smoke.suite import SmokeSuite
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry

__all__ = [
    "as_state",
    "begin",
    "change",
    "conclude",
    "find_open",
    "introduce",
    "nothing_open",
    "prepare",
    "share_out",
    "stop",
    "watch",
]


@contextmanager
def change(where: Settings, application: str, *, seize: bool = False) -> Iterator[Lease]:
    """Hold an application while an experiment changes it; who stops one seizes it.

    Raises:
        LeaseError: Somebody else changes it.
    """
    with acting.change(where, application, seize=seize) as lease:
        try:
            yield lease
        except LeaseError:
            raise
        except Exception as error:
            found = Ledger(where.ledger).open_experiment(application)
            if found is not None and found.stage in {Stage.RUNNING, Stage.KEPT}:
                message = f"nobody guards the arms of experiment {found.name}: {type(error).__name__}; start it again"
                ending = Ending(name="Interrupted", message=message, is_failure=True, release_digest=found.control)
                telling.announce(application, "delivery.experiment.interrupted", ending)
            raise


@task(cache_policy=NO_CACHE, task_run_name="introduce {spec.model_id} {spec.version}")
def introduce(where: Settings, spec: ReleaseSpec) -> Release:
    """Store a release in the registry and make it known here, so that it can be an arm."""
    release, _ = Registry(where.mlflow_url).register(spec)
    Ledger(where.ledger).remember(release)
    return release


@task(cache_policy=NO_CACHE, task_run_name="begin {design.name}")
def begin(where: Settings, lease: Lease, design: ExperimentDesign) -> ExperimentRecord:
    """Put the experiment on record with its sample, or take up the one of this name; then the plan is in effect."""
    ledger, application = Ledger(where.ledger), design.application
    enforce(where, application)
    arms = {ledger.resolve(application, arm.release): arm.weight for arm in design.arms}
    if len(arms) < len(design.arms):
        raise InputError.of("arms", [arm.release for arm in design.arms], "each release once; two names are of one")
    experiment = Experiment(name=design.name, control=ledger.resolve(application, design.control), arms=arms)
    take_in(where, application, now())
    seen = traffic_seen(where, application, now())
    begun = ledger.begin_experiment(lease, design, experiment, users_needed(design, seen), now())
    get_run_logger().info(f"experiment {begun.name} is {begun.stage}; asked for: {forecast(design, seen)}")
    return begun


@task(cache_policy=NO_CACHE, task_run_name="prepare {record.name}")
def prepare(where: Settings, lease: Lease, record: ExperimentRecord, suite: SmokeSuite) -> ExperimentRecord:
    """Have every arm answer, and smoke-test all but the control, before any user meets them."""
    for arm in record.treatments:
        release = Ledger(where.ledger).recall(record.application, arm)
        problem, is_blamed = _try(where, release, suite)
        if problem:
            blamed = arm if is_blamed else None
            return turn(where, lease, record, Turn.FAIL, f"{release.label}: {problem}", blamed=blamed)
    return record


def _try(where: Settings, release: Release, suite: SmokeSuite) -> tuple[str, bool]:
    """Return why a release cannot be an arm, empty where it can, and whether it is to blame for it."""
    path = driver(where)
    try:
        path.scale(release, release.spec.autoscaling)
        path.ensure(release)
    except LeaseError:
        raise
    except DeliveryError as error:
        return f"it cannot be deployed: {error}", False
    verdict = acting.run_smoke(path, release, suite, book=read_price_book(where.price_book))
    Ledger(where.ledger).record_verdict(verdict, kind="smoke", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"smoke test of {release.label}")
    return ("" if verdict.outcome is Outcome.PASS else f"smoke test failed: {verdict.reason}"), True


@task(cache_policy=NO_CACHE, task_run_name="share users out for {record.name}")
def share_out(where: Settings, lease: Lease, record: ExperimentRecord) -> ExperimentRecord:
    """Give every arm its users: on record first, then in effect, then readable in the registry."""
    ledger, buckets = Ledger(where.ledger), wanted_buckets(record.arms)
    shares = ", ".join(f"{arm[:12]} {count / 10:g} %" for arm, count in buckets.items())
    shared = turn(where, lease, record, Turn.SHARE, shares)
    driver(where).apply(acting.write_plan(ledger, lease, buckets, f"experiment {record.name}: {shares}"))
    if len(record.treatments) == 1:
        version = ledger.recall(record.application, record.treatments[0]).registry_version
        project(where, lease, lambda registry: registry.set_aliases(record.application, {"challenger": version}))
    return shared


@task(cache_policy=NO_CACHE, task_run_name="watch {record.name}")
def watch(where: Settings, lease: Lease, record: ExperimentRecord) -> ExperimentRecord:
    """Guard the arms until the sample is there, then read it, once; arms that keep their users are guarded on."""
    releases = {arm: Ledger(where.ledger).recall(record.application, arm) for arm in record.arms}
    guarding = ExperimentWatch(
        where=where,
        path=driver(where),
        lease=lease,
        record=record,
        releases=releases,
        clock=now,
        tell=_Progress(record).tell,
    )
    if record.stage is not Stage.KEPT:
        watched = guarding.run()
        if watched.breach is not None:
            return put_breach_on_record(where, lease, record, releases, watched.breach)
        record = _read(where, lease, record, releases, watched)
    if record.stage is not Stage.KEPT or record.decided is None:
        return record
    breach = guarding.guard(record.kept_since + timedelta(seconds=record.design.keep_s))
    if breach is not None:
        return put_breach_on_record(where, lease, record, releases, breach)
    return turn(where, lease, record, Turn.EXPIRE, record.decided.message)


def _read(
    where: Settings, lease: Lease, record: ExperimentRecord, releases: Mapping[str, Release], watched: Watched
) -> ExperimentRecord:
    plan, end = plan_in_force(where, record), now()
    columns = (*LOOK_COLUMNS, *COST_COLUMNS)
    calls = score_calls(where, calls_of(where, plan, end, columns), plan, end)
    calls = count_as_planned(with_costs(calls, releases, read_price_book(where.price_book)), plan.buckets)
    by_arm = {arm: calls.filter(pc.equal(calls["release_digest"], arm)) for arm in record.arms}
    sample = sampled(record, by_arm, plan.time, end, is_reached=watched.is_reached)
    limit_ms = releases[record.control].spec.monitors.latency_ms
    outcomes = [one for one in experiment_outcomes(limit_ms) if one.name in record.design.metrics]
    effects = report(record.experiment, by_arm, outcomes, alpha=record.design.alpha)
    labels = {arm: release.label for arm, release in releases.items()}
    for arm in record.treatments:
        record_verdict(where, arm_verdict(record, arm, effects, sample), labels[arm])
    decided = decide(record, effects, sample, labels)
    happened = Turn.KEEP if record.design.on_end is OnEnd.KEEP else Turn.DECIDE
    turned = Ledger(where.ledger).turn_experiment(lease, record, happened, decided.message, now(), decided=decided)
    if turned.stage is Stage.KEPT:
        publish_end(where, turned)  # people need not wait for the end of that
    return turned


class _Progress:
    """Shows people how much of the sample is there."""

    def __init__(self, record: ExperimentRecord) -> None:
        self._record = record
        key, words = f"experiment-{record.experiment_id[:12]}", f"users of {record.name}"
        self._artifact: Any = create_progress_artifact(progress=0.0, key=key, description=words)

    def tell(self, users: Mapping[str, int]) -> None:
        """Show the users of each arm."""
        wanted, words = self._record.users_per_arm, ", ".join(f"{arm[:12]} {count}" for arm, count in users.items())
        get_run_logger().info(f"users of {self._record.name}: {words}; wanted of each: {wanted}")
        share = min(100.0, 100 * min(users.values()) / wanted)
        with suppress(Exception):  # what people see is no reason to stop guarding
            update_progress_artifact(self._artifact, progress=share, description=f"users: {words} of {wanted}")


@task(cache_policy=NO_CACHE)
def conclude(where: Settings, lease: Lease, record: ExperimentRecord) -> Ending:
    """End the experiment as it stands: users go where it says, or back to the control."""
    if record.is_over:
        return publish_end(where, record)  # the run that ended it may have been killed before
    decided = record.decided if record.stage is Stage.ENDING else None
    winner = decided.winner if decided is not None else None
    release = Ledger(where.ledger).recall(record.application, winner or record.control)
    _give_to(where, lease, record, release)
    retire_arms(where, lease, record, keep=(record.control, *([winner] if winner else [])))
    # Last: once it is over, nobody takes it up again to do what is missing.
    if winner:
        deployment = release.spec.deployment_id(now())
        done = Ledger(where.ledger).crown(lease, record, deployment, f"won experiment {record.name}", now())
    else:
        done = turn(where, lease, record, Turn.DONE, record.reason)
    return publish_end(where, done)


def _give_to(where: Settings, lease: Lease, record: ExperimentRecord, release: Release) -> None:
    plan = Ledger(where.ledger).plan(record.application)
    if plan is not None and set(plan.counts()) != {release.digest}:
        driver(where).ensure(release)
        try:
            give_everything_to(where, lease, release.digest, f"experiment {record.name} is {record.stage}")
        except ServingError as error:
            # A control that answers badly has its users again all the same: else nothing could end the experiment, and
            # an experiment that has no end keeps its application from every release that would help.
            if release.digest != record.control or not _has_every_user(where, record):
                raise
            get_run_logger().error(f"the control has every user again and does not answer as it should: {error}")
    else:
        enforce(where, record.application)
    control = Ledger(where.ledger).recall(record.application, record.control)
    won = {"champion": release.registry_version, "previous": control.registry_version}
    aliases = (won if release.digest != record.control else {}) | {"challenger": None}
    project(where, lease, lambda registry: registry.set_aliases(record.application, aliases))


def _has_every_user(where: Settings, record: ExperimentRecord) -> bool:
    return set(driver(where).observe(record.application) or ()) == {record.control}


def retire_arms(where: Settings, lease: Lease, record: ExperimentRecord, keep: tuple[str, ...]) -> None:
    """Stop the arms that nobody is given to; what ran beside the experiment goes on running."""
    others = tuple(digest for digest in driver(where).running(record.application) if digest not in record.arms)
    acting.retire_idle(where, lease, keep=(*keep, *others))


@task(cache_policy=NO_CACHE)
def find_open(where: Settings, application: str) -> str | None:
    """Return the name of the experiment that is not over, None where there is none."""
    found = Ledger(where.ledger).open_experiment(application)
    return found.name if found else None


@task(cache_policy=NO_CACHE)
def stop(where: Settings, lease: Lease, who: str, reason: str) -> ExperimentRecord:
    """Put on record that a person ends the experiment; one that is being undone already stays as it is."""
    found = Ledger(where.ledger).experiments(lease.application)
    record = next((one for one in found if not one.is_over), found[0])
    if record.is_over or record.is_undoing:
        return record
    return turn(where, lease, record, Turn.STOP, f"stopped by {who}: {reason}")


def nothing_open(application: str) -> Ending:
    """End a stop that found no experiment."""
    message = f"no experiment of {application} is under way"
    return Ending(name="NothingToDo", message=message, is_failure=False, release_digest="")
