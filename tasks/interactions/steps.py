"""The steps of the ingestion."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from tasks.errors import InputError
from tasks.interactions.ingest import Ingested, SourceCount, find_logs, ingest_file
from tasks.settings import Settings
from tasks.stores.lake import Lake


def run_name() -> str:
    """Return the name of a flow run, for people."""
    asked = flow_run.parameters
    return f"ingest {asked.get('path') or asked.get('application') or 'every application'}"


@task
def find_sources(where: Settings, application: str | None, path: Path | None) -> tuple[Path, ...]:
    """Return the log files: those of the path, of the application, or of every application."""
    if application is not None and path is not None:
        raise InputError(f"application {application!r} and path {path}: give one of the two")
    if path is not None:
        return find_logs(path)
    folder = where.log_dir / application if application else where.log_dir
    return find_logs(folder) if folder.exists() else ()


@task(task_run_name="ingest {path.name}", retries=2, retry_delay_seconds=5)
def ingest(where: Settings, path: Path) -> SourceCount:
    """Store what a log file holds beyond what is stored."""
    logger, size = get_run_logger(), max(path.stat().st_size, 1)

    def progress(_: Path, done: int) -> None:
        logger.info("%s: %d of %d bytes (%.0f %%)", path.name, done, size, min(100 * done / size, 100))

    return ingest_file(Lake(where.lake_dir), path, datetime.now(UTC), progress)


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
    return ingested


def _row(name: str, counted: SourceCount | Ingested) -> dict[str, Any]:
    return {
        "file": name,
        "lines": counted.read,
        "stored": counted.stored,
        "duplicates": counted.duplicates,
        "rejected": counted.rejected,
    }
