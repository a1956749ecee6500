from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sample_release import URL, release_of

from tasks.drift.distance import MIN_ROWS
from tasks.evaluation.evidence import Evidence, Measured, estimate_mean, estimate_share
from tasks.evaluation.expectations import Gate
from tasks.evaluation.records import SUMMARIES_SCHEMA, find_kept, score_rows, summary_rows
from tasks.evaluation.report import Evaluation, Judged, evaluation_metrics, write_report
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import PromptRef

DAY = timedelta(days=1)
START = datetime(2026, 1, 2, tzinfo=UTC)
TEXT = "Answer from the context."
RELEASE = release_of(endpoint=URL, prompt=PromptRef(name="answer", text=TEXT))


def window_of(day: int) -> Window:
    return Window(start=START + day * DAY, end=START + (day + 1) * DAY)


def history(*nights: tuple[int, int, Outcome]) -> pa.Table:
    rows = [summary_rows(RELEASE, window_of(day), Summary(n=n), outcome) for day, n, outcome in nights]
    return pa.concat_tables(rows)


@pytest.mark.parametrize(
    ("before", "oldest", "latest"), [(0, None, None), (2, None, None), (3, 300, 300), (5, 300, 500), (9, 300, 500)]
)
def test_only_windows_that_passed_and_ended_are_a_baseline(before: int, oldest: int | None, latest: int | None) -> None:
    rows = history(
        (4, 500, Outcome.PASS),
        (0, 100, Outcome.FAIL),
        (1, 200, Outcome.INCONCLUSIVE),
        (2, 300, Outcome.PASS),
        (7, 800, Outcome.ERROR),
    )
    found = [find_kept(rows, START + before * DAY, at) for at in (0, -1)]
    assert [kept.summary.n if kept else None for kept in found] == [oldest, latest]


def test_a_first_night_of_too_few_calls_to_be_compared_with_is_no_baseline() -> None:
    rows = history((0, 40, Outcome.PASS), (1, 50_000, Outcome.PASS), (2, 99, Outcome.PASS))
    found = [find_kept(rows, START + 9 * DAY, at) for at in (0, -1)]
    assert [kept.window if kept else None for kept in found] == [window_of(1)] * 2
    assert find_kept(rows, START + DAY, 0) is None
    assert find_kept(history((0, MIN_ROWS, Outcome.PASS)), START + DAY, 0) is not None


def test_scores_of_another_judge_are_no_baseline() -> None:
    rows = history((0, 1000, Outcome.PASS))
    other = rows.set_column(3, SUMMARIES_SCHEMA.field("judge_version"), pa.array(["support-0"]))
    assert find_kept(other, START + DAY, -1) is None
    assert find_kept(None, START + DAY, -1) is None


def test_an_answer_that_could_not_be_scored_is_null() -> None:
    measured = Measured(
        evidence=Evidence(summary=Summary()),
        interaction_ids=pa.array(["a", "b"]),
        quality=np.array([np.nan, 0.0]),
        toxicity=np.array([0.5, np.nan]),
    )
    rows = score_rows(RELEASE, window_of(0), measured).select(["interaction_id", "quality", "toxicity"])
    assert rows.to_pylist() == [
        {"interaction_id": "a", "quality": None, "toxicity": 0.5},
        {"interaction_id": "b", "quality": 0.0, "toxicity": None},
    ]


def judged_of(*checks: Check, n: int = 60) -> Judged:
    release, window = RELEASE, window_of(0)
    verdict = Verdict(
        application="faq",
        release_digest=release.digest,
        window_start=window.start,
        window_end=window.end,
        checks=checks,
    )
    evidence = Evidence(
        summary=Summary(n=n),
        errors=estimate_share(3, n),
        quality=estimate_mean(np.full(50, 0.25)),
        answers=57,
    )
    return Judged(release=release, evidence=evidence, verdict=verdict)


FAILED = Check(
    monitor="quality",
    outcome=Outcome.FAIL,
    statement="mean quality 0.25 < limit 0.7 (n=50)",
    value=0.25,
    limit=0.7,
    n=50,
)
DRIFT = Check(monitor="drift", outcome=Outcome.PASS, statement="drift of x | y", value=0.1, limit=0.2, n=60)


def evaluation_of(*judged: Judged, interactions: int, gate: Gate | None = None) -> Evaluation:
    return Evaluation(
        application="faq",
        window=window_of(0),
        gate=gate or Gate(success=True, n=interactions, expectations=12),
        judged=judged,
        interactions=interactions,
    )


def test_the_report_shows_inequalities_and_what_was_not_judged() -> None:
    text = write_report(evaluation_of(judged_of(FAILED, DRIFT), interactions=70))
    assert text.startswith("# faq: FAIL\n\n2026-01-02T00:00:00Z/2026-01-03T00:00:00Z, 70 interactions, 1 releases\n")
    assert "| **FAIL** | bot 1 | quality | mean quality 0.25 < limit 0.7 (n=50) |" in text
    assert "drift of x \\| y" in text
    assert "| 60 | unknown | 0.25 [0.25, 0.25], n=50 | unknown | 0.05 [" in text
    assert "No baseline, so nothing is said about drift: bot 1." in text
    assert "10 interactions belong to no registered release and were not judged." in text
    assert "7 answers could not be scored for quality and count nowhere." in text


def test_the_report_counts_what_was_the_callers_own_mistake() -> None:
    judged = judged_of(FAILED)
    judged = replace(judged, evidence=replace(judged.evidence, caller_errors=4))
    text = write_report(evaluation_of(judged, interactions=70))
    assert "4 calls were refused for the caller's own mistake and count nowhere." in text
    assert "6 interactions belong to no registered release and were not judged." in text
    assert "caller" not in write_report(evaluation_of(interactions=0))


def test_the_report_of_a_shut_gate_says_why_first() -> None:
    gate = Gate(success=False, n=60, expectations=12, failures=("status must be known: broken by 3 of 60 rows",))
    text = write_report(evaluation_of(interactions=60, gate=gate))
    assert text.startswith("# faq: INCONCLUSIVE")
    assert "so nothing was concluded: status must be known: broken by 3 of 60 rows." in text


def test_metrics_leave_out_what_is_unknown() -> None:
    assert evaluation_metrics(judged_of(FAILED)) == {"quality_mean": 0.25, "failed_share": 0.05, "interactions": 60.0}
    assert evaluation_metrics(judged_of(DRIFT))["drift"] == 0.1
