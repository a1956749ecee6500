"""The steps of the ingestion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.runtime import flow_run

from tasks.interactions.counts import Ingested, SourceCount
from tasks.interactions.documents import holds_documents
from tasks.interactions.gate import GatePolicy
from tasks.interactions.ingest import Job, find_logs, ingest_file, make_job, source_of
from tasks.interactions.lines import Policy
from tasks.interactions.reading import total_bytes
from tasks.settings import Settings
from tasks.shards.orders import group_sources
from tasks.shards.steps import send_out
from tasks.shards.work import order_of, unpack_counts
from tasks.stores.lake import Lake


def run_name() -> str:
    """Return the name of a flow run, for people."""
    asked = flow_run.parameters
    doing = "look at" if asked.get("dry_run") else "ingest"
    return f"{doing} {asked.get('path') or asked.get('application') or 'every application'}"


@task
def find_sources(where: Settings, application: str | None, path: Path | None) -> tuple[Path, ...]:
    """Return the log files: those of the path, of the application, or of every application."""
    if path is not None:
        return find_logs(path, documents=True)
    folder = where.log_dir / application if application else where.log_dir
    return find_logs(folder) if folder.exists() else ()


@task
def plan_job(
    where: Settings,
    application: str | None,
    form: str,
    mapping: Path | None,
    content: Policy | None,
    *,
    redact: bool | None,
    final: bool,
    dry_run: bool,
    gate: GatePolicy,
) -> Job:
    """Return how the files are to be taken in; a format or mapping that cannot be used is refused here."""
    return make_job(
        where,
        application=application,
        form=form,
        mapping=mapping,
        content=content,
        redact=redact,
        final=final,
        dry_run=dry_run,
        gate=gate,
    )


def ingest_all(where: Settings, sources: Sequence[Path], job: Job) -> list[SourceCount]:
    """Take every file in, here or where the settings say; what is stored is the same.

    Elsewhere, files of which every byte is stored already are sent to nobody. Where the gate compares a file with days
    before it, the files of an application are taken in turn, because it may be they that brought these days.
    """
    if where.shards == "here":
        return [ingest(where, path, job) for path in sources]
    grown = find_grown(where, sources)
    in_turn = job.gate.enabled and job.gate.most_changed < 1
    groups = group_sources(grown, where.log_dir, in_turn=in_turn, most_bytes=where.shard_bytes)
    results = send_out(where, [order_of(group, job) for group in groups]) if groups else []
    counted = {one.path: one for result in results for one in unpack_counts(result)}
    return [replace(counted.get(path.absolute(), SourceCount(path)), path=path) for path in sources]


@task
def find_grown(where: Settings, sources: Sequence[Path]) -> dict[Path, int]:
    """Return the size of each file that may hold more than what is stored of it, bytes."""
    offsets = Lake(where.lake_dir).offsets(source_of(path) for path in sources)
    sizes = {path: total_bytes(path) for path in sources}
    # Offsets of documents count documents.
    return {path: size for path, size in sizes.items() if holds_documents(path) or size != offsets[source_of(path)]}


@task(task_run_name="ingest {path.name}", retries=2, retry_delay_seconds=5)
def ingest(where: Settings, path: Path, job: Job) -> SourceCount:
    """Store what a log file holds beyond what is stored, and show how far it is."""
    size, shown = max(total_bytes(path), 1), create_progress_artifact(progress=0.0, description=f"ingest {path.name}")
    done = ingest_file(Lake(where.lake_dir), path, datetime.now(UTC), lambda _, at: _show(shown, at / size), job)
    for name, reasons in done.batches:
        get_run_logger().warning("%s: batch %s is set aside: %s", path.name, name, "; ".join(reasons))
    _show(shown, 1.0)
    return done


@task
def publish_counts(sources: list[SourceCount]) -> Ingested:
    """Show the counts of every file and in total; no line's content is shown."""
    ingested = Ingested(tuple(sources))
    rows = [_row(str(source.path), source) for source in ingested.sources]
    create_table_artifact(
        key="ingestion",
        table=[*rows, _row("total", ingested)],
        description=f"{ingested.stored} interactions stored of {ingested.read} lines; {ingested.rejected} set aside",
    )
    batches = [
        {"batch": name, "file": str(source.path), "why": "; ".join(reasons), "report": f"data-docs/{name}.html"}
        for source in ingested.sources
        for name, reasons in source.batches
    ]
    if batches:
        create_table_artifact(key="set-aside", table=batches, description="Look, then release: delivery log release ID")
    if ingested.contents:
        create_table_artifact(key="ingestion-preview", table=[_content_row(row) for row in ingested.contents])
    return ingested


def _show(artifact: Any, share: float) -> None:
    update_progress_artifact(artifact, progress=round(min(100 * share, 100.0), 1))


def _content_row(row: Any) -> dict[str, Any]:
    return {
        "date": row.date_utc.isoformat(),
        "application": row.application,
        "model": row.model or "unknown",
        "would store": row.rows,
    }


def _row(name: str, counted: SourceCount | Ingested) -> dict[str, Any]:
    return {
        "file": name,
        "lines": counted.read,
        "stored": counted.stored,
        "duplicates": counted.duplicates,
        "rejected": counted.rejected,
        "of these in batches set aside": counted.set_aside,
    }
