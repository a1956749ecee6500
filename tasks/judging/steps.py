"""The step that puts a window's answers before the judges of ``evaluation.yaml``, and keeps what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import InputError
from tasks.evaluation.evidence import Measured
from tasks.evaluation.expectations import Gate
from tasks.evaluation.window import Window
from tasks.judging.anchors import Anchor, AnchorSet, read_anchors, remember_anchors
from tasks.judging.conclusions import (
    JUDGEMENTS,
    JUDGES,
    Before,
    add_to,
    conclude,
    find_before,
    judge_rows,
    judgement_rows,
)
from tasks.judging.judge import Material
from tasks.judging.night import Judgement, ReleaseScores, find_candidates, join_texts, judge_window
from tasks.judging.opening import open_judge, window_key
from tasks.judging.plan import JudgePlan
from tasks.release.model import Release
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.labels import read_lines
from tasks.scoring.people import AGREEMENTS, read_agreements
from tasks.settings import Settings
from tasks.stores.lake import Lake

_TEXTS = (
    "SELECT interaction_id, input_text, context_text, output_text FROM interactions JOIN wanted USING (interaction_id)"
)


@task(cache_policy=NO_CACHE)
def ask_judges(  # noqa: PLR0917 - whose answers of when, and who judges
    config: Settings,
    application: str,
    window: Window,
    releases: Sequence[Release],
    gathered: Sequence[Measured],
    plan: EvaluationSpec,
    gate: Gate,
) -> list[Measured]:
    """Have the judges of an application score a sample of the window; no text leaves this step but to the judge.

    Nobody is asked, and paid, about data that cannot be trusted.
    """
    found = list(gathered)
    for one in plan.judges if gate.success else ():
        if one.is_for(application):
            found = _ask(config, application, window, releases, found, one)
    return found


def make_anchors(config: Settings, plan: JudgePlan, items: Path) -> AnchorSet:
    """Ask a judge for the scores of answers and remember them in the file that its plan names.

    Raises:
        InputError: The plan names no file, the answers cannot be read, or one has no score.
    """
    if plan.anchors is None:
        raise InputError(f"judge {plan.judge.name} has no file of anchors; write anchors: FILE into evaluation.yaml")
    with open_judge(config, plan, "anchors", datetime.now(UTC)) as judge:
        found = remember_anchors(judge, read_lines(items, Anchor))
    path = config.state_dir / plan.anchors
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return found


def _ask(  # noqa: PLR0917 - as the step
    config: Settings,
    application: str,
    window: Window,
    releases: Sequence[Release],
    gathered: Sequence[Measured],
    plan: JudgePlan,
) -> list[Measured]:
    lake, name = Lake(config.lake_dir), plan.judge.name
    digests = [release.digest for release in releases]
    before = find_before(lake.read(JUDGES, {"judge": name}), plan.judge.digest, window.start)
    known = read_agreements(lake.read(AGREEMENTS, {"application": application}))
    judgement = _judge(config, application, window, dict(zip(digests, gathered, strict=True)), plan)
    keys = {"application": application, "window": window.label, "judge": name}
    whole = {**keys, "judge_digest": plan.judge.digest}
    lake.replace(JUDGEMENTS, keys, judgement_rows(whole, judgement))
    lake.replace(JUDGES, keys, judge_rows(whole, window.end, judgement))
    agreement = known.get((f"judge:{name}", plan.judge.digest))
    return [
        _with(measured, plan, judgement, digest, before, agreement)
        for digest, measured in zip(digests, gathered, strict=True)
    ]


def _with(  # noqa: PLR0917 - what a conclusion rests on
    measured: Measured,
    plan: JudgePlan,
    judgement: Judgement,
    digest: str,
    before: Before | None,
    agreement: str | None,
) -> Measured:
    checks, shown = conclude(plan, judgement, digest, before, agreement)
    mean = judgement.releases[digest].mean if digest in judgement.releases else None
    return replace(measured, evidence=add_to(measured.evidence, plan.judge.name, checks, shown, mean))


def _judge(
    config: Settings, application: str, window: Window, gathered: Mapping[str, Measured], plan: JudgePlan
) -> Judgement:
    """Ask the judge; what keeps it from being asked is an error of its check alone."""
    candidates = {digest: find_candidates(measured) for digest, measured in gathered.items()}

    def load(ids: Sequence[str]) -> dict[str, Material]:
        with Lake(config.lake_dir).query(window.start, window.end, application) as connection:
            connection.register("wanted", pa.table({"interaction_id": pa.array(ids, pa.string())}))
            return join_texts(connection.sql(_TEXTS).to_arrow_table())

    try:
        anchors = read_anchors(config.state_dir / plan.anchors) if plan.anchors else None
        with open_judge(config, plan, window_key(application, window.label), datetime.now(UTC)) as judge:
            return judge_window(plan, judge, anchors, candidates, load, window.label)
    except InputError as error:
        nothing = {
            digest: ReleaseScores(ids=(), scores=(), of=len(one.ids), mean=None, missing=1.0)
            for digest, one in candidates.items()
        }
        return Judgement(releases=nothing, problem=str(error))
