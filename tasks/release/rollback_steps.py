"""The steps of a rollback."""

from __future__ import annotations

from typing import Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.costs.prices import read_price_book
from tasks.errors import DeliveryError, NotFoundError
from tasks.experiments.life import Stage, Turn
from tasks.monitors.verdict import Outcome
from tasks.release.acting import (
    announce,
    as_state,
    change,
    driver,
    ending_of,
    enforce,
    give_everything_to,
    now,
    project,
    publish,
    retire_idle,
    run_smoke,
)
from tasks.release.lifecycle import FINISHED, Event, State
from tasks.release.model import Release
from tasks.release.report import rollback_markdown
from tasks.release.restore import Restoration, decide_restoration
from tasks.release.rollout import Action, Decision, Ending, Lease
from tasks.settings import Settings
from tasks.smoke.suite import SmokeSuite
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry

__all__ = [
    "as_state",
    "change",
    "choose_target",
    "decide",
    "ending_of",
    "find_open",
    "finish",
    "no_candidate",
    "nothing_open",
    "nothing_to_do",
    "restore",
    "say",
]
ENDINGS = {Action.APPROVE: "Approved", Action.HOLD: "HoldAsked"}


@task(cache_policy=NO_CACHE)
def decide(where: Settings, application: str, bad: str | None) -> Restoration:
    """Read the ledger, with its plan in effect, and decide what goes and what may take its users."""
    ledger = Ledger(where.ledger)
    digest = ledger.resolve(application, bad) if bad else None
    rollouts = ledger.rollouts(application)
    digests = {rollout.release_digest for rollout in rollouts}
    experiment = ledger.open_experiment(application)
    digests |= set(experiment.arms) if experiment else set()
    quarantined = {known for known in digests if ledger.quarantined(application, known)}
    decision = decide_restoration(ledger.plan(application), rollouts, quarantined, digest, experiment)
    get_run_logger().info(f"{decision.explanation}; candidates: {[known[:12] for known in decision.candidates]}")
    return decision


@task(cache_policy=NO_CACHE)
def choose_target(where: Settings, application: str, decision: Restoration, suite: SmokeSuite) -> Release | None:
    """Return the first candidate that answers and passes its smoke test.

    Where a rollback was killed after it had given the users to its target, that one is returned: it passed then.
    """
    if not decision.serves:
        return _half_restored(where, application, decision.bad)
    for digest in decision.candidates:
        problem, release = _try(where, application, digest, suite)
        if release is not None and not problem:
            return release
        get_run_logger().warning(f"release {digest[:12]} cannot come back: {problem}")
    return None


def _half_restored(where: Settings, application: str, bad: str) -> Release | None:
    ledger = Ledger(where.ledger)
    plan, rollouts = ledger.plan(application), ledger.rollouts(application)
    experiment = ledger.open_experiment(application)
    had_users = any(r.release_digest == bad and r.state is State.REVERTING for r in rollouts)
    had_users |= experiment is not None and bad in experiment.arms and experiment.stage is Stage.REVERTING
    if plan is None or not had_users or len(plan.counts()) > 1:
        return None
    return ledger.recall(application, plan.buckets[0])


def _try(where: Settings, application: str, digest: str, suite: SmokeSuite) -> tuple[str, Release | None]:
    path = driver(where)
    try:
        release = Ledger(where.ledger).recall(application, digest)
        path.ensure(release)
        verdict = run_smoke(path, release, suite, book=read_price_book(where.price_book))
    except DeliveryError as error:
        return str(error), None
    return ("" if verdict.outcome is Outcome.PASS else verdict.reason), release


@task(cache_policy=NO_CACHE)
def restore(where: Settings, lease: Lease, decision: Restoration, target: Release | None, reason: str) -> None:
    """Put the failure on record, then give every user to the target and see that they have it."""
    ledger = Ledger(where.ledger)
    for rollout in ledger.rollouts(lease.application):
        is_bad = rollout.release_digest == decision.bad
        if is_bad and rollout.state is State.PROMOTED:
            ledger.fail(lease, rollout.rollout_id, reason, now(), quarantined=True)
            break
        if rollout.state not in FINISHED:
            why = reason if is_bad else f"release {decision.bad[:12]} was rolled back: {reason}"
            ledger.fail(lease, rollout.rollout_id, why, now(), quarantined=is_bad and decision.serves)
    if (experiment := ledger.open_experiment(lease.application)) is not None:
        blamed = decision.bad if decision.serves else None
        ledger.turn_experiment(lease, experiment, Turn.FAIL, reason, now(), blamed=blamed)
    if target is not None:
        give_everything_to(where, lease, target.digest, f"rollback: {reason}")
    else:
        enforce(where, lease.application)


@task(cache_policy=NO_CACHE)
def finish(where: Settings, lease: Lease, decision: Restoration, target: Release | None, reason: str) -> Ending:
    """Put the end of the rollback on record: ledger, registry, artifact and event."""
    ledger = Ledger(where.ledger)
    bad = ledger.recall(lease.application, decision.bad)
    project(where, lease, lambda registry: _write_registry(registry, bad, target, reason))
    retire_idle(where, lease, keep=())
    # Last: once it is undone, a rollback that starts again finds nothing to do.
    for rollout in ledger.rollouts(lease.application):
        if rollout.is_undoing:
            ledger.advance(lease, rollout.rollout_id, Event.UNDONE, rollout.reason, now())
    experiment = ledger.open_experiment(lease.application)
    if experiment is not None and experiment.is_undoing:
        ledger.turn_experiment(lease, experiment, Turn.DONE, experiment.reason, now())
    serving = f"{target.label} serves every user again" if target else "no user had been given to it"
    message = f"{bad.label} is out, {serving}: {reason}"
    digest = target.digest if target else bad.digest
    ending = Ending(name="RolledBack", message=message, is_failure=False, release_digest=digest)
    markdown = rollback_markdown(bad, target, ledger.plan(lease.application), reason)
    return publish(lease.application, "rollback", ending, markdown)


def _write_registry(registry: Registry, bad: Release, target: Release | None, reason: str) -> None:
    champion = {"champion": target.registry_version, "previous": None} if target else {}
    registry.set_aliases(bad.application, champion | {"challenger": None})
    registry.tag(bad, {"state": State.ROLLED_BACK.value, "reason": reason})


def no_candidate(application: str, decision: Restoration, reason: str) -> Ending:
    """Say loudly that nothing can come back; what serves goes on serving."""
    message = f"no proven release of {application} can come back, {decision.bad[:12]} goes on serving: {reason}"
    ending = Ending(name="NoCandidate", message=message, is_failure=True, release_digest=decision.bad)
    announce(application, "delivery.rollback.nocandidate", ending)
    return ending


@task(cache_policy=NO_CACHE)
def nothing_to_do(where: Settings, application: str, decision: Restoration) -> Ending:
    """End a rollback that found nothing to roll back, once the plan on record is in effect."""
    enforce(where, application)
    return Ending(name="NothingToDo", message=decision.explanation, is_failure=False, release_digest="")


@task(cache_policy=NO_CACHE)
def find_open(where: Settings, application: str) -> str | None:
    """Return the digest of the release whose rollout is unfinished, None where there is none."""
    found = (rollout for rollout in Ledger(where.ledger).rollouts(application) if not rollout.is_finished)
    return next((rollout.release_digest for rollout in found), None)


@task(cache_policy=NO_CACHE)
def say(where: Settings, application: str, action: Literal["approve", "hold"], who: str, reason: str) -> Ending:
    """Put a person's word on record; the rollout sees it at its next look.

    An approval answers the question that is asked. Given before any is, it lets the last step go on.

    Raises:
        NotFoundError: No rollout of the application waits or is under way.
    """
    ledger = Ledger(where.ledger)
    rollout = next((found for found in ledger.rollouts(application) if not found.is_finished), None)
    if rollout is None or rollout.is_undoing:
        raise NotFoundError(f"no rollout of {application} is under way, so there is nothing to {action}")
    plan = ledger.plan(application) if rollout.state is State.WAITING else None
    share = plan.counts().get(rollout.release_digest, 0) if plan else 0
    decision = Decision(Action(action), share, who, reason, now())
    ledger.record_decision(rollout.rollout_id, decision)
    name, message = ENDINGS[decision.action], f"release {rollout.release_digest[:12]} of {application} is {decision}"
    ending = Ending(name=name, message=message, is_failure=False, release_digest=rollout.release_digest)
    announce(application, f"delivery.rollout.{name.lower()}", ending)
    return ending


def nothing_open(application: str) -> Ending:
    """End an abort that found no rollout to abort."""
    message = (
        f"no rollout of {application} is under way; to replace what serves, roll it back; "
        f"to end an experiment: delivery experiment stop {application}"
    )
    return Ending(name="NothingToDo", message=message, is_failure=False, release_digest="")
