"""Two signals that need no judge: how like a wanted answer an answer is, and what users said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.judging.client import Client, embed_texts
from tasks.scoring.pool import Limits, State, run_calls
from tasks.scoring.reading import Score

SIMILARITY_VALID: Final = (
    "Where a wanted answer exists. Letters, no meaning: a paraphrase scores low, and a negation or another number high."
)
FEEDBACK_VALID: Final = (
    "Where users gave feedback. Who gives it is no random part of all users: follow it over time, do not read it as a "
    "share of all answers."
)
_FEATURES: Final = 2**20
_DOWN: Final = re.compile(r"(thumbs?[ _-]?)?down|bad|negative|no|dislike|wrong|not[ _-]helpful", re.IGNORECASE)
Values = NDArray[np.float64]


def score_similarity(responses: Sequence[str | None], references: Sequence[str | None]) -> Values:
    """Return how alike each answer and its reference are, 0 to 1: cosine of their letters in runs of 2 to 4.

    Returns:
        NaN where either is missing; 0 where the answer is empty. A row has the same score alone and in a batch.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    if not len(responses):
        return np.empty(0)
    vectorizer = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), n_features=_FEATURES, alternate_sign=False, norm="l2"
    )
    given = vectorizer.transform([text or "" for text in responses])
    wanted = vectorizer.transform([text or "" for text in references])
    scores = np.clip(np.asarray(given.multiply(wanted).sum(axis=1), dtype=np.float64).ravel(), 0.0, 1.0)
    pairs = zip(responses, references, strict=True)
    scores[np.array([one is None or not (other or "").strip() for one, other in pairs])] = np.nan
    return scores


def score_meaning(
    client: Client, responses: Sequence[str | None], references: Sequence[str | None], limits: Limits, batch: int = 64
) -> list[Score]:
    """Return how alike each answer and its reference are by their embeddings: cosine, below 0 as 0.

    Args:
        client: A server with ``/embeddings``.
        responses: The answers; None is unknown.
        references: The wanted answers; None where there is none.
        limits: How calls are made.
        batch: Pairs a request.

    Returns:
        A score a pair; without both texts it is *not run*, and where the server fails an error.
    """
    name = "meaning"
    todo = [at for at, pair in enumerate(zip(responses, references, strict=True)) if pair[0] and pair[1]]
    parts = [todo[start : start + batch] for start in range(0, len(todo), batch)]
    scores = [Score(name=name, state=State.NOT_RUN, reason="there is no answer or no reference")] * len(responses)

    def call(number: int) -> list[float]:
        given, wanted = ([texts[at] or "" for at in parts[number]] for texts in (responses, references))
        return _cosines(embed_texts(client, [*given, *wanted]))

    for part, done in zip(parts, run_calls(call, len(parts), limits), strict=True):
        for place, at in enumerate(part):
            value = None if done.value is None else done.value[place]
            scores[at] = Score(name=name, state=done.state, value=value, reason=done.reason)
    return scores


def _cosines(embeddings: Sequence[Sequence[float]]) -> list[float]:
    """Return the cosine of each vector of the first half and its counterpart in the second, 0 to 1."""
    given, wanted = np.split(np.array(embeddings), 2)
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (given * wanted).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    return [float(value) for value in np.clip(cosines, 0.0, 1.0)]


def join_feedback(interaction_ids: Sequence[str], feedback: pa.Table, kind: str) -> list[Score]:
    """Return what users said of each answer.

    Args:
        interaction_ids: The answers.
        feedback: Rows of the feedback table with ``interaction_id``, ``kind`` and ``value``.
        kind: Which feedback, such as ``thumbs``.

    Returns:
        The mean of the values given to each answer, in their own unit; *not run* where nobody gave any.
    """
    sums: dict[str, tuple[float, int]] = {}
    rows = zip(*(feedback[name].to_pylist() for name in ("interaction_id", "kind", "value")), strict=True)
    for name, given, value in rows:
        if given == kind and value is not None:
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + value, count + 1)
    return [
        Score(name=f"feedback/{kind}", state=State.SCORED, value=sums[name][0] / sums[name][1])
        if name in sums
        else Score(name=f"feedback/{kind}", state=State.NOT_RUN, reason="nobody gave feedback")
        for name in interaction_ids
    ]


def find_complaints(interaction_ids: Sequence[str], feedback: pa.Table) -> NDArray[np.bool_]:
    """Return which answers had negative feedback: a value of 0 or less, or a word such as ``down`` or ``bad``."""
    rows = zip(*(feedback[name].to_pylist() for name in ("interaction_id", "value", "label")), strict=True)
    complained = {
        name
        for name, value, label in rows
        if (value is not None and value <= 0) or (label is not None and _DOWN.fullmatch(label.strip()))
    }
    return np.array([name in complained for name in interaction_ids], dtype=np.bool_)
