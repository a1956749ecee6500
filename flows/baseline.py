"""window → named baseline."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from tasks.drift import steps as baseline_steps
from tasks.evaluation import steps
from tasks.release.model import Name
from tasks.settings import settings


@flow(name="baseline", flow_run_name="{name} of {application}")
def baseline(
    application: Name,
    name: Name,
    release: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    although_suspect: bool = False,
) -> str:
    """Keep what a window came to under a name, so that later nights can be held against it.

    Args:
        application: What users call.
        name: What releases call it in their file (``baseline: NAME``).
        release: Whose answers: a digest, its first 12 digits, or a version. Empty: those of every release.
        start: First moment of the window, UTC. Empty: a day before the end. Four weeks let the alarms over nights work.
        end: First moment after it. Empty: a day after the start, or the last midnight.
        although_suspect: Keep it although its nights are under suspicion of a slow change.

    Returns:
        The digest of the baseline.
    """
    (window,) = steps.find_windows(start, end, None)
    kept = baseline_steps.keep_baseline(settings(), application, name, release, window, although_suspect)
    baseline_steps.publish_baseline(kept)
    return kept.digest
