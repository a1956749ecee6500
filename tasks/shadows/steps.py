"""The steps of a shadow: logged inputs to a candidate that no user meets, judged beside what was answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.costs.prices import read_price_book
from tasks.costs.rollup import format_usd
from tasks.errors import DeliveryError, InputError, LeaseError, NotFoundError
from tasks.experiments.watching import take_in
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.acting import driver, log_verdict, now, run_smoke
from tasks.release.lease import holding
from tasks.release.model import Release, ReleaseSpec
from tasks.release.report import cell
from tasks.release.rollout import Ending
from tasks.release.telling import as_state, publish
from tasks.settings import Settings
from tasks.shadows.replay import Inputs, Sent, compare_answers, find_inputs, send
from tasks.shadows.report import ENDINGS, Replayed, effect_rows, shadow_markdown, shadow_verdict
from tasks.shadows.shadow import ShadowPolicy
from tasks.smoke.suite import SmokeSuite
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry

__all__ = [
    "as_state",
    "conclude",
    "deployed",
    "find_candidate",
    "judge",
    "passes",
    "reject",
    "replay",
    "smoke_test",
    "take_inputs",
]

_DAY = timedelta(days=1)


def run_name() -> str:
    """Name a run after what it tries."""
    asked = flow_run.parameters
    spec, known = asked.get("release"), asked.get("known")
    if spec is not None:
        spec = ReleaseSpec.model_validate(spec)
        return f"{spec.application}-{spec.model_id}-{spec.version}"
    return f"{asked.get('application')}-{known}"


@task(cache_policy=NO_CACHE)
def find_candidate(where: Settings, spec: ReleaseSpec | None, application: str | None, known: str | None) -> Release:
    """Return the candidate: a release file is registered as in a rollout, a known release is looked up."""
    ledger = Ledger(where.ledger)
    if spec is not None:
        release, new = Registry(where.mlflow_url).register(spec)
        get_run_logger().info(f"{'new' if new else 'known'} release {release.short} of {spec.application}")
        ledger.remember(release)
        return release
    if application is None or known is None:
        raise InputError.of("release", None, "a release, or the application and the name of a known one")
    return ledger.recall(application, ledger.resolve(application, known))


@task(cache_policy=NO_CACHE)
def take_inputs(
    where: Settings, candidate: Release, since: datetime | None, until: datetime | None, policy: ShadowPolicy
) -> Inputs:
    """Draw the inputs from what the release that serves most users was asked."""
    ledger, application = Ledger(where.ledger), candidate.application
    plan, end = ledger.plan(application), until or now()
    if plan is None:
        raise NotFoundError(f"{application} serves nobody yet, so nothing was asked that could be replayed")
    if candidate.digest in plan.counts():
        raise InputError.of("release", candidate.short, "one without users: these would feel the load of a replay")
    take_in(where, application, now())
    champion = ledger.recall(application, next(iter(plan.counts())))
    book, start = read_price_book(where.price_book), since or end - _DAY
    return find_inputs(Lake(where.lake_dir), candidate, champion, start=start, end=end, policy=policy, book=book)


@contextmanager
def deployed(where: Settings, candidate: Release) -> Iterator[None]:
    """Have the candidate answer while the block runs, without giving it users; one that ran before runs on.

    Raises:
        ServingError: It does not come up.
    """
    path = driver(where)
    was_running = candidate.digest in path.running(candidate.application)
    try:
        path.scale(candidate, candidate.spec.autoscaling)
        path.ensure(candidate)
        yield
    finally:
        if not was_running:
            _retire(where, candidate)


def _retire(where: Settings, candidate: Release) -> None:
    """Stop the candidate unless somebody has begun to deploy it meanwhile."""
    ledger, application = Ledger(where.ledger), candidate.application
    try:
        with holding(ledger, application, f"shadow of {candidate.label} ({flow_run.get_id() or 'by hand'})"):
            _retire_unused(where, candidate)
    except LeaseError:
        # Somebody changes the application, perhaps for weeks; what they deploy is on record by now.
        _retire_unused(where, candidate)
    except DeliveryError as error:
        get_run_logger().warning(f"{candidate.label} is not retired: {error}")


def _retire_unused(where: Settings, candidate: Release) -> None:
    ledger, application = Ledger(where.ledger), candidate.application
    plan, experiment = ledger.plan(application), ledger.open_experiment(application)
    wanted = {rollout.release_digest for rollout in ledger.rollouts(application) if not rollout.is_finished}
    wanted |= set(plan.counts() if plan else ()) | set(experiment.arms if experiment else ())
    if candidate.digest not in wanted:
        driver(where).retire(application, candidate.digest)


@task(cache_policy=NO_CACHE, task_run_name="smoke test {candidate.label}")
def smoke_test(where: Settings, candidate: Release, suite: SmokeSuite) -> Verdict:
    """Ask the candidate what the suite says, so that no replay is wasted on one that does not work."""
    verdict = run_smoke(driver(where), candidate, suite, book=read_price_book(where.price_book))
    Ledger(where.ledger).record_verdict(verdict, kind="smoke", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"smoke test of {candidate.label}")
    return verdict


def passes(verdict: Verdict) -> bool:
    """Return whether a verdict lets the next step begin."""
    return verdict.outcome is Outcome.PASS


@task(cache_policy=NO_CACHE, task_run_name="replay to {candidate.label}")
def replay(where: Settings, candidate: Release, inputs: Inputs, policy: ShadowPolicy) -> Sent:
    """Send the inputs to the candidate, as nobody's requests, within the rate and the budget."""
    sent = send(driver(where), candidate, inputs, policy)
    if candidate.digest not in driver(where).running(candidate.application):
        raise DeliveryError(f"{candidate.label} was retired by somebody else during the replay; run the shadow again")
    get_run_logger().info(f"{len(sent.answers)} of {inputs.calls.num_rows} inputs were sent {sent.stopped}".rstrip())
    return sent


@task(cache_policy=NO_CACHE, task_run_name="judge {inputs.candidate.label}")
def judge(inputs: Inputs, sent: Sent, policy: ShadowPolicy) -> Replayed:
    """Score both answers with the same judge and compare them pair by pair."""
    compared = compare_answers(inputs, sent, policy)
    return Replayed(
        candidate=inputs.candidate,
        champion=inputs.champion,
        start=inputs.start,
        end=inputs.end,
        drawn=inputs.drawn,
        answered=len(sent.answers),
        without_input=inputs.without_input,
        cost_usd=format_usd(sent.cost_pusd) if sent.cost_pusd is not None else None,
        stopped=sent.stopped,
        latency_ms=compared.latency_ms,
        effects=compared.effects,
        own_passages=compared.own_passages,
        lost=compared.lost,
    )


@task(cache_policy=NO_CACHE)
def conclude(where: Settings, replayed: Replayed) -> Ending:
    """Put the verdict on record, and show what it rests on."""
    candidate, verdict = replayed.candidate, shadow_verdict(replayed)
    Ledger(where.ledger).record_verdict(verdict, kind="shadow", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"shadow of {candidate.label}")
    create_table_artifact(key=f"shadow-effects-{candidate.short}", table=effect_rows(replayed.effects))
    name = ENDINGS.get(verdict.outcome, "Inconclusive")
    message = f"{candidate.label}: {verdict.reason}"
    failed = verdict.outcome is Outcome.FAIL
    ending = Ending(name=name, message=message, is_failure=failed, release_digest=candidate.digest)
    return publish(candidate.application, "shadow", ending, shadow_markdown(replayed, verdict))


@task(cache_policy=NO_CACHE)
def reject(candidate: Release, verdict: Verdict) -> Ending:
    """End a shadow whose candidate failed its smoke test."""
    message = f"{candidate.label}: smoke test failed: {verdict.reason}"
    ending = Ending(name="Rejected", message=message, is_failure=True, release_digest=candidate.digest)
    text = f"# Shadow of {cell(candidate.label)}: Rejected\n\n{cell(message)}"
    return publish(candidate.application, "shadow", ending, text)
