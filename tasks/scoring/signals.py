"""Two signals that need no judge: how like a wanted answer an answer is, and what users said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from tasks.judging.plan import FILE_PATTERN
from tasks.release.model import Name, Record, Share

SIMILARITY_VALID: Final = (
    "Where a wanted answer exists. Letters, no meaning: a paraphrase scores low, and a negation or another number high."
)
FEEDBACK_VALID: Final = (
    "Where users gave feedback. Who gives it is no random part of all users: follow it over time, do not read it as a "
    "share of all answers."
)
_FEATURES: Final = 2**20
_DOWN: Final = re.compile(r"(thumbs?[ _-]?)?down|bad|negative|no|dislike|wrong|not[ _-]helpful", re.IGNORECASE)
_UP: Final = re.compile(r"(thumbs?[ _-]?)?up|good|positive|yes|like|right|helpful", re.IGNORECASE)
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


class FeedbackSpec(Record):
    """How feedback of users is read.

    Attributes:
        kind: Which feedback, such as ``thumbs``; None is any that says up or down.
        negative_at_most: Values up to this one are negative: 0 for thumbs, 2 for five stars.
        threshold: Highest share of negative among rated answers, 0 to 1; None is only shown.
    """

    kind: Name | None = None
    negative_at_most: float = Field(default=0.0, allow_inf_nan=False)
    threshold: Share | None = None


class ReferenceSpec(Record):
    """Wanted answers to known questions.

    Attributes:
        file: JSON lines of ``question`` and ``reference``, below the state folder.
        threshold: Lowest mean similarity, 0 to 1; None is only shown.
    """

    file: str = Field(pattern=FILE_PATTERN, max_length=200)
    threshold: Share | None = None


def rate_feedback(interaction_ids: Sequence[str], feedback: pa.Table, spec: FeedbackSpec) -> Values:
    """Return what users said of each answer.

    Args:
        interaction_ids: The answers.
        feedback: Rows of the feedback table with ``interaction_id``, ``kind``, ``value`` and ``label``.
        spec: How they are read; a word such as ``down`` or ``good`` counts where there is no value.

    Returns:
        1 where anybody was not content, 0 where all were, NaN where nobody said so.
    """
    said: dict[str, float] = {}
    columns = ("interaction_id", "kind", "value", "label")
    for name, kind, value, label in zip(*(feedback[column].to_pylist() for column in columns), strict=True):
        if spec.kind is None or kind == spec.kind:
            found = _read_label(label) if value is None else float(value <= spec.negative_at_most)
            if found is not None:
                said[name] = max(found, said.get(name, 0.0))
    return np.array([said.get(name, np.nan) for name in interaction_ids], dtype=np.float64)


def _read_label(label: str | None) -> float | None:
    word = (label or "").strip()
    return 1.0 if _DOWN.fullmatch(word) else 0.0 if _UP.fullmatch(word) else None
