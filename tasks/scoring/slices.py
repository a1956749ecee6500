"""What needs the texts of answers and is no built-in score: checks without a model, references, others' toxicity.

It becomes a few numbers beside each answer's quality, so that all later steps (rates, segments, the sample of judges)
need no text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue

from tasks.errors import InputError
from tasks.evaluation.summary import failed_calls, release_calls
from tasks.release.model import Release
from tasks.scoring.cache import ScoreCache
from tasks.scoring.check_rules import Rules, make_rules
from tasks.scoring.checks import CHECKS, Answers, Found, run_checks
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.labels import read_lines
from tasks.scoring.moderation import ToxicitySpec, rate_toxicity
from tasks.scoring.pool import State
from tasks.scoring.portions import WHOLE, Portion, draw_ids
from tasks.scoring.reading import values_of
from tasks.scoring.shares import CHECK_PREFIX
from tasks.scoring.signals import score_similarity

SIMILARITY: Final = "similarity"
TOXICITY_PROBLEM: Final = "toxicity_problem"
LOOKED_AT: Final = (
    *("interaction_id", "release_digest", "status", "error_type", "finish_reason", "language"),
    *("input_text", "context_text", "output_text"),
)
"""The columns of the interaction log that it takes."""
SLOW_CHECKS: Final = ("repetition", "language", "prompt_leak", "pii")
SLOW_SAMPLE: Final = 20_000
"""So many answers of a release and window go through the slow checks, drawn at random; the others are unknown."""
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What scoring a slice needs beside the calls.

    Attributes:
        environment: Where keys of endpoints are looked up.
        cache: Where scores are looked up and kept; None keeps none.
        references: Wanted answers, by question.
        answered: Answered calls of each release in the whole window, by digest; unknown: the slice is all there is.
        seed: What tells the slice from others of the window.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cache: ScoreCache | None = None
    references: Mapping[str, str] = field(default_factory=dict, repr=False)
    answered: Mapping[str, int] = field(default_factory=dict)
    seed: str = ""

    def portion(self, digest: str) -> Portion:
        """Return what the slice is of a release's window."""
        return Portion(self.answered.get(digest), f"{self.seed} {digest}")


@contextmanager
def open_around(state_dir: Path, plan: EvaluationSpec, answered: Mapping[str, int], seed: str) -> Iterator[Around]:
    """Open what looking at a slice needs beside the calls: the cache and the references of a state folder.

    Args:
        state_dir: The state folder.
        plan: What a team adds.
        answered: Answered calls of each release in the whole window, by digest.
        seed: What tells the slice from others of the window.

    Raises:
        InputError: The references cannot be read.
    """
    references = read_references(state_dir / plan.references.file) if plan.references else {}
    with ScoreCache(state_dir.absolute() / "scores.sqlite") as cache:
        yield Around(environment=os.environ, cache=cache, references=references, answered=answered, seed=seed)


def look_at(plan: EvaluationSpec, rules: Rules, calls: pa.Table, around: Around, portion: Portion = WHOLE) -> pa.Table:
    """Say of each answered call of a release what needs its text and no model of ours.

    Args:
        plan: What a team adds to the built-in scores.
        rules: What the release declares of its answers.
        calls: Its calls in a slice of a window, with ``LOOKED_AT``.
        around: What it needs.
        portion: What the slice is of the release's window; samples are shared out by it.

    Returns:
        A row for each call that did not fail: ``interaction_id``, a column a check with a state of ``Found``,
        ``similarity``, and ``toxicity`` with ``toxicity_problem`` where others than the embedded judge of it.
    """
    mine = release_calls(calls)
    spoken = mine.filter(pc.invert(failed_calls(mine)))
    columns: dict[str, Any] = {"interaction_id": spoken["interaction_id"].combine_chunks()}
    for name, states in _check(spoken, rules, portion).items():
        columns[f"{CHECK_PREFIX}{name}"] = pa.array(states, pa.int8())
    columns[SIMILARITY] = _similarity(spoken, around.references)
    if plan.toxicity.source != "embedded":
        values, problems = _rate(plan.toxicity, spoken["output_text"].to_pylist(), around, portion)
        columns["toxicity"] = pa.array(values, pa.float64(), mask=np.isnan(values))
        columns[TOXICITY_PROBLEM] = pa.array(problems, pa.string())
    return pa.table(columns)


def rules_of(release: Release) -> tuple[Rules, str]:
    """Return what a release declares of its answers, and what cannot be applied of it; empty: all can."""
    return read_rules(release.prompt.text, release.spec.parameters)


def read_rules(prompt: str, parameters: Mapping[str, JsonValue]) -> tuple[Rules, str]:
    """Return what a prompt and parameters declare of answers, and what cannot be applied of it; empty: all can."""
    try:
        return make_rules(prompt, parameters), ""
    except InputError as error:
        return make_rules(prompt), str(error)


def read_references(path: Path) -> dict[str, str]:
    """Read wanted answers: JSON lines of ``question`` and ``reference``.

    Raises:
        InputError: It cannot be read; the line is named, and nothing of what stands in it.
    """
    return {row.question.strip(): row.reference for row in read_lines(path, Reference)}


class Reference(BaseModel):
    """A question and its wanted answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    question: str
    reference: str


def _rate(
    spec: ToxicitySpec, texts: Sequence[str | None], around: Around, portion: Portion
) -> tuple[Values, list[str | None]]:
    """Return the toxicity of texts, and why a text has none; a key that is not set is no reason to stop."""
    try:
        scores = rate_toxicity(spec, texts, environment=around.environment, cache=around.cache, portion=portion)
    except InputError as error:
        return np.full(len(texts), np.nan), [None if text is None else str(error) for text in texts]
    return values_of(scores), [score.reason if score.state is State.ERROR else None for score in scores]


def _check(spoken: pa.Table, rules: Rules, portion: Portion) -> dict[str, NDArray[np.int8]]:
    fast = [name for name in CHECKS if name not in SLOW_CHECKS]
    states = run_checks(Answers.of(spoken), rules, fast)
    chosen = draw_ids(spoken["interaction_id"].to_pylist(), portion.share_out(SLOW_SAMPLE, spoken.num_rows))
    part = run_checks(Answers.of(spoken.filter(pa.array(chosen))), rules, SLOW_CHECKS)
    for name in SLOW_CHECKS:
        states[name] = np.full(len(chosen), Found.UNKNOWN, dtype=np.int8)
        states[name][chosen] = part[name]
    return {name: states[name] for name in CHECKS}


def _similarity(spoken: pa.Table, references: Mapping[str, str]) -> pa.Array:
    wanted = [references.get((text or "").strip()) for text in spoken["input_text"].to_pylist()]
    found = np.full(len(wanted), np.nan)
    known = np.array([text is not None for text in wanted], dtype=np.bool_)
    if known.any():
        given = spoken.filter(pa.array(known))["output_text"].to_pylist()
        found[known] = score_similarity(given, [text for text in wanted if text is not None])
    return pa.array(found, pa.float64(), mask=np.isnan(found))
