"""log files → the interaction log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.interactions import steps
from tasks.interactions.ingest import Ingested
from tasks.release.model import NAME_PATTERN
from tasks.settings import settings


@flow(name="ingestion", flow_run_name=steps.run_name)
def ingestion(
    application: Annotated[
        str | None, Field(pattern=NAME_PATTERN, description="Whose logs to read. Empty: those of every application.")
    ] = None,
    path: Annotated[Path | None, Field(description="A log file or folder instead of the usual place.")] = None,
) -> Ingested:
    """Store every line of the logs exactly once; a line that cannot be read is set aside with its reason."""
    where = settings()
    sources = steps.find_sources(where, application, path)
    return steps.publish_counts([steps.ingest(where, source) for source in sources])
