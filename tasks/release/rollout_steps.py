"""The steps of a rollout."""

from __future__ import annotations

import time

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.errors import QuarantineError
from tasks.interactions.ingest import ingest_folder
from tasks.monitors.verdict import Verdict
from tasks.release.acting import (
    as_state,
    change,
    driver,
    log_verdict,
    now,
    publish,
    run_smoke,
    stable_beside,
    take_users_back,
    write_plan,
)
from tasks.release.lifecycle import Event
from tasks.release.model import Release, ReleaseSpec
from tasks.release.ramp import RAMP_COLUMNS, RampPolicy, RampStep, is_settled, judge_step
from tasks.release.report import rollout_markdown
from tasks.release.rollout import Ending, Lease, Rollout
from tasks.release.smoke import SmokeSuite
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import BUCKETS, Plan

__all__ = [
    "as_state",
    "begin",
    "change",
    "deploy",
    "hold",
    "pass_smoke",
    "promote",
    "ramp_steps",
    "register",
    "reject",
    "shift_traffic",
    "smoke_test",
    "take_back",
    "watch",
]


@task(cache_policy=NO_CACHE, task_run_name="register {spec.model_id} {spec.version}")
def register(where: Settings, spec: ReleaseSpec) -> Release:
    """Store the release and its prompt in the registry."""
    release, new = Registry(where.mlflow_url).register(spec)
    get_run_logger().info(
        f"{'new' if new else 'known'} release {release.short} of {spec.application}: registry version "
        f"{release.registry_version}, prompt {release.prompt.name}@{release.prompt.version}"
    )
    return release


@task(cache_policy=NO_CACHE)
def begin(where: Settings, lease: Lease, release: Release, override_reason: str) -> Rollout:
    """Start the rollout on record, or take up the unfinished one of this release."""
    ledger = Ledger(where.ledger)
    kept = ledger.quarantined(release.application, release.digest)
    if kept is not None and not override_reason.strip():
        raise QuarantineError(
            f"{release.label} is in quarantine since {kept.time:%Y-%m-%d %H:%M} UTC: {kept.reason}; "
            f"roll it out again only with an override reason"
        )
    if kept is not None:
        ledger.lift_quarantine(lease, release.digest, lease.holder, override_reason, now())
    return ledger.begin_rollout(lease, release.digest, release.spec.deployment_id(now()), now())


@task(cache_policy=NO_CACHE, task_run_name="deploy {release.label}")
def deploy(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> Rollout:
    """Have the release answer, without giving it users."""
    path = driver(where)
    path.scale(release, release.spec.autoscaling)
    path.ensure(release)
    return Ledger(where.ledger).advance(lease, rollout.rollout_id, Event.DEPLOY, "it answers", now())


@task(cache_policy=NO_CACHE, task_run_name="smoke test {release.label}")
def smoke_test(where: Settings, release: Release, suite: SmokeSuite) -> Verdict:
    """Ask the release itself what the suite says and judge every answer."""
    verdict = run_smoke(driver(where), release, suite)
    Ledger(where.ledger).record_verdict(verdict, kind="smoke", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"smoke test of {release.label}")
    return verdict


@task(cache_policy=NO_CACHE)
def pass_smoke(where: Settings, lease: Lease, rollout: Rollout) -> Rollout:
    """Put the passed smoke test on record."""
    return Ledger(where.ledger).advance(lease, rollout.rollout_id, Event.SMOKE_PASSED, "smoke test passed", now())


@task(cache_policy=NO_CACHE)
def ramp_steps(where: Settings, release: Release, policy: RampPolicy) -> tuple[RampStep, ...]:
    """Return the shares the release still has to go through."""
    plan = Ledger(where.ledger).plan(release.application)
    alone = plan is None or set(plan.counts()) == {release.digest}
    return policy.steps(plan.counts().get(release.digest, 0) if plan else 0, alone=alone)


@task(cache_policy=NO_CACHE, task_run_name="shift {release.label} to {buckets} of 1000 buckets")
def shift_traffic(where: Settings, lease: Lease, rollout: Rollout, release: Release, buckets: int) -> Plan:
    """Give the release its share: on record first, then in effect, then readable in the registry."""
    ledger, stable = Ledger(where.ledger), stable_beside(Ledger(where.ledger), release)
    ledger.advance(lease, rollout.rollout_id, Event.SHIFT, f"{buckets} of {BUCKETS} buckets", now())
    wanted = {release.digest: buckets} | ({stable: BUCKETS - buckets} if stable else {})
    plan = write_plan(ledger, lease, wanted, f"ramp of {release.label} to {buckets * 100 / BUCKETS:g} %")
    driver(where).apply(plan)
    Registry(where.mlflow_url).set_aliases(release.application, {"challenger": release.registry_version})
    return plan


@task(cache_policy=NO_CACHE, task_run_name="watch {release.label}, plan {plan.revision}")
def watch(where: Settings, release: Release, plan: Plan, policy: RampPolicy) -> Verdict:
    """Look at what users were answered until the step is over."""
    while True:
        verdict = _look(where, release, plan, policy)
        if is_settled(verdict, (verdict.window_end - plan.time).total_seconds(), policy):
            break
        time.sleep(policy.look_s)
    Ledger(where.ledger).record_verdict(verdict, kind="ramp", flow_run_id=flow_run.get_id())
    log_verdict(verdict, f"{release.label} at {plan.shares()[release.digest]:.1%}")
    return verdict


def _look(where: Settings, release: Release, plan: Plan, policy: RampPolicy) -> Verdict:
    lake, moment = Lake(where.lake_dir), now()
    ingest_folder(lake, where.log_dir / release.application, moment)
    seen = lake.window(release.application, plan.time, moment, RAMP_COLUMNS)
    return judge_step(release, policy, seen, plan.time, moment)


@task(cache_policy=NO_CACHE, task_run_name="promote {release.label}")
def promote(where: Settings, lease: Lease, rollout: Rollout, release: Release) -> Ending:
    """Make the release the champion on record."""
    ledger, registry = Ledger(where.ledger), Registry(where.mlflow_url)
    before = ledger.predecessor(release.application, release.digest)
    previous = registry.find(release.application, before).registry_version if before else None
    aliases = {"champion": release.registry_version, "previous": previous, "challenger": None}
    registry.set_aliases(release.application, aliases)
    done = ledger.advance(lease, rollout.rollout_id, Event.PROMOTE, "every step passed", now())
    return _end(where, done, release, "Promoted", f"{release.label} serves every user")


@task(cache_policy=NO_CACHE, task_run_name="reject {release.label}")
def reject(where: Settings, lease: Lease, rollout: Rollout, release: Release, verdict: Verdict) -> Ending:
    """End a rollout whose smoke test failed; where a ramp had begun, its users are taken back."""
    ledger = Ledger(where.ledger)
    ledger.put_in_quarantine(lease, release.digest, verdict.reason, now())
    take_users_back(where, lease, release, verdict.reason)
    done = ledger.advance(lease, rollout.rollout_id, Event.SMOKE_FAILED, verdict.reason, now())
    driver(where).retire(release)
    return _end(where, done, release, "Rejected", f"smoke test failed: {verdict.reason}")


@task(cache_policy=NO_CACHE, task_run_name="roll back {release.label}")
def take_back(where: Settings, lease: Lease, rollout: Rollout, release: Release, verdict: Verdict) -> Ending:
    """End a ramp that failed: its users go back to the stable release."""
    ledger = Ledger(where.ledger)
    ledger.put_in_quarantine(lease, release.digest, verdict.reason, now())
    take_users_back(where, lease, release, verdict.reason)
    Registry(where.mlflow_url).set_aliases(release.application, {"challenger": None})
    done = ledger.advance(lease, rollout.rollout_id, Event.ROLL_BACK, verdict.reason, now())
    return _end(where, done, release, "RolledBack", f"the ramp failed: {verdict.reason}")


@task(cache_policy=NO_CACHE, task_run_name="hold {release.label}")
def hold(where: Settings, lease: Lease, rollout: Rollout, release: Release, verdict: Verdict) -> Ending:
    """End the run with the share as it is: the evidence allows neither promotion nor rollback."""
    done = Ledger(where.ledger).advance(lease, rollout.rollout_id, Event.HOLD, verdict.reason, now())
    return _end(where, done, release, "Held", f"{verdict.reason}; start it again, or roll it back")


def _end(where: Settings, rollout: Rollout, release: Release, name: str, message: str) -> Ending:
    Registry(where.mlflow_url).tag(release, {"state": rollout.state.value, "reason": message})
    plan = Ledger(where.ledger).plan(release.application)
    failed = name in ("Rejected", "RolledBack")
    ending = Ending(name=name, message=message, is_failure=failed, release_digest=release.digest)
    return publish(release.application, "rollout", ending, rollout_markdown(rollout, release, plan, message))
