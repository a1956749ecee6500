"""The steps of a rollout: each takes the rollout as it is on record, and returns it as it is then."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.costs.prices import read_price_book
from tasks.errors import DeliveryError, LeaseError
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.acting import (
    change,
    driver,
    enforce,
    give_everything_to,
    log_verdict,
    now,
    project,
    retire_idle,
    run_smoke,
    write_plan,
)
from tasks.release.admission import (
    Request,
    find_freeze,
    find_missing_test,
    is_quarantine_set_aside,
    lift_quarantine,
    record_request,
)
from tasks.release.analysis.policy import Move
from tasks.release.lifecycle import Event, State
from tasks.release.model import Release, ReleaseSpec
from tasks.release.pages import (
    decision_links,
    follow_ramp,
    names_of,
    release_links,
    rollback_links,
    shares_picture,
)
from tasks.release.ramp import RampPolicy, RampStep
from tasks.release.report import approval_markdown, rollout_markdown
from tasks.release.rollout import Action, Ending, Lease, Rollout, words_since
from tasks.release.telling import as_state, publish, report_out, tell
from tasks.release.watching import Watch
from tasks.run_page import name_state, tag_run
from tasks.settings import Settings
from tasks.smoke.suite import SmokeSuite
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import BUCKETS

__all__ = [
    "as_state",
    "begin",
    "change",
    "conclude",
    "deploy",
    "ramp_steps",
    "register",
    "shift_traffic",
    "smoke_test",
    "tell",
    "watch",
]


@task(cache_policy=NO_CACHE, task_run_name="register {spec.model_id} {spec.version}")
def register(where: Settings, spec: ReleaseSpec) -> Release:
    """Store the release and its prompt in the registry."""
    release, new = Registry(where.mlflow_url).register(spec)
    tag_run(release.application, release.digest)
    get_run_logger().info(
        f"{'new' if new else 'known'} release {release.short} of {spec.application}: registry version "
        f"{release.registry_version}, prompt {release.prompt.name}@{release.prompt.version}"
    )
    return release


@task(cache_policy=NO_CACHE, task_run_name="begin {release.label}")
def begin(  # noqa: PLR0917 - what, and on whose word
    where: Settings, lease: Lease, release: Release, policy: RampPolicy, override_reason: str, who: str = ""
) -> Rollout:
    """Start the rollout on record, or take up the unfinished one of this release; then the plan is in effect."""
    request = Request(who=who, override_reason=override_reason, time=now(), flow_run_id=flow_run.get_id())
    set_aside = [find_freeze(release, policy, request)]
    ledger, plan = Ledger(where.ledger), enforce(where, release.application)
    ledger.remember(release)
    latest = next((r for r in ledger.rollouts(release.application) if r.release_digest == release.digest), None)
    if plan is not None and set(plan.counts()) == {release.digest} and latest and latest.state is State.PROMOTED:
        return latest  # it serves every user already
    set_free = is_quarantine_set_aside(ledger, release, latest, request)
    if plan is not None and not (latest and latest.is_undoing):
        set_aside.append(find_missing_test(ledger, release, request))
    record_request(ledger, release, latest, "; ".join(filter(None, set_aside)), request)
    begun = ledger.begin_rollout(lease, release.digest, release.spec.deployment_id(now()), now())
    if set_free:  # not before: what could not begin stays in quarantine
        lift_quarantine(ledger, lease, release, request)
    if begun.state is State.HELD:
        return ledger.advance(lease, begun.rollout_id, Event.DEPLOY, "taken up again", now())
    return begun


@task(cache_policy=NO_CACHE, task_run_name="deploy {release.label}")
def deploy(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> Rollout:
    """Have the release answer, without giving it users."""
    path, ledger = driver(where), Ledger(where.ledger)
    try:
        path.scale(release, release.spec.autoscaling)
        path.ensure(release)
    except LeaseError:
        raise
    except DeliveryError as error:
        # Not the release's fault for certain: a key that is not set, a server that is away. So no quarantine.
        return ledger.fail(lease, rollout.rollout_id, f"it cannot be deployed: {error}", now(), quarantined=False)
    return ledger.advance(lease, rollout.rollout_id, Event.DEPLOY, "it answers", now())


@task(cache_policy=NO_CACHE, task_run_name="smoke test {release.label}")
def smoke_test(where: Settings, lease: Lease, rollout: Rollout, release: Release, suite: SmokeSuite) -> Rollout:
    """Ask the release itself what the suite says and judge every answer."""
    book, ledger = read_price_book(where.price_book), Ledger(where.ledger)
    verdict = run_smoke(driver(where), release, suite, book=book)
    ledger.record_verdict(verdict, kind="smoke", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"smoke test of {release.label}")
    if verdict.outcome is Outcome.PASS:
        return ledger.advance(lease, rollout.rollout_id, Event.SMOKE_PASSED, "smoke test passed", now())
    reason = f"smoke test failed: {verdict.reason}"
    return ledger.fail(lease, rollout.rollout_id, reason, now(), quarantined=True)


@task(cache_policy=NO_CACHE, task_run_name="plan the ramp")
def ramp_steps(where: Settings, rollout: Rollout, policy: RampPolicy) -> tuple[RampStep, ...]:
    """Return the shares the release still has to go through."""
    plan = Ledger(where.ledger).plan(rollout.application)
    current = plan.counts().get(rollout.release_digest, 0) if plan else 0
    return policy.steps(current, alone=not rollout.stable_digest)


@task(cache_policy=NO_CACHE, task_run_name="shift {release.label} to {step.buckets} of 1000 buckets")
def shift_traffic(where: Settings, lease: Lease, rollout: Rollout, release: Release, step: RampStep) -> Rollout:
    """Give the release its share: on record first, then in effect, then readable in the registry."""
    ledger, percent = Ledger(where.ledger), step.buckets * 100 / BUCKETS
    shifted = ledger.advance(lease, rollout.rollout_id, Event.SHIFT, f"{percent:g} % of the users", now())
    rest = {rollout.stable_digest: BUCKETS - step.buckets} if step.buckets < BUCKETS else {}
    plan = write_plan(ledger, lease, {release.digest: step.buckets} | rest, f"ramp of {release.label} to {percent:g} %")
    driver(where).apply(plan)
    project(
        where,
        lease,
        lambda registry: registry.set_aliases(release.application, {"challenger": release.registry_version}),
    )
    return shifted


@task(cache_policy=NO_CACHE, task_run_name="watch {release.label} at {step.buckets} of 1000 buckets")
def watch(
    where: Settings, lease: Lease, rollout: Rollout, release: Release, *, step: RampStep, policy: RampPolicy
) -> Rollout:
    """Look at what users are answered until the step is over."""
    ledger = Ledger(where.ledger)
    watched = Watch(
        where=where,
        path=driver(where),
        lease=lease,
        rollout=rollout,
        release=release,
        step=step,
        policy=policy,
        clock=now,
        ask=lambda verdict, question: _ask(where, lease, rollout, release, verdict=verdict, question=question),
        show=follow_ramp(where, rollout, release, step, policy),
    )
    move, verdict = watched.run()
    name_state("Running")
    ledger.record_verdict(verdict, kind="ramp", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"{release.label} at {step.buckets * 100 / BUCKETS:g} %")
    if move is Move.ADVANCE:
        get_run_logger().info(watched.said or f"{release.label} may go on: {verdict.reason}")
        return rollout
    if move is Move.ROLL_BACK:
        reason = f"the ramp failed: {verdict.reason}"
        return ledger.fail(lease, rollout.rollout_id, reason, now(), quarantined=verdict.outcome is Outcome.FAIL)
    return ledger.advance(lease, rollout.rollout_id, Event.HOLD, watched.said or verdict.reason, now())


def _ask(where: Settings, lease: Lease, rollout: Rollout, release: Release, *, verdict: Verdict, question: str) -> None:
    """Put on record that a person is asked, and tell people where to answer."""
    Ledger(where.ledger).advance(lease, rollout.rollout_id, Event.ASK, question[:500], now())
    message = f"{release.label} waits for approval: delivery approve {release.application} ({question[:150]})"
    get_run_logger().warning(message)
    name_state("Waiting for approval", message)
    ending = Ending(name="Waiting", message=message, is_failure=False, release_digest=release.digest)
    publish(
        release.application,
        "approval",
        ending,
        approval_markdown(release, verdict, question, decision_links(release.application)),
    )


@task(cache_policy=NO_CACHE, task_run_name="conclude {release.label}")
def conclude(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> Ending:
    """End the rollout as it stands: promote it, leave it held, or undo it."""
    if rollout.state is State.PROMOTED:
        _settle(where, lease, rollout, release)  # the run that promoted it may have been killed before
        return _ending("Promoted", f"{release.label} serves every user already", release)
    if rollout.state is State.HELD:
        return _report(
            where,
            lease,
            rollout,
            release,
            "Held",
            message=f"{rollout.reason}; start it again, or: delivery abort {release.application}",
        )
    if rollout.is_undoing:
        return _undo(where, lease, rollout, release)
    return _promote(where, lease, rollout, release)


def _promote(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> Ending:
    ledger = Ledger(where.ledger)
    said = words_since(ledger.decisions(rollout.rollout_id), ledger.last_hold(rollout.rollout_id))
    words = [str(word) for word in said if word.action is Action.APPROVE]
    why = "; ".join(words) or "every step passed"
    done = ledger.advance(lease, rollout.rollout_id, Event.PROMOTE, why, now())
    _settle(where, lease, done, release)
    return _report(where, lease, done, release, "Promoted", message=f"{release.label} serves every user")


def _settle(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> None:
    """Bring aliases and servers up to a promotion; doing it again changes nothing."""
    stable = rollout.stable_digest
    before = Ledger(where.ledger).recall(release.application, stable) if stable else None
    previous = before.registry_version if before else None
    aliases = {"champion": release.registry_version, "previous": previous, "challenger": None}
    project(where, lease, lambda registry: registry.set_aliases(release.application, aliases))
    retire_idle(where, lease, keep=(stable,))


def _undo(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> Ending:
    """Take the users back, if there are any, and only then call it undone."""
    ledger, plan = Ledger(where.ledger), Ledger(where.ledger).plan(release.application)
    if plan is not None and release.digest in plan.counts():
        if not rollout.stable_digest:
            message = f"{rollout.reason}; nobody else can serve, {release.label} goes on"
            return _report(where, lease, rollout, release, "NoCandidate", message=message)
        why = f"{release.label} taken back: {rollout.reason}"
        give_everything_to(where, lease, rollout.stable_digest, why)
    project(where, lease, lambda registry: registry.set_aliases(release.application, {"challenger": None}))
    retire_idle(where, lease, keep=())
    if rollout.state is State.REVERTING:
        serving = ledger.recall(release.application, rollout.stable_digest).label
        report_out(where, release, "rollout", f"{release.label} is out, {serving} serves everybody: {rollout.reason}")
    # Last: once it is undone, nobody takes it up again to do what is missing.
    done = ledger.advance(lease, rollout.rollout_id, Event.UNDONE, rollout.reason, now())
    name = "Rejected" if done.state is State.REJECTED else "RolledBack"
    return _report(where, lease, done, release, name, message=rollout.reason)


def _report(where: Settings, lease: Lease, rollout: Rollout, release: Release, name: str, *, message: str) -> Ending:
    tags = {"state": rollout.state.value, "reason": message, "deployment_id": rollout.deployment_id}
    project(where, lease, lambda registry: registry.tag(release, tags))
    plan = Ledger(where.ledger).plan(release.application)
    names = names_of(Ledger(where.ledger), release.application, plan.counts() if plan else ())
    links = release_links(where, release) | rollback_links(release.application)
    picture = shares_picture(where, release, now())
    text = "\n".join([rollout_markdown(rollout, release, plan, message, names=names, links=links), *picture])
    return publish(release.application, "rollout", _ending(name, message, release), text)


def _ending(name: str, message: str, release: Release) -> Ending:
    failed = name not in ("Promoted", "Held")
    return Ending(name=name, message=message, is_failure=failed, release_digest=release.digest)
