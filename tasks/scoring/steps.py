"""The steps that find what a team adds, and hear what people said of answers."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import InputError
from tasks.evaluation.evidence import Measured
from tasks.evaluation.shards import Scored
from tasks.evaluation.window import Window
from tasks.release.model import Release
from tasks.scoring.extra import EvaluationSpec, read_evaluation_file
from tasks.scoring.informing import Known, inform, join_columns
from tasks.scoring.people import CALIBRATIONS, QUALITY, StoredCalibration, latest_calibration
from tasks.scoring.signals import rate_feedback
from tasks.scoring.slices import read_references, rules_of
from tasks.settings import Settings
from tasks.stores.lake import Lake


@task(cache_policy=NO_CACHE)
def find_plan(config: Settings) -> EvaluationSpec:
    """Return what the team adds to every evaluation: scorers, judges, limits of checks, who judges toxicity.

    References that cannot be read stop the evaluation here, not in a shard that somebody else does.
    """
    plan = read_evaluation_file(config.state_dir)
    if plan.references is not None:
        read_references(config.state_dir / plan.references.file)
    return plan


@task(cache_policy=NO_CACHE)
def hear(  # noqa: PLR0917 - of whom, when, and by which rules
    config: Settings,
    application: str,
    window: Window,
    releases: Sequence[Release],
    gathered: Sequence[Measured],
    shards: Sequence[Scored],
    plan: EvaluationSpec,
) -> list[Measured]:
    """Put what was seen, what users said and what labels of people came to beside each release's numbers."""
    lake = Lake(config.lake_dir)
    feedback = lake.feedback(window.start, window.end, application)
    stored, problem = _calibration(lake, application)
    found = []
    for release, measured in zip(releases, gathered, strict=True):
        joined = join_columns(measured, pa.concat_tables([one[release.digest].looked for one in shards]))
        ids = joined.calls["interaction_id"].to_pylist() if joined.calls is not None else []
        known = Known(
            negative=rate_feedback(ids, feedback, plan.feedback),
            calibration=stored,
            problem=problem,
            rules_problem=rules_of(release)[1],
        )
        found.append(inform(joined, plan, known))
    return found


def _calibration(lake: Lake, application: str) -> tuple[StoredCalibration | None, str]:
    try:
        return latest_calibration(lake.read(CALIBRATIONS, {"application": application, "score": QUALITY})), ""
    except InputError as error:
        return None, str(error)
