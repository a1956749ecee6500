"""Rows of the ledger as the domain's types, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from tasks.experiments.design import ExperimentDesign
from tasks.experiments.life import Decided, ExperimentRecord, Stage
from tasks.monitors.verdict import Check, Outcome, RecordedVerdict, Verdict
from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout
from tasks.traffic.plan import Plan


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return the columns of a plan."""
    releases = sorted(set(plan.buckets))
    index = {digest: number for number, digest in enumerate(releases)}
    return {
        "application": plan.application,
        "revision": plan.revision,
        "salt": plan.salt,
        "releases": json.dumps(releases),
        "buckets": json.dumps([index[digest] for digest in plan.buckets], separators=(",", ":")),
        "author": plan.author,
        "flow_run_id": plan.flow_run_id,
        "reason": plan.reason,
        "time": plan.time,
    }


def as_plan(row: Row[Any]) -> Plan:
    """Return a row of ``plans`` as a plan."""
    releases = json.loads(row.releases)
    return Plan(
        application=row.application,
        revision=row.revision,
        salt=row.salt,
        buckets=tuple(releases[number] for number in json.loads(row.buckets)),
        author=row.author,
        flow_run_id=row.flow_run_id,
        reason=row.reason,
        time=row.time,
    )


def rollout_values(rollout: Rollout) -> dict[str, Any]:
    """Return the columns of a rollout."""
    names = (
        "rollout_id",
        "application",
        "release_digest",
        "stable_digest",
        "deployment_id",
        "started",
        "changed",
        "reason",
    )
    return {name: getattr(rollout, name) for name in names} | {"state": rollout.state.value}


def as_rollout(row: Row[Any]) -> Rollout:
    """Return a row of ``rollouts`` as a rollout."""
    return Rollout(
        rollout_id=row.rollout_id,
        application=row.application,
        release_digest=row.release_digest,
        stable_digest=row.stable_digest,
        deployment_id=row.deployment_id,
        state=State(row.state),
        started=row.started,
        changed=row.changed,
        reason=row.reason,
    )


def experiment_values(record: ExperimentRecord) -> dict[str, Any]:
    """Return the columns of an experiment."""
    names = ("experiment_id", "application", "name", "control", "users_per_arm", "started", "changed", "reason")
    return {name: getattr(record, name) for name in names} | {
        "arms": json.dumps(dict(record.arms)),
        "design": record.design.model_dump_json(),
        "stage": record.stage.value,
        "decided": record.decided.to_json() if record.decided else None,
    }


def as_experiment(row: Row[Any]) -> ExperimentRecord:
    """Return a row of ``experiments`` as an experiment."""
    return ExperimentRecord(
        experiment_id=row.experiment_id,
        application=row.application,
        name=row.name,
        control=row.control,
        arms=json.loads(row.arms),
        users_per_arm=row.users_per_arm,
        design=ExperimentDesign.model_validate_json(row.design),
        stage=Stage(row.stage),
        started=row.started,
        changed=row.changed,
        reason=row.reason,
        decided=Decided.from_json(row.decided) if row.decided else None,
    )


def verdict_values(verdict: Verdict) -> dict[str, Any]:
    """Return the columns of a verdict, without its id, kind and flow run."""
    fields = ("monitor", "outcome", "statement", "value", "limit", "n")
    return {
        "application": verdict.application,
        "release_digest": verdict.release_digest,
        "window_start": verdict.window_start,
        "window_end": verdict.window_end,
        "outcome": verdict.outcome.value,
        "checks": json.dumps([{name: getattr(check, name) for name in fields} for check in verdict.checks]),
    }


def as_verdict(row: Row[Any]) -> RecordedVerdict:
    """Return a row of ``verdicts`` as a verdict."""
    checks: Sequence[dict[str, Any]] = json.loads(row.checks)
    verdict = Verdict(
        application=row.application,
        release_digest=row.release_digest,
        window_start=row.window_start,
        window_end=row.window_end,
        checks=tuple(Check(**{**check, "outcome": Outcome(check["outcome"])}) for check in checks),
    )
    return RecordedVerdict(verdict_id=row.verdict_id, kind=row.kind, recorded=row.recorded, verdict=verdict)
