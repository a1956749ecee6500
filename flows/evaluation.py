"""The nightly evaluation: a window of interactions, held against limits and baseline, becomes a verdict a release."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from tasks.drift import replay_steps
from tasks.drift import steps as baseline_steps
from tasks.evaluation import report_steps, steps
from tasks.evaluation.report import Judged
from tasks.evaluation.window import MAX_NIGHTS, Window
from tasks.judging import steps as judging_steps
from tasks.monitors import steps as alert_steps
from tasks.monitors.verdict import Verdict
from tasks.release.model import Name
from tasks.scoring import steps as scoring_steps
from tasks.settings import settings


@flow(name="evaluation", flow_run_name=steps.run_name)
def evaluation(
    application: Name | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    nights: Annotated[int, Field(ge=0, le=MAX_NIGHTS)] | None = None,
) -> State[list[Verdict]]:
    """Judge every release by what it answered in a window of time, or in each of many nights.

    Args:
        application: What users call, as its releases name it. Empty: every application that has a traffic plan.
        start: First moment of the window, UTC. Empty: a day before the end.
        end: First moment after the window, UTC. Empty: a day after the start, or the last midnight.
        nights: Judge so many UTC days one by one, the oldest first: those from the start, or those until the end. 0:
            every day between start and end. Empty: one window.

    Returns:
        One verdict a release and window. The run completes whatever they say: a failed verdict is a result, not an
        accident. An application that could not be judged fails the run, after the others have been judged.
    """
    config = settings()
    windows = steps.find_windows(start, end, nights)
    applications = steps.find_applications(config, application)
    states = [
        judge_application(name, window, return_state=True)
        for window in report_steps.with_progress(windows)
        for name in applications
    ]
    alert_steps.deliver(config)
    return steps.conclude(states)


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
    hours = steps.count_calls(config, application, window, interactions)
    releases = steps.find_releases(config, application, interactions)
    costs = steps.price_releases(config, application, window)
    plan, slices = scoring_steps.find_plan(config), steps.find_shards(config, window, hours)
    shards = steps.score_shards(config, application, slices, releases, plan, interactions)
    gathered = [steps.gather_release(shards, release, costs, plan) for release in releases]
    heard = scoring_steps.hear(config, application, window, releases, gathered, shards, plan)
    asked = judging_steps.ask_judges(config, application, window, releases, heard, plan, gate)
    judged = []
    for release, unaided, measured in zip(releases, gathered, asked, strict=True):
        baseline = baseline_steps.find_baseline(config, release, window)
        # Held against earlier nights as it was measured: a new calibration or judge is no change of the answers.
        drift = baseline_steps.check_drift(config, release, window, baseline, unaided.evidence)
        replayed = replay_steps.replay_questions(config, release, window, plan, unaided.evidence, measured.evidence)
        result = steps.judge_release(config, release, window, measured, baseline, drift.join(replayed), gate, hours)
        steps.store_scores(config, result, window, measured)
        verdict_id = steps.record_verdict(config, result)
        steps.announce_verdict(config, result, verdict_id)
        judged.append(result)
    evaluated = report_steps.put_together(application, window, gate, judged, interactions, hours)
    alert_steps.raise_alerts(config, report_steps.find_signals(evaluated))
    history = report_steps.store_metrics(config, evaluated)
    files = report_steps.write_files(config, evaluated, history)
    links = [report_steps.log_run(config, result, window, files) for result in judged]
    report_steps.publish_report(evaluated, files, links)
    return judged
