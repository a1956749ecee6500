"""The nightly evaluation: a window of interactions, held against limits and baseline, becomes a verdict a release."""

from __future__ import annotations

from datetime import datetime

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.evaluation import steps
from tasks.evaluation.report import Judged
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Verdict
from tasks.release.model import Name
from tasks.settings import settings


@flow(name="evaluation", flow_run_name=steps.run_name)
def evaluation(
    application: Name | None = None, start: datetime | None = None, end: datetime | None = None
) -> State[list[Verdict]]:
    """Judge every release by what it answered in a window of time.

    Args:
        application: What users call, as its releases name it. Empty: every application that has a traffic plan.
        start: First moment of the window, UTC. Empty: a day before the end.
        end: First moment after the window, UTC. Empty: a day after the start, or the last midnight.

    Returns:
        One verdict a release. The run completes whatever they say: a failed verdict is a result, not an accident. An
        application that could not be judged fails the run, after the others have been judged.
    """
    window = steps.find_window(start, end)
    applications = steps.find_applications(settings(), application)
    return steps.conclude([judge_application(name, window, return_state=True) for name in applications])


@flow(name="evaluation of one application", flow_run_name="{application} {window.label}")
def judge_application(application: Name, window: Window) -> list[Judged]:
    """Judge every release of one application.

    Args:
        application: What users call.
        window: What is judged.
    """
    config = settings()
    steps.take_in(config, application)
    interactions = steps.load_interactions(config, application, window)
    gate = steps.check_data(interactions, window)
    judged = []
    for release in steps.find_releases(config, application, interactions):
        measured = steps.score_release(interactions, release)
        baseline = steps.find_baseline(config, release, window)
        result = steps.judge_release(release, window, measured, baseline, gate)
        steps.store_scores(config, result, window, measured)
        verdict_id = steps.record_verdict(config, result)
        steps.announce_verdict(result, verdict_id)
        steps.log_run(config, result, window)
        judged.append(result)
    steps.publish_report(application, window, gate, judged, interactions)
    return judged
