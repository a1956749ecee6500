"""What a team adds to every evaluation (``evaluation.yaml``), and what its scorers said, as checks and measurements.

A scorer that raises, hangs, gives NaN or cannot be loaded has no score there; where that is so for most answers its
check is an error, also without a threshold. It never counts as a score, and never stops the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tasks.documents import read_document
from tasks.drift.embeddings import EmbeddingSpec
from tasks.drift.replay_set import ReplaySpec
from tasks.errors import InputError
from tasks.evaluation.evidence import Estimate
from tasks.judging.plan import JudgePlan
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Record, Share
from tasks.scoring.cache import ScoreCache
from tasks.scoring.checks import CHECKS
from tasks.scoring.moderation import ToxicitySpec
from tasks.scoring.pool import State
from tasks.scoring.portions import Portion, draw_ids
from tasks.scoring.reading import Score, hold_scores, summarise_scores
from tasks.scoring.scorers import Row, ScorerSpec, load_scorer, run_scorer
from tasks.scoring.signals import FeedbackSpec, ReferenceSpec

EVALUATION_FILE: Final = "evaluation.yaml"
"""In the state folder."""
Scores = Mapping[str, Sequence[Score]]


class EvaluationSpec(Record):
    """What a team adds to every evaluation.

    Attributes:
        checks: Highest share of failures a check may have, 0 to 1, by its name; the others are only shown.
        toxicity: Who judges toxicity.
        feedback: How feedback of users is read, and held against a limit.
        references: Wanted answers to known questions.
        scorers: Scored beside the built-in checks; a threshold makes a monitor of one.
        judges: Language models that judge a sample of the answers.
        embeddings: Who embeds texts, so that drift of their meaning is watched.
        replay: Fixed questions that are asked anew each night.
    """

    checks: dict[str, Share] = Field(default_factory=dict)
    toxicity: ToxicitySpec = ToxicitySpec()
    feedback: FeedbackSpec = FeedbackSpec()
    references: ReferenceSpec | None = None
    scorers: tuple[ScorerSpec, ...] = ()
    judges: tuple[JudgePlan, ...] = ()
    embeddings: EmbeddingSpec | None = None
    replay: ReplaySpec | None = None

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for name in self.checks:
            if name not in CHECKS:
                raise ValueError(f"checks: {name!r} is not allowed; allowed: {', '.join(CHECKS)}")
        for kind, names in (
            ("scorers", [spec.name for spec in self.scorers]),
            ("judges", [plan.judge.name for plan in self.judges]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{kind}: two are named {twice[0]!r}; give each its own name")
        self._check_replay()
        return self

    def _check_replay(self) -> None:
        known = [f"judge:{plan.judge.name}" for plan in self.judges] + [f"scorer:{one.name}" for one in self.scorers]
        named = () if self.replay is None or self.replay.scores == "all" else self.replay.scores
        for name in named:
            if name not in known:
                allowed = ", ".join(known) or "none; the file names no judge and no scorer"
                raise ValueError(f"replay.scores: {name!r} is not allowed; allowed: all, or of {allowed}")


def read_evaluation_file(folder: Path) -> EvaluationSpec:
    """Return what a team adds, from ``EVALUATION_FILE`` of a folder; nothing without the file.

    Raises:
        InputError: The file says something that is not allowed.
    """
    path = folder / EVALUATION_FILE
    return read_document(path, EvaluationSpec) if path.exists() else EvaluationSpec()


def find_judge(folder: Path, name: str) -> JudgePlan:
    """Return a judge of a folder's ``EVALUATION_FILE`` by its name.

    Raises:
        InputError: The file cannot be read, or names no such judge.
    """
    plans = {plan.judge.name: plan for plan in read_evaluation_file(folder).judges}
    if name not in plans:
        raise InputError.of(f"{folder / EVALUATION_FILE}: judge", name, plans or "none is named; write judges: [...]")
    return plans[name]


def score_answers(
    specs: Sequence[ScorerSpec], answered: pa.Table, cache: ScoreCache | None, portion: Portion
) -> Scores:
    """Run the scorers on a slice of a release's answers.

    Args:
        specs: The scorers.
        answered: ``interaction_id`` and the three texts of calls that were answered.
        cache: Where scores are looked up and kept.
        portion: What the slice is of the release's window; a sample is shared out by it.

    Returns:
        A score of every answer, by the scorer's name, and by ``name/feedback``.
    """
    ids, scores = answered["interaction_id"].to_pylist(), dict[str, list[Score]]()
    for spec in specs:
        try:
            scorer, size = load_scorer(spec), portion.share_out(spec.sample, len(ids))
            scores |= run_scorer(scorer, _rows(answered, draw_ids(ids, size)), cache)
        except InputError as error:
            scores[spec.name] = [Score(name=spec.name, state=State.ERROR, reason=str(error))] * len(ids)
    return scores


def _rows(answered: pa.Table, drawn: NDArray[np.bool_]) -> list[Row | None]:
    """Return the answers that are drawn as scorers get them; None for all others."""
    part, rows = answered.filter(pa.array(drawn)), list[Row | None]([None] * answered.num_rows)
    texts = zip(*(part[name].to_pylist() for name in ("input_text", "context_text", "output_text")), strict=True)
    for at, (asked, found, said) in zip(np.flatnonzero(drawn).tolist(), texts, strict=True):
        rows[at] = Row(inputs={"question": asked, "context": found}, outputs=said)
    return rows


def join_scores(parts: Sequence[Scores]) -> dict[str, list[Score]]:
    """Return the scores of slices put together."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [score for part in parts for score in part.get(name, ())] for name in names}


def check_scores(specs: Sequence[ScorerSpec], scores: Scores) -> tuple[Check, ...]:
    """Hold every scorer against its threshold; one without is only told where it has no scores."""
    found = []
    for spec in specs:
        summary = summarise_scores(spec.name, scores.get(spec.name, ()))
        check = hold_scores(summary, 0.0 if spec.threshold is None else spec.threshold, highest=spec.highest)
        if not summary.scored and (tried := summary.errors + summary.not_run):
            why = max(summary.reasons, key=lambda reason: summary.reasons[reason], default="it did not run")
            statement = f"{spec.name}: none of {tried} answers has a score: {why}"
            check = replace(check, outcome=Outcome.ERROR, statement=statement)
        if spec.threshold is not None or check.outcome is Outcome.ERROR:
            found.append(check)
    return tuple(found)


def mean_scores(scores: Scores) -> dict[str, Estimate]:
    """Return the mean of every score that has numbers, by its name."""
    means = {name: summarise_scores(name, given).mean for name, given in scores.items()}
    return {name: mean for name, mean in means.items() if mean is not None}
