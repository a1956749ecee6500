"""The steps of the nightly evaluation: load, call, record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import pyarrow as pa
import pyarrow.compute as pc
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.costs.billing import open_calls
from tasks.costs.opening import open_billing
from tasks.drift.findings import Drift
from tasks.drift.steps import Found, with_baseline
from tasks.errors import InputError, NotFoundError
from tasks.evaluation.assess import assess
from tasks.evaluation.coverage import Hours, check_coverage, usual_calls
from tasks.evaluation.evidence import Measured, gather
from tasks.evaluation.expectations import GATE_COLUMNS, Gate, validate
from tasks.evaluation.records import (
    HOURS,
    SCORES,
    SUMMARIES,
    count_hours,
    hour_rows,
    hours_before,
    record_keys,
    score_rows,
    summary_rows,
)
from tasks.evaluation.report import Judged
from tasks.evaluation.segments import explain, find_segments, warn
from tasks.evaluation.shards import Scored, unpack_scored
from tasks.evaluation.spending import Costs, cost_of_releases
from tasks.evaluation.summary import count_answered
from tasks.evaluation.window import Window
from tasks.events import event_resource
from tasks.interactions.counts import Ingested
from tasks.interactions.ingest import ingest_folder, standing_job
from tasks.monitors.verdict import SEVERITY, Outcome, Verdict, worst
from tasks.release.model import Release
from tasks.release.reconciling import is_latest_news
from tasks.run_page import tag_run
from tasks.scoring.extra import EvaluationSpec, check_scores, join_scores, mean_scores
from tasks.settings import Settings
from tasks.shards.orders import ScoringOrder, order_slices
from tasks.shards.steps import send_out
from tasks.shards.work import score_order
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import Plan

KIND: Final = "evaluation"
_COLUMNS: Final = tuple(dict.fromkeys((*GATE_COLUMNS, "error_type", "release_digest")))


def run_name() -> str:
    """Name a run after what it evaluates: the application and the windows."""
    given: dict[str, Any] = flow_run.parameters
    try:
        windows = find_windows(given.get("start"), given.get("end"), given.get("nights"))
    except InputError:
        return f"{given.get('application') or 'every application'}, no such window"  # the run itself says why
    more = f" and {len(windows) - 1} more nights" if len(windows) > 1 else ""
    return f"{given.get('application') or 'every application'} {windows[0].label}{more}"


def find_windows(start: datetime | None, end: datetime | None, nights: int | None) -> list[Window]:
    """Return the windows; yesterday is counted from when the run was due, so that a late retry means the same day."""
    return Window.nights(start, end, nights, flow_run.scheduled_start_time or datetime.now(UTC))


@task(cache_policy=NO_CACHE)
def find_applications(config: Settings, application: str | None) -> list[str]:
    """Return the application, or every one that has a traffic plan."""
    if application is not None:
        tag_run(application)
        return [application]
    with closing(Ledger(config.ledger)) as ledger:
        return ledger.applications()


@task(cache_policy=NO_CACHE)
def take_in(config: Settings, application: str) -> Ingested:
    """Store what the application logged since the last time, so that nothing of the window is missing."""
    folder = config.log_dir / application
    return ingest_folder(Lake(config.lake_dir), folder, datetime.now(UTC), job=standing_job(config))


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


@task(cache_policy=NO_CACHE)
def count_calls(config: Settings, application: str, window: Window, interactions: pa.Table) -> Hours:
    """Count the calls of each hour, keep them for later nights, and hold them against those of earlier ones."""
    lake, calls = Lake(config.lake_dir), count_hours(interactions["time_utc"])
    usual = usual_calls(hours_before(lake.read(HOURS, {"application": application})), window)
    lake.replace(HOURS, {"application": application, "window": window.label}, hour_rows(application, window, calls))
    return Hours(calls=calls, usual=usual, coverage=check_coverage(calls, usual))


@task(cache_policy=NO_CACHE)
def price_releases(config: Settings, application: str, window: Window) -> Costs:
    """Price the calls of every release; a price book that cannot be read is an error of the cost monitor alone."""
    try:
        with open_calls(open_billing(config), window.start, window.end, application) as (connection, find):
            return Costs(by_digest=cost_of_releases(connection, find, window))
    except InputError as error:
        get_run_logger().warning("cost: %s", error)
        return Costs(by_digest={}, problem=f"could not be measured: {error}")


def find_shards(config: Settings, window: Window, hours: Hours) -> list[Window]:
    """Return the window in slices whose texts fit into memory; an hour is never split."""
    return window.shards(hours.calls, config.shard_calls)


def score_shards(  # noqa: PLR0917 - what a window's slices are scored by
    config: Settings,
    application: str,
    slices: Sequence[Window],
    releases: Sequence[Release],
    plan: EvaluationSpec,
    interactions: pa.Table,
) -> list[Scored]:
    """Score every slice of the window, here or where the settings say; the results are the same to the last digit."""
    orders = order_slices(application, slices, releases, plan, count_answered(interactions))
    if config.shards == "here":
        return [score_shard(config, order) for order in orders]
    return [unpack_scored(result) for result in send_out(config, orders)]


@task(cache_policy=NO_CACHE, task_run_name="{order.label}")
def score_shard(config: Settings, order: ScoringOrder) -> Scored:
    """Score and look at the answers of every release in a slice; their texts are read once and do not leave here."""
    return score_order(config, order)


@task(cache_policy=NO_CACHE, task_run_name="measure {release.label}")
def gather_release(shards: Sequence[Scored], release: Release, costs: Costs, plan: EvaluationSpec) -> Measured:
    """Put together what the slices say of one release, with what it cost and what added scorers say."""
    measured = gather([shard[release.digest].shard for shard in shards])
    scores = join_scores([shard[release.digest].scores for shard in shards])
    evidence = replace(
        measured.evidence,
        cost=costs.by_digest.get(release.digest),
        cost_problem=costs.problem,
        scorer_checks=check_scores(plan.scorers, scores),
        scorer_means=mean_scores(scores),
    )
    return replace(measured, evidence=evidence)


@task(cache_policy=NO_CACHE, task_run_name="judge {release.label}")
def judge_release(  # noqa: PLR0917 - what a verdict rests on
    config: Settings,
    release: Release,
    window: Window,
    measured: Measured,
    baseline: Found,
    drift: Drift,
    gate: Gate,
    hours: Hours,
) -> Judged:
    """Hold the evidence on one release and on its segments against its limits."""
    evidence, limits = with_baseline(measured.evidence, baseline, drift), release.spec.monitors
    verdict = Verdict(
        application=release.application,
        release_digest=release.digest,
        window_start=window.start,
        window_end=window.end,
        checks=assess(evidence, limits, gate, hours.coverage),
    )
    segments = find_segments(measured, limits) if gate.success else ()
    drifted = drift.warnings if gate.success else ()
    with closing(Ledger(config.ledger)) as ledger:
        deployments = {one.release_digest: one.deployment_id for one in ledger.rollouts(release.application)[::-1]}
    return Judged(
        release=release,
        evidence=evidence,
        verdict=verdict,
        segments=segments,
        segment_checks=(*warn(segments, verdict.checks, limits), *drifted),
        explanations=tuple(one for check in verdict.checks for one in explain(measured, check)),
        deployment_id=deployments.get(release.digest),
    )


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
def announce_verdict(config: Settings, judged: Judged, verdict_id: str) -> None:
    """Emit the event that automations act on; the same verdict again is the same event, and acts once.

    One on days long past, or before the last night on record, has another name, which no automation waits for.
    """
    verdict = judged.verdict
    with closing(Ledger(config.ledger)) as ledger:
        past = "" if is_latest_news(verdict, ledger.verdicts(verdict.application), datetime.now(UTC)) else "past."
    emit_event(
        event=f"delivery.verdict.{past}{verdict.outcome}",
        resource=event_resource(verdict.application, verdict.release_digest),
        payload={
            "application": verdict.application,
            "release_digest": verdict.release_digest,
            "verdict_id": verdict_id,
            "reason": verdict.reason,
        },
        id=_event_id(verdict, verdict_id),
    )


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
    if not verdicts:
        return "nothing to judge: no call of a registered release in the window; is the application's name right?"
    # The gravest first, because a list of runs shows only the beginning; of what passed, how many checks did.
    ordered = sorted(verdicts, key=lambda item: SEVERITY.index(item.outcome), reverse=True)
    why = {id(item): f"{len(item.checks)} checks" if item.outcome is Outcome.PASS else item.reason for item in ordered}
    return "; ".join(f"{item.release_digest:.12} {item.outcome}: {why[id(item)]}" for item in ordered)


def _event_id(verdict: Verdict, verdict_id: str) -> UUID:
    return uuid5(NAMESPACE_OID, f"{verdict_id} {verdict.outcome} {verdict.reason}")


def _ordered(plan: Plan | None, seen: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*(plan.shares() if plan else ()), *sorted(seen)]))


def _find(registry: Registry, application: str, digest: str) -> Release | None:
    try:
        return registry.find(application, digest)
    except NotFoundError:
        return None
