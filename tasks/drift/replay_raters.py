"""The judges and scorers of a team, ready to score a replay set: pinned, within their budgets, and anew each night."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from tasks.drift.replay_scores import QUALITY, Rater, rate_quality
from tasks.errors import InputError
from tasks.evaluation.window import Window
from tasks.judging.judge import Material, judge_answers
from tasks.judging.opening import open_judge, window_key
from tasks.judging.plan import JudgePlan
from tasks.scoring.cache import ScoreCache
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.pool import State
from tasks.scoring.reading import Score
from tasks.scoring.scorers import Row, ScorerSpec, load_scorer, run_scorer
from tasks.settings import Settings

BUILT_IN: Final = Rater(name=QUALITY, identity="", rate=rate_quality)


def find_raters(config: Settings, application: str, window: Window, plan: EvaluationSpec, now: datetime) -> list[Rater]:
    """Return who scores the replay set of an application: the built-in quality first.

    Args:
        config: Where things are.
        application: Whose release is asked.
        window: Scores are kept for it, so that a run that is killed, or done again, pays once.
        plan: The judges and scorers of the team, and which of them score.
        now: UTC.
    """
    spec = plan.replay
    if spec is None:
        return []
    judges = [one for one in plan.judges if one.is_for(application) and spec.is_scored_by(f"judge:{one.judge.name}")]
    scorers = [one for one in plan.scorers if spec.is_scored_by(f"scorer:{one.name}")]
    return [
        BUILT_IN,
        *(_judge(config, application, window, one, now) for one in judges),
        *(_scorer(config, window, one) for one in scorers),
    ]


def _judge(config: Settings, application: str, window: Window, plan: JudgePlan, now: datetime) -> Rater:
    name, key = f"judge:{plan.judge.name}", window_key(application, window.label)

    def rate(materials: Sequence[Material]) -> dict[str, list[Score]]:
        try:
            with open_judge(config, plan, key, now, f"replay {window.label}") as judge:
                return {name: judge_answers(judge, materials)}
        except InputError as error:
            return _failed(name, error, len(materials))

    return Rater(name=name, identity=plan.judge.digest, rate=rate)


def _scorer(config: Settings, window: Window, spec: ScorerSpec) -> Rater:
    name = f"scorer:{spec.name}"
    try:
        scorer = load_scorer(spec)
    except InputError as error:
        reason = error
        identity = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        return Rater(name=name, identity=identity, rate=lambda materials: _failed(name, reason, len(materials)))
    tonight = hashlib.sha256(f"{scorer.identity} replay {window.label}".encode()).hexdigest()

    def rate(materials: Sequence[Material]) -> Mapping[str, Sequence[Score]]:
        with ScoreCache(config.state_dir.absolute() / "scores.sqlite") as cache:
            found = run_scorer(replace(scorer, identity=tonight), [_row(item) for item in materials], cache)
        return {f"scorer:{each}": scores for each, scores in found.items()}

    return Rater(name=name, identity=scorer.identity, rate=rate)


def _row(item: Material) -> Row:
    return Row(inputs={"question": item.question, "context": item.context}, outputs=item.response)


def _failed(name: str, error: InputError, count: int) -> dict[str, list[Score]]:
    return {name: [Score(name=name, state=State.ERROR, reason=str(error))] * count}
