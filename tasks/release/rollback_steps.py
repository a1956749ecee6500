"""The steps of a rollback."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.errors import ServingError
from tasks.monitors.verdict import Outcome
from tasks.release.acting import (
    PROBE_TIMEOUT_S,
    announce,
    as_state,
    change,
    driver,
    now,
    publish,
    run_smoke,
    write_plan,
)
from tasks.release.lifecycle import FINISHED, Event, State
from tasks.release.model import Release
from tasks.release.report import rollback_markdown
from tasks.release.restore import Restoration, decide_restoration
from tasks.release.rollout import Ending, Lease
from tasks.release.smoke import SmokeSuite
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import BUCKETS, Plan

__all__ = [
    "as_state",
    "change",
    "choose_target",
    "decide",
    "finish",
    "no_candidate",
    "nothing_to_do",
    "restore",
    "verify",
]

_QUESTIONS = 20
_OK = 200


@task(cache_policy=NO_CACHE)
def decide(where: Settings, application: str, bad: str | None) -> Restoration:
    """Read the ledger and decide what goes and what may come back."""
    ledger = Ledger(where.ledger)
    rollouts = ledger.rollouts(application)
    digests = {rollout.release_digest for rollout in rollouts}
    quarantined = {digest for digest in digests if ledger.quarantined(application, digest)}
    decision = decide_restoration(ledger.plan(application), rollouts, quarantined, bad)
    get_run_logger().info(f"{decision.explanation}; candidates: {[digest[:12] for digest in decision.candidates]}")
    return decision


@task(cache_policy=NO_CACHE)
def choose_target(where: Settings, application: str, decision: Restoration, suite: SmokeSuite) -> Release | None:
    """Return the first candidate that answers and passes its smoke test."""
    for digest in decision.candidates:
        release = Registry(where.mlflow_url).find(application, digest)
        problem = _problem(where, release, suite)
        if not problem:
            return release
        get_run_logger().warning(f"{release.label} cannot come back: {problem}")
    return None


def _problem(where: Settings, release: Release, suite: SmokeSuite) -> str:
    path = driver(where)
    try:
        path.ensure(release)
    except ServingError as error:
        return str(error)
    verdict = run_smoke(path, release, suite)
    return "" if verdict.outcome is Outcome.PASS else verdict.reason


@task(cache_policy=NO_CACHE, task_run_name="restore {target.label}")
def restore(where: Settings, lease: Lease, decision: Restoration, target: Release, reason: str) -> Plan:
    """Keep the bad release away for good, and give every user the target."""
    ledger = Ledger(where.ledger)
    ledger.put_in_quarantine(lease, decision.bad, reason, now())
    plan = write_plan(ledger, lease, {target.digest: BUCKETS}, f"rollback: {reason}")
    driver(where).apply(plan)
    return plan


@task(cache_policy=NO_CACHE, task_run_name="verify {target.label}")
def verify(where: Settings, target: Release) -> None:
    """Ask through the data path as users do: every answer must come from the target."""
    path = driver(where)
    units = [f"verify-{number}" for number in range(_QUESTIONS)]
    answers = [path.ask(target.application, unit, "Who answers?", PROBE_TIMEOUT_S) for unit in units]
    wrong = [answer for answer in answers if answer.release_digest != target.digest or answer.status != _OK]
    if wrong:
        raise ServingError(
            f"{len(wrong)} of {len(answers)} answers of the data path are not from {target.label}: status "
            f"{wrong[0].status}, release {wrong[0].release_digest[:12] or 'unknown'} {wrong[0].error}".rstrip()
        )
    get_run_logger().info(f"{len(answers)} of {len(answers)} answers of the data path are from {target.label}")


@task(cache_policy=NO_CACHE)
def finish(where: Settings, lease: Lease, decision: Restoration, target: Release, reason: str) -> Ending:
    """Put the end of the rollback on record: ledger, registry, artifact and event."""
    ledger, registry = Ledger(where.ledger), Registry(where.mlflow_url)
    bad = registry.find(target.application, decision.bad)
    registry.set_aliases(
        target.application, {"champion": target.registry_version, "previous": None, "challenger": None}
    )
    registry.tag(bad, {"state": State.ROLLED_BACK.value, "reason": reason})
    for rollout in ledger.rollouts(target.application):
        served = rollout.release_digest == decision.bad and rollout.state is State.PROMOTED
        if served or rollout.state not in FINISHED:
            ledger.advance(lease, rollout.rollout_id, Event.ROLL_BACK, reason, now())
    message = f"{bad.label} is out, {target.label} serves every user again: {reason}"
    ending = Ending(name="RolledBack", message=message, is_failure=False, release_digest=target.digest)
    markdown = rollback_markdown(bad, target, ledger.plan(target.application), reason)
    return publish(target.application, "rollback", ending, markdown)


def no_candidate(application: str, decision: Restoration, reason: str) -> Ending:
    """Say loudly that nothing can come back; what serves goes on serving."""
    message = f"no proven release of {application} can come back, {decision.bad[:12]} goes on serving: {reason}"
    ending = Ending(name="NoCandidate", message=message, is_failure=True, release_digest=decision.bad)
    announce(application, "delivery.rollback.nocandidate", ending)
    return ending


def nothing_to_do(decision: Restoration) -> Ending:
    """End a rollback that found nothing to roll back."""
    return Ending(name="NothingToDo", message=decision.explanation, is_failure=False, release_digest="")
