"""What the steps of a rollout and of a rollback share: write a plan, put it into effect, smoke-test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.runtime import flow_run

from tasks.costs.prices import PriceBook
from tasks.errors import DeliveryError, LeaseError, ServingError, UnsupportedError
from tasks.monitors.verdict import Verdict
from tasks.release.lease import holding
from tasks.release.lifecycle import Event, State
from tasks.release.model import Release
from tasks.release.rollout import Ending, Lease
from tasks.release.telling import announce
from tasks.run_page import tag_run
from tasks.settings import Settings
from tasks.smoke.judge import judge_smoke
from tasks.smoke.suite import SmokeCase, SmokeSuite
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.choose import choose_driver
from tasks.traffic.driver import Answer, Driver
from tasks.traffic.nodes.driver import ask_every
from tasks.traffic.plan import BUCKETS, Plan, reassign

PROBE_TIMEOUT_S = 30.0
_NO_PRICES = PriceBook()
_QUESTIONS = 20
_OK = 200
_SALT_LENGTH = 50  # of 64 that the ledger keeps
_NAME_LENGTH = 189  # of 200 that the ledger keeps of a holder and an author; the rest is the run's id


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


def driver(where: Settings) -> Driver:
    """Return the data path; which of its nodes is behind stands in the log of the run."""
    return choose_driver(where, lambda line: get_run_logger().warning(line))


@contextmanager
def change(where: Settings, application: str, *, seize: bool = False) -> Iterator[Lease]:
    """Hold an application while a flow changes it; a rollback seizes it from a rollout.

    A ramp whose flow fails for another reason than a lost lease is put on record as held: nobody watches it any more.

    Raises:
        LeaseError: Somebody else changes it.
    """
    # The id tells two runs of the same release apart; they would take each other for themselves.
    name = f"{flow_run.get_flow_name()} {flow_run.get_name()}"[:_NAME_LENGTH]
    holder = f"{name} ({(flow_run.get_id() or 'by hand')[:8]})"
    tag_run(application)
    with holding(Ledger(where.ledger), application, holder, seize=seize) as lease:
        try:
            yield lease
        except LeaseError:
            raise
        except Exception as error:
            # Only the texts of our own errors: those of others may hold what a user or a prompt says.
            text = f": {error}" if isinstance(error, DeliveryError) else ""
            _put_on_hold(where, lease, f"nobody watches the ramp: {type(error).__name__}{text}"[:500])
            raise


def _put_on_hold(where: Settings, lease: Lease, reason: str) -> None:
    ledger = Ledger(where.ledger)
    for rollout in ledger.rollouts(lease.application):
        if rollout.state in (State.RAMPING, State.WAITING):
            ledger.advance(lease, rollout.rollout_id, Event.HOLD, reason, now())
            ending = Ending(name="Held", message=reason, is_failure=True, release_digest=rollout.release_digest)
            announce(lease.application, "delivery.rollout.interrupted", ending)


def enforce(where: Settings, application: str) -> Plan | None:
    """Have the plan on record in effect: a run that was killed may have left it written and not applied.

    Returns:
        The plan, None where the application has none.
    """
    plan, path = Ledger(where.ledger).plan(application), driver(where)
    if plan is not None and path.observe(application) != plan.buckets:
        get_run_logger().warning(f"revision {plan.revision} of {application} is on record and not in effect: applied")
        path.apply(plan)
    stand_by(where, application)
    return plan


def stand_by(where: Settings, application: str) -> tuple[str, ...]:
    """Have the data path answer by a proven release where the own servers of another one are all gone.

    What it cannot do stops nothing: without a standby the users of such a release are refused, as they were before.

    Returns:
        The digests of the proven releases, the best first.
    """
    proven = Ledger(where.ledger).proven(application)
    try:
        driver(where).stand_by(application, proven)
    except UnsupportedError as error:
        get_run_logger().debug(str(error))
    except DeliveryError as error:
        get_run_logger().warning(f"who stands by for whom in {application} is as it was: {error}")
    return proven


def write_plan(ledger: Ledger, lease: Lease, wanted: Mapping[str, int], reason: str) -> Plan:
    """Write the next plan by compare-and-swap; one that would change nothing is not written.

    Returns:
        The plan in force.
    """
    old = ledger.plan(lease.application)
    # Another order of the buckets each time users begin to be shared out; as long as they are, nobody is taken back.
    is_shared = old is not None and len(old.counts()) > 1
    salt = old.salt if old and is_shared else f"{lease.application[:_SALT_LENGTH]}:{old.revision if old else 0}"
    buckets = reassign(old.buckets if old else (), wanted, salt)
    if old is not None and old.buckets == buckets:
        return old
    plan = Plan(
        application=lease.application,
        revision=old.revision + 1 if old else 1,
        salt=salt,
        buckets=buckets,
        author=lease.holder,
        flow_run_id=flow_run.get_id(),
        reason=reason,
        time=now(),
    )
    ledger.write_plan(plan, lease)
    return plan


def give_everything_to(where: Settings, lease: Lease, digest: str, reason: str) -> Plan:
    """Give every user to one release, and see from the answers that they have it.

    Raises:
        ServingError: An answer comes from somebody else.
    """
    plan = write_plan(Ledger(where.ledger), lease, {digest: BUCKETS}, reason)
    path = driver(where)
    path.apply(plan)
    stand_by(where, lease.application)  # at once: who is in quarantine now stands by for nobody
    verify_answers(path, lease.application, digest)
    return plan


def verify_answers(path: Driver, application: str, digest: str) -> None:
    """Ask through the data path as users do, on every node it has: every answer must come from one release.

    Raises:
        ServingError: One does not.
    """
    units = [f"verify-{number}" for number in range(_QUESTIONS)]
    for place, answers in ask_every(path, application, units, "Who answers?", PROBE_TIMEOUT_S).items():
        wrong = [answer for answer in answers if answer.release_digest != digest or answer.status != _OK]
        if wrong:
            raise ServingError(
                f"{len(wrong)} of {len(answers)} answers of {place} are not from release {digest[:12]}: status "
                f"{wrong[0].status}, release {wrong[0].release_digest[:12] or 'unknown'} {wrong[0].error}".rstrip()
            )
        get_run_logger().info(f"{len(answers)} of {len(answers)} answers of {place} are from release {digest[:12]}")


def run_smoke(path: Driver, release: Release, suite: SmokeSuite, book: PriceBook = _NO_PRICES) -> Verdict:
    """Ask the questions of a suite side by side and judge the answers; what gets none at all is asked again."""
    started, cases = now(), suite.filled()
    with ThreadPoolExecutor(max_workers=suite.concurrency) as pool:
        answers = list(pool.map(lambda case: _probe(path, release, case, suite.retries), cases))
    return judge_smoke(release, list(zip(cases, answers, strict=True)), started, now(), book)


def _probe(path: Driver, release: Release, case: SmokeCase, retries: int) -> Answer:
    tries, answer = 1, path.probe(release, case.asked, PROBE_TIMEOUT_S)
    while answer.status == 0 and tries <= retries:
        tries, answer = tries + 1, path.probe(release, case.asked, PROBE_TIMEOUT_S)
    return replace(answer, tries=tries)


def retire_idle(where: Settings, lease: Lease, keep: tuple[str, ...]) -> None:
    """Stop the servers of releases that nobody is given to and nobody may soon be given back to.

    The best proven one that runs beside the plan's is kept: it answers where all servers of one of these are gone.

    Args:
        where: The settings.
        lease: Of the application whose servers they are.
        keep: Digests to keep besides those of the plan.

    Raises:
        LeaseError: It was lost: what is idle is for its new holder to say.
    """
    path, application = driver(where), lease.application
    proven = stand_by(where, application)
    Ledger(where.ledger).renew(lease, now())
    plan = Ledger(where.ledger).plan(application)
    serving, running = plan.counts() if plan else {}, path.running(application)
    warm = next((digest for digest in proven if digest in running and digest not in serving), "")
    for digest in running:
        if digest not in serving and digest not in (*keep, warm):
            path.retire(application, digest)


def project(where: Settings, lease: Lease, what: Callable[[Registry], None]) -> None:
    """Bring the registry up to what happened; where it is away, that is logged and stops nothing.

    Raises:
        LeaseError: The lease was lost: its new holder has written, or will write, what is true now.
    """
    Ledger(where.ledger).renew(lease, now())
    try:
        what(Registry(where.mlflow_url))
    except DeliveryError as error:
        get_run_logger().warning(f"the registry is behind: {error}")


def log_verdict(verdict: Verdict, what: str) -> None:
    """Write the inequality of every check into the log of the run."""
    for check in verdict.checks:
        get_run_logger().info("%s: %s (%s)", what, check.statement, check.outcome.value)
