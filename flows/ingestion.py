"""log files → the interaction log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow

from tasks.interactions import steps
from tasks.interactions.counts import Ingested
from tasks.interactions.gate import GatePolicy
from tasks.interactions.recipes import FormatName
from tasks.release.model import Name
from tasks.settings import settings

_GATE = GatePolicy()


@flow(name="ingestion", flow_run_name=steps.run_name)
def ingestion(  # noqa: PLR0917 - they become the form of the flow
    application: Name | None = None,
    path: Path | None = None,
    format: FormatName = "auto",  # noqa: A002 - what people call it
    mapping: Path | None = None,
    content: Literal["off", "hash", "full"] | None = None,
    redact: bool | None = None,
    final: bool = False,
    dry_run: bool = False,
    gate: GatePolicy = _GATE,
) -> Ingested:
    """Store every line of the logs exactly once; a line that cannot be read is set aside with its reason.

    Args:
        application: Whose logs to read, or with a path, whose the lines are that do not say. Empty: every one's.
        path: A log file or folder instead of the usual place.
        format: What the lines are in; auto looks at each.
        mapping: A file that says which column holds what, for CSV, Parquet and JSON of any other shape.
        content: What is kept of texts: nothing, their digests, or all. Empty: what the settings say.
        redact: Take personal data and secrets out of what is kept. Empty: what the settings say.
        final: The files are closed: a last line without an end counts.
        dry_run: Store nothing, and show what would be stored.
        gate: What must hold of a batch; one that fails is set aside until somebody releases it.
    """
    where = settings()
    job = steps.plan_job(
        where, application, format, mapping, content, redact=redact, final=final, dry_run=dry_run, gate=gate
    )
    sources = steps.find_sources(where, application, path)
    return steps.publish_counts(steps.ingest_all(where, sources, job))
