"""The steps that look at the texts of answers, and hear what people said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import InputError
from tasks.evaluation.evidence import Measured
from tasks.evaluation.window import Window
from tasks.release.model import Release
from tasks.scoring.extra import EvaluationSpec, read_evaluation_file
from tasks.scoring.informing import Known, inform, join_columns
from tasks.scoring.people import CALIBRATIONS, QUALITY, StoredCalibration, latest_calibration
from tasks.scoring.signals import rate_feedback
from tasks.scoring.slices import LOOKED_AT, look_at, open_around, rules_of
from tasks.settings import Settings
from tasks.stores.lake import Lake

Looks = Mapping[str, pa.Table]
"""What was seen in the texts of each release's answers in a slice, by digest."""


@task(cache_policy=NO_CACHE)
def find_plan(config: Settings) -> EvaluationSpec:
    """Return what the team adds to every evaluation: scorers, judges, limits of checks, who judges toxicity."""
    return read_evaluation_file(config.state_dir)


@task(cache_policy=NO_CACHE, task_run_name="look at {part.label}")
def look_at_slice(  # noqa: PLR0917 - where, what and by which rules
    config: Settings, application: str, part: Window, releases: Sequence[Release], plan: EvaluationSpec, parts: int
) -> Looks:
    """Say of every answer in a slice of the window what needs its text; the texts do not leave this step."""
    rows = Lake(config.lake_dir).window(application, part.start, part.end, LOOKED_AT)
    with open_around(config.state_dir, plan, parts) as around:
        return {
            one.digest: look_at(plan, one, rows.filter(pc.equal(rows["release_digest"], one.digest)), around)
            for one in releases
        }


@task(cache_policy=NO_CACHE)
def hear(  # noqa: PLR0917 - of whom, when, and by which rules
    config: Settings,
    application: str,
    window: Window,
    releases: Sequence[Release],
    gathered: Sequence[Measured],
    looks: Sequence[Looks],
    plan: EvaluationSpec,
) -> list[Measured]:
    """Put what was seen, what users said and what labels of people came to beside each release's numbers."""
    lake = Lake(config.lake_dir)
    feedback = lake.feedback(window.start, window.end, application)
    stored, problem = _calibration(lake, application)
    found = []
    for release, measured in zip(releases, gathered, strict=True):
        joined = join_columns(measured, pa.concat_tables([one[release.digest] for one in looks]))
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
