"""log files → the interaction log."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.interactions import steps
from tasks.interactions.ingest import Ingested
from tasks.release.model import Name
from tasks.settings import settings


@flow(name="ingestion", flow_run_name=steps.run_name)
def ingestion(
    application: Name | None = None,
    path: Path | None = None,
) -> Ingested:
    """Store every line of the logs exactly once; a line that cannot be read is set aside with its reason.

    Args:
        application: Whose logs to read. Empty: those of every application.
        path: A log file or folder instead of the usual place.
    """
    where = settings()
    sources = steps.find_sources(where, application, path)
    return steps.publish_counts([steps.ingest(where, source) for source in sources])
