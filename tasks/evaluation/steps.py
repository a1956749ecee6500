"""The steps of the nightly evaluation: load, call, record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.errors import NotFoundError
from tasks.evaluation.assess import assess
from tasks.evaluation.evidence import SCORE_COLUMNS, Baseline, Evidence, Measured, measure_release
from tasks.evaluation.expectations import GATE_COLUMNS, Gate, validate
from tasks.evaluation.records import (
    SCORES,
    SUMMARIES,
    latest_summary,
    oldest_summary,
    record_keys,
    score_rows,
    summary_rows,
)
from tasks.evaluation.report import Judged, evaluation_metrics, write_report
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.events import event_resource
from tasks.interactions.ingest import Ingested, ingest_folder
from tasks.monitors.verdict import Verdict, worst
from tasks.release.model import Release
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import Plan

KIND = "evaluation"
_COLUMNS = tuple(dict.fromkeys((*GATE_COLUMNS, "release_digest", *SCORE_COLUMNS)))


def run_name() -> str:
    """Name a run after what it evaluates: the application and the window."""
    given: dict[str, Any] = flow_run.parameters
    return (
        f"{given.get('application') or 'every application'} {find_window(given.get('start'), given.get('end')).label}"
    )


def find_window(start: datetime | None, end: datetime | None) -> Window:
    """Return the window; yesterday is counted from when the run was due, so that a late retry means the same day."""
    return Window.of(start, end, flow_run.scheduled_start_time or datetime.now(UTC))


@task(cache_policy=NO_CACHE)
def find_applications(config: Settings, application: str | None) -> list[str]:
    """Return the application, or every one that has a traffic plan."""
    if application is not None:
        return [application]
    with closing(Ledger(config.ledger)) as ledger:
        return ledger.applications()


@task(cache_policy=NO_CACHE)
def take_in(config: Settings, application: str) -> Ingested:
    """Store what the application logged since the last time, so that nothing of the window is missing."""
    return ingest_folder(Lake(config.lake_dir), config.log_dir / application, datetime.now(UTC))


@task(cache_policy=NO_CACHE)
def load_interactions(config: Settings, application: str, window: Window) -> pa.Table:
    """Load what was asked and answered in the window."""
    return Lake(config.lake_dir).window(application, window.start, window.end, _COLUMNS)


@task(cache_policy=NO_CACHE)
def check_data(interactions: pa.Table, window: Window) -> Gate:
    """Hold the window against what must be true of any interaction log."""
    return validate(interactions.select(list(GATE_COLUMNS)).to_pandas(), window)


@task(cache_policy=NO_CACHE)
def find_releases(config: Settings, application: str, interactions: pa.Table) -> tuple[Release, ...]:
    """Find the registered releases that serve now or answered in the window, the oldest first."""
    with closing(Ledger(config.ledger)) as ledger:
        plan = ledger.plan(application)
    seen = pc.unique(interactions["release_digest"]).drop_null().to_pylist()
    found = (_find(Registry(config.mlflow_url), application, digest) for digest in _ordered(plan, seen))
    return tuple(sorted((item for item in found if item is not None), key=lambda item: item.registry_version))


@task(cache_policy=NO_CACHE, task_run_name="score {release.label}")
def score_release(interactions: pa.Table, release: Release) -> Measured:
    """Score the answers of one release and estimate what its monitors watch."""
    return measure_release(interactions.filter(pc.equal(interactions["release_digest"], release.digest)))


@task(cache_policy=NO_CACHE, task_run_name="baseline of {release.label}")
def find_baseline(config: Settings, release: Release, window: Window) -> Baseline | None:
    """Find the summary that drift is measured against: the named version, its own first window, or its predecessor.

    Only windows that passed are a baseline. The predecessor's may be the same window: concurrent traffic is the
    best comparison there is.
    """
    lake, version = Lake(config.lake_dir), release.spec.baseline
    if version not in (None, release.spec.version):
        rows = lake.read(SUMMARIES, {"application": release.application, "version": version})
        return Baseline(name=f"version {version}", summary=latest_summary(rows, window.end) or Summary())
    own = oldest_summary(_summaries(lake, release, release.digest), window.start)
    if own is not None:
        return Baseline(name="its first passed window", summary=own)
    with closing(Ledger(config.ledger)) as ledger:
        before = ledger.predecessor(release.application, release.digest)
    last = latest_summary(_summaries(lake, release, before), window.end)
    return Baseline(name=f"predecessor {before:.12}", summary=last) if last else None


@task(cache_policy=NO_CACHE, task_run_name="judge {release.label}")
def judge_release(
    release: Release, window: Window, measured: Measured, baseline: Baseline | None, gate: Gate
) -> Judged:
    """Hold the evidence on one release against its limits."""
    evidence: Evidence = replace(measured.evidence, baseline=baseline)
    verdict = Verdict(
        application=release.application,
        release_digest=release.digest,
        window_start=window.start,
        window_end=window.end,
        checks=assess(evidence, release.spec.monitors, gate),
    )
    return Judged(release=release, evidence=evidence, verdict=verdict)


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1, task_run_name="store {judged.release.label}")
def store_scores(config: Settings, judged: Judged, window: Window, measured: Measured) -> None:
    """Put the scores and the summary into the lake; a rerun replaces them."""
    lake, release, keys = Lake(config.lake_dir), judged.release, record_keys(judged.release, window)
    lake.replace(SCORES, keys, score_rows(release, window, measured))
    summary = summary_rows(release, window, judged.evidence.summary, judged.verdict.outcome)
    lake.replace(SUMMARIES, keys, summary)


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1, task_run_name="record {judged.release.label}")
def record_verdict(config: Settings, judged: Judged) -> str:
    """Put the verdict into the ledger; a rerun replaces it."""
    with closing(Ledger(config.ledger)) as ledger:
        return ledger.record_verdict(judged.verdict, kind=KIND, flow_run_id=flow_run.id)


@task(cache_policy=NO_CACHE, task_run_name="announce {judged.release.label}")
def announce_verdict(judged: Judged, verdict_id: str) -> None:
    """Emit the event that automations act on."""
    verdict = judged.verdict
    emit_event(
        event=f"delivery.verdict.{verdict.outcome}",
        resource=event_resource(verdict.application, verdict.release_digest),
        payload={
            "application": verdict.application,
            "release_digest": verdict.release_digest,
            "verdict_id": verdict_id,
            "reason": verdict.reason,
        },
    )


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1, task_run_name="log {judged.release.label}")
def log_run(config: Settings, judged: Judged, window: Window) -> str:
    """Record the evaluation as a run in the registry, with metrics linked to the release."""
    tags = {"delivery.outcome": judged.verdict.outcome.value, "delivery.window": window.label}
    name = f"{KIND} {window.label}"
    return Registry(config.mlflow_url).log_evaluation(judged.release, name, evaluation_metrics(judged), tags)


@task(cache_policy=NO_CACHE)
def publish_report(
    application: str, window: Window, gate: Gate, judged: Sequence[Judged], interactions: pa.Table
) -> None:
    """Publish the report of the evaluation in the Prefect UI."""
    text = write_report(application, window, gate, judged, interactions.num_rows)
    create_markdown_artifact(text, key=f"evaluation-{_key(application)}", description=f"{application} {window.label}")


def conclude(states: Sequence[State[list[Judged]]]) -> State[list[Verdict]]:
    """Return the verdicts as a completed state that is named after the gravest: the verdict is the result.

    Where an application could not be judged, that is the state: nobody may take silence for a pass.
    """
    broken = [state for state in states if not state.is_completed()]
    if broken:
        reasons = "; ".join(state.message or state.name or "it did not end" for state in broken)
        return Failed(message=f"{len(broken)} of {len(states)} applications could not be judged: {reasons}")
    verdicts = [item.verdict for state in states for item in state.result()]
    outcome = worst(verdict.outcome for verdict in verdicts)
    return Completed(name=f"Verdict {outcome}", message=_message(verdicts), data=verdicts)


def _message(verdicts: Sequence[Verdict]) -> str:
    return "; ".join(f"{item.release_digest:.12}: {item.reason}" for item in verdicts) or "no release to judge"


def _key(application: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", application.lower()).strip("-")


def _ordered(plan: Plan | None, seen: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*(plan.shares() if plan else ()), *sorted(seen)]))


def _summaries(lake: Lake, release: Release, digest: str | None) -> pa.Table | None:
    if digest is None:
        return None
    return lake.read(SUMMARIES, {"application": release.application, "release_digest": digest})


def _find(registry: Registry, application: str, digest: str) -> Release | None:
    try:
        return registry.find(application, digest)
    except NotFoundError:
        return None
