"""The steps of a rollback."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.costs.prices import read_price_book
from tasks.errors import DeliveryError
from tasks.experiments.life import Stage, Turn
from tasks.monitors.alerts import ROLLBACK, Signal
from tasks.monitors.verdict import Outcome, RecordedVerdict
from tasks.release.acting import change, driver, enforce, give_everything_to, now, project, retire_idle, run_smoke
from tasks.release.history import AUTOMATIC, Act, Deed
from tasks.release.lifecycle import FINISHED, Event, State
from tasks.release.model import Release
from tasks.release.pages import evidence_links, names_of, release_links, shares_picture
from tasks.release.report import RollbackFacts, rollback_markdown, stranded_markdown
from tasks.release.restore import Restoration, decide_restoration
from tasks.release.rollout import Ending, Lease
from tasks.release.telling import announce_alerts, as_state, publish, report_out, route_of, tell
from tasks.run_page import tag_run
from tasks.settings import Settings
from tasks.smoke.suite import SmokeSuite
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry

__all__ = [
    "NOBODY",
    "as_state",
    "change",
    "choose_target",
    "decide",
    "finish",
    "make_order",
    "no_candidate",
    "nothing_to_do",
    "restore",
    "tell",
]
ABORTED = "aborted by "
"""How the reason of a rollback begins that ends a rollout on a person's word."""
MAX_REASON = 2000
"""So many characters of a reason are kept: a release in which everything fails has many."""
JUDGES = frozenset({"smoke", "ramp", "evaluation"})
"""Kinds of verdicts that can be why a release is rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who asks for a rollback, and why.

    Attributes:
        who: A person, or ``automation`` or ``reconcile``; empty: nobody said.
        reason: For the record.
    """

    who: str
    reason: str

    @property
    def deed(self) -> Deed:
        """What it is called in the audit."""
        return Deed.ABORT if self.reason.startswith(ABORTED) else Deed.ROLLBACK

    @property
    def by(self) -> str:
        """Who asks, as part of a sentence; empty where that is not known."""
        return f" by {self.who}" if self.who else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who takes the users of the release that failed.

    Attributes:
        target: The release; None where nothing proven can, or nobody has to.
        problems: Why each candidate before it cannot come back.
    """

    target: Release | None
    problems: tuple[str, ...] = ()


NOBODY = Choice(target=None)


def make_order(who: str, reason: str) -> Order:
    """Return an order; a reason that is too long is cut, for the worst release must not be the one that stays."""
    return Order(who=who, reason=reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…")


@task(cache_policy=NO_CACHE, task_run_name="decide about {application}")
def decide(where: Settings, application: str, bad: str | None, order: Order) -> Restoration:
    """Read the ledger, with its plan in effect, and decide what goes and what may take its users."""
    ledger = Ledger(where.ledger)
    digest = ledger.resolve(application, bad) if bad else None
    rollouts = ledger.rollouts(application)
    digests = {rollout.release_digest for rollout in rollouts}
    experiment = ledger.open_experiment(application)
    digests |= set(experiment.arms) if experiment else set()
    quarantined = {known for known in digests if ledger.quarantined(application, known)}
    failed = _last_failure(ledger, application, digest) if digest and order.who in AUTOMATIC else None
    failed_at = failed.recorded if failed else None
    decision = decide_restoration(ledger.plan(application), rollouts, quarantined, digest, experiment, failed_at)
    candidates = ", ".join(known[:12] for known in decision.candidates) or "none"
    get_run_logger().info(f"{decision.explanation}; candidates: {candidates}")
    tag_run(application, decision.bad or "")
    return decision


@task(cache_policy=NO_CACHE, task_run_name="choose who takes over")
def choose_target(where: Settings, application: str, decision: Restoration, suite: SmokeSuite) -> Choice:
    """Return the first candidate that answers and passes its smoke test, and why those before it cannot come back.

    Each may try twice: one slow answer is no reason to give everybody an older release.

    Where a rollback was killed after it had given the users to its target, that one is returned: it passed then.
    """
    if not decision.serves:
        return Choice(target=_half_restored(where, application, decision.bad))
    problems: list[str] = []
    for digest in decision.candidates:
        problem, release = _try(where, application, digest, suite)
        if release is not None and problem:
            get_run_logger().warning(f"release {digest[:12]} is tried once more: {problem}")
            problem, release = _try(where, application, digest, suite)
        if release is not None and not problem:
            return Choice(target=release, problems=tuple(problems))
        problems.append(f"release {digest[:12]} cannot come back: {problem}")
        get_run_logger().warning(problems[-1])
    return Choice(target=None, problems=tuple(problems))


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
        Ledger(where.ledger).record_verdict(verdict, kind="smoke", flow_run_id=flow_run.get_id())
    except DeliveryError as error:
        return str(error), None
    return ("" if verdict.outcome is Outcome.PASS else verdict.reason), release


@task(cache_policy=NO_CACHE, task_run_name="restore and verify")
def restore(where: Settings, lease: Lease, decision: Restoration, choice: Choice, order: Order) -> None:
    """Put the failure on record, then give every user to the target and see that they have it."""
    ledger, reason = Ledger(where.ledger), order.reason
    if not _is_undoing(ledger, lease.application, decision.bad):
        _record_act(ledger, lease.application, decision.bad, order)
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
    if choice.target is not None:
        give_everything_to(where, lease, choice.target.digest, f"rollback{order.by}: {reason}")
    else:
        enforce(where, lease.application)


def _is_undoing(ledger: Ledger, application: str, bad: str) -> bool:
    mine = (rollout for rollout in ledger.rollouts(application) if rollout.release_digest == bad)
    experiment = ledger.open_experiment(application)
    return any(rollout.is_undoing for rollout in mine) or (experiment is not None and experiment.is_undoing)


def _record_act(ledger: Ledger, application: str, bad: str, order: Order) -> None:
    ledger.record_act(
        Act(
            deed=order.deed,
            application=application,
            release_digest=bad,
            who=order.who,
            reason=order.reason,
            time=now(),
            flow_run_id=flow_run.get_id(),
        )
    )


@task(cache_policy=NO_CACHE, task_run_name="record and report")
def finish(where: Settings, lease: Lease, decision: Restoration, choice: Choice, order: Order) -> Ending:
    """Put the end of the rollback on record: registry, alerts, ledger, artifact and event."""
    ledger, target = Ledger(where.ledger), choice.target
    bad = ledger.recall(lease.application, decision.bad)
    evidence = _last_failure(ledger, bad.application, bad.digest)
    project(where, lease, lambda registry: _write_registry(registry, bad, target, order, evidence))
    retire_idle(where, lease, keep=())
    serving = f"{target.label} serves every user again" if target else "no user had been given to it"
    message = f"{bad.label} is out, {serving}: {order.reason}"
    report_out(where, bad, order.who, message)
    # Last: once it is undone, a rollback that starts again finds nothing to do. Without a target only this release is
    # out: another one may still have its users.
    for rollout in ledger.rollouts(lease.application):
        if rollout.is_undoing and (target is not None or rollout.release_digest == bad.digest):
            ledger.advance(lease, rollout.rollout_id, Event.UNDONE, rollout.reason, now())
    experiment = ledger.open_experiment(lease.application)
    if experiment is not None and experiment.is_undoing:
        ledger.turn_experiment(lease, experiment, Turn.DONE, experiment.reason, now())
    digest = target.digest if target else bad.digest
    ending = Ending(name="RolledBack", message=message, is_failure=False, release_digest=digest)
    facts = RollbackFacts(who=order.who, reason=order.reason, evidence=evidence, problems=choice.problems)
    return publish(lease.application, "rollback", ending, _page(where, bad, target, facts))


def _page(where: Settings, bad: Release, target: Release | None, facts: RollbackFacts) -> str:
    ledger = Ledger(where.ledger)
    plan = ledger.plan(bad.application)
    names = names_of(ledger, bad.application, plan.counts() if plan else ())
    links = evidence_links(bad.application, facts.evidence.kind if facts.evidence else "") | release_links(where, bad)
    text = rollback_markdown(bad, target, plan, facts, names=names, links=links)
    return "\n".join([text, *shares_picture(where, bad, now())])


def _last_failure(ledger: Ledger, application: str, digest: str) -> RecordedVerdict | None:
    """Return the last verdict that a release failed, None where it failed none."""
    judged = (row for row in ledger.verdicts(application) if row.verdict.release_digest == digest)
    return next((row for row in judged if row.kind in JUDGES and row.verdict.outcome is Outcome.FAIL), None)


def _write_registry(
    registry: Registry, bad: Release, target: Release | None, order: Order, evidence: RecordedVerdict | None
) -> None:
    champion = {"champion": target.registry_version, "previous": None} if target else {}
    registry.set_aliases(bad.application, champion | {"challenger": None})
    tags = {"state": State.ROLLED_BACK.value, "reason": order.reason}
    if order.who:
        tags["rolled_back_by"] = order.who
    if evidence is not None:
        tags["evidence"] = f"{evidence.kind} verdict {evidence.verdict_id}: {evidence.verdict.reason}"
    registry.tag(bad, tags)


@task(cache_policy=NO_CACHE)
def no_candidate(where: Settings, application: str, decision: Restoration, choice: Choice, order: Order) -> Ending:
    """Say loudly that nothing can come back, in the run, by an alert and by an event; what serves goes on serving."""
    why = "; ".join(choice.problems) or "no other release was ever promoted, or all are in quarantine"
    message = (
        f"no proven release of {application} can come back, {decision.bad[:12]} goes on serving: {order.reason} ({why})"
    )
    ledger = Ledger(where.ledger)
    signal = Signal(
        application=application,
        release_digest=decision.bad,
        monitor=ROLLBACK,
        outcome=Outcome.FAIL,
        reason=message,
        window_end=now(),
    )
    told = ledger.signal_alerts([signal], route_of(where), now())
    announce_alerts(told)
    if told or order.who not in AUTOMATIC:  # a reconciliation tries it again and again
        _record_act(ledger, application, decision.bad, order)
    ending = Ending(name="NoCandidate", message=message, is_failure=True, release_digest=decision.bad)
    markdown = stranded_markdown(ledger.recall(application, decision.bad), ledger.plan(application), message)
    return publish(application, "rollback", ending, markdown)


@task(cache_policy=NO_CACHE)
def nothing_to_do(where: Settings, application: str, decision: Restoration) -> Ending:
    """End a rollback that found nothing to roll back, once the plan on record is in effect."""
    enforce(where, application)
    return Ending(name="NothingToDo", message=decision.explanation, is_failure=False, release_digest="")
