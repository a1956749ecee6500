"""The steps that follow from verdicts: metrics, alerts' signals, reports, runs of the registry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from tasks.drift.report import example_ids
from tasks.evaluation.coverage import Hours
from tasks.evaluation.expectations import Gate
from tasks.evaluation.plots import draw_hours, draw_limits, draw_png, limit_bars
from tasks.evaluation.report import (
    Evaluation,
    Judged,
    evaluation_metrics,
    metric_rows,
    sorted_checks,
    write_report,
)
from tasks.evaluation.report_html import render_examples, render_html
from tasks.evaluation.steps import KIND
from tasks.evaluation.window import Window
from tasks.monitors import alerts
from tasks.monitors.alerts import Signal
from tasks.monitors.verdict import Outcome
from tasks.run_page import tag_run
from tasks.settings import Settings
from tasks.stores.example_pages import REPORTS, name_page
from tasks.stores.lake import Lake
from tasks.stores.metrics import METRICS, Metrics
from tasks.stores.registry import Registry

HISTORY_NIGHTS: Final = 120
_GRAVE: Final = (Outcome.FAIL, Outcome.ERROR)
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one report."""

    html: Path
    png: Path


def with_progress(windows: Sequence[Window]) -> Iterator[Window]:
    """Yield the windows, and show how many of them are done; a single one shows nothing."""
    shown = cast("UUID", create_progress_artifact(progress=0, description="nights judged")) if windows[1:] else None
    for done, window in enumerate(windows, start=1):
        yield window
        if shown is not None:
            update_progress_artifact(shown, progress=100 * done / len(windows))


def put_together(  # noqa: PLR0917 - what an evaluation is made of
    application: str, window: Window, gate: Gate, judged: Sequence[Judged], interactions: pa.Table, hours: Hours
) -> Evaluation:
    """Return all that the report of an application shows."""
    return Evaluation(
        application=application,
        window=window,
        gate=gate,
        judged=tuple(judged),
        interactions=interactions.num_rows,
        hours=hours.calls,
        usual=hours.usual,
        coverage=hours.coverage,
    )


def find_signals(evaluated: Evaluation) -> list[Signal]:
    """Return what every monitor of every release, and of its segments, says of its alert."""
    return [signal for item in evaluated.judged for signal in alerts.find_signals(item.verdict, item.segment_checks)]


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1)
def store_metrics(config: Settings, evaluated: Evaluation) -> Rows:
    """Put what was measured into the metrics store, and return the series of whole releases."""
    lake = Lake(config.lake_dir)
    Metrics(lake).replace(evaluated.application, evaluated.window.label, metric_rows(evaluated))
    rows = lake.read(METRICS, {"application": evaluated.application, "segment": ""})
    until = [row for row in rows.to_pylist() if row["window_end"] <= evaluated.window.end] if rows else []
    ends = sorted({row["window_end"] for row in until})[-HISTORY_NIGHTS:]
    return [row for row in until if row["window_end"] in ends]


@task(cache_policy=NO_CACHE)
def write_files(config: Settings, evaluated: Evaluation, history: Rows) -> Files:
    """Write the report that opens offline, and its picture, into the state folder; a rerun replaces them."""
    folder = config.state_dir.absolute() / REPORTS / evaluated.application
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"{evaluated.window.start:%Y%m%dT%H%M%SZ}-{evaluated.window.end:%Y%m%dT%H%M%SZ}"
    files = Files(html=folder / f"{name}.html", png=folder / f"{name}.png")
    files.html.write_text(render_html(evaluated, history), encoding="utf-8")
    files.png.write_bytes(draw_png(evaluated))
    _write_examples(config, evaluated, folder / name_page(evaluated.window.start, evaluated.window.end))
    return files


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1, task_run_name="log {judged.release.label}")
def log_run(config: Settings, judged: Judged, window: Window, files: Files) -> str:
    """Record the evaluation as the one run of its window, with metrics linked to the release; return its address."""
    tags = {
        "delivery.application": judged.release.application,
        "delivery.outcome": judged.verdict.outcome.value,
        "delivery.window": window.label,
    }
    name, metrics = f"{KIND} {window.label}", evaluation_metrics(judged)
    paths = (files.html, files.png)
    return Registry(config.mlflow_url).replace_evaluation(judged.release, name, metrics, tags, paths)


@task(cache_policy=NO_CACHE, task_run_name="publish the report")
def publish_report(evaluated: Evaluation, files: Files, links: Sequence[str]) -> None:
    """Publish the report of the evaluation in the Prefect UI."""
    tag_run(evaluated.application, *(item.release.digest for item in evaluated.judged))
    runs = {f"{item.release.label} in MLflow": link for item, link in zip(evaluated.judged, links, strict=True)}
    opened = {"whole report in MLflow": f"{links[0]}/artifacts/{files.html.name}"} if links else {}
    bars = limit_bars(evaluated)
    charts = [draw_limits(bars)] if bars else []
    charts += [draw_hours(evaluated.every_hour, evaluated.usual)] if evaluated.interactions else []
    text = write_report(
        evaluated, charts=charts, links={**opened, **runs, "the same report as a file": str(files.html)}
    )
    failed = [f"{of.label}: {one.statement}" for of, one in sorted_checks(evaluated.judged) if one.outcome in _GRAVE]
    what = f"{evaluated.outcome.upper()}: {evaluated.application} {evaluated.window.label}"
    description = "; ".join([what, *failed])[:1000]
    create_markdown_artifact(text, key=f"evaluation-{_key(evaluated.application)}", description=description)


def _write_examples(config: Settings, evaluated: Evaluation, path: Path) -> None:
    """Write the texts of the interactions that look newest, where the content policy and a setting allow it.

    The file stays where it is: unlike the report it is in no run and no artifact. Retention and the deletion of a
    user's data find it by its name; whoever is forgotten while it is written is not in it.
    """
    drifts = [item.evidence.drift for item in evaluated.judged]
    ids = [one for drift in drifts for found in example_ids(drift).values() for one in found]
    path.unlink(missing_ok=True)
    if not ids or not config.report_examples or config.content != "full":
        return
    window = evaluated.window
    columns = ("interaction_id", "input_text", "output_text")
    rows = Lake(config.lake_dir).window(evaluated.application, window.start, window.end, columns)
    kept = rows.filter(pc.is_in(rows["interaction_id"], pa.array(ids, pa.string()))).to_pylist()
    path.touch(mode=0o600)
    texts = {row["interaction_id"]: (row["input_text"], row["output_text"]) for row in kept}
    path.write_text(render_examples(evaluated, texts), encoding="utf-8")
    left = Lake(config.lake_dir).window(evaluated.application, window.start, window.end, columns[:1])
    if not texts.keys() <= set(left["interaction_id"].to_pylist()):
        path.unlink(missing_ok=True)


def _key(application: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", application.lower()).strip("-")
