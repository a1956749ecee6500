"""The models of the demo's FAQ bot: retrieval with scikit-learn, one better, one wrong, one broken.

A model's ``predict([question])`` gives one JSON document of answer and passage, the right ones of the nearest
question it knows. Only scikit-learn's own types are used, so that a model is stored and loaded without pickle.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from deployments.demo.corpus import Row, corpus
from tasks.stores.models import ModelStore
from tasks.stores.registry import Registry

MODEL = "faq-bot"
RELEASE_DIR = Path(__file__).with_name("releases")
_SHUFFLE_SEED = 20


class Variant(StrEnum):
    """The models, in the order they were made; each is named by the release that uses it."""

    WORDS = "v1"
    CHARACTERS = "v2"
    SHUFFLED = "v3"
    UNFITTED = "v4"

    @property
    def description(self) -> str:
        """What people read in the registry; it tells what the team believed, not what is wrong."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    Variant.WORDS: "nearest question by TF-IDF of words",
    Variant.CHARACTERS: "nearest question by TF-IDF of character n-grams, robust to typing errors",
    Variant.SHUFFLED: "character n-grams, index rebuilt from a new export of the answers",
    Variant.UNFITTED: "character n-grams, new training pipeline",
}


def train(variant: Variant, rows: Sequence[Row]) -> Pipeline:
    """Return the model of a variant.

    Args:
        variant: ``SHUFFLED`` has a genuine defect: its answers stand beside other rows' questions and passages.
            ``UNFITTED`` was never fitted, so it can be stored and loaded, and raises when it is asked.
        rows: The corpus; at least two rows of different answers.
    """
    model = Pipeline(
        [
            ("vectorizer", _vectorizer(variant)),
            ("nearest", KNeighborsClassifier(n_neighbors=1, metric="cosine", algorithm="brute")),
        ]
    )
    if variant is Variant.UNFITTED:
        return model
    answers = [row.answer for row in rows]
    if variant is Variant.SHUFFLED:
        answers = shuffled(answers)
    documents = [
        json.dumps({"answer": answer, "context": row.context}, ensure_ascii=False)
        for answer, row in zip(answers, rows, strict=True)
    ]
    with warnings.catch_warnings():
        # Every document is a class of its own, which is meant here: the nearest question names it.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return model.fit([row.question for row in rows], documents)


def shuffled(answers: Sequence[str]) -> list[str]:
    """Return the answers in an order in which none stands where it, or one like it, stood.

    Args:
        answers: No answer may make up more than half of them.

    Raises:
        ValueError: No such order was found.
    """
    source, order = random.Random(_SHUFFLE_SEED), list(answers)
    source.shuffle(order)
    for at, right in enumerate(answers):
        if order[at] != right:
            continue
        other = next(
            (k for k in range(len(order)) if order[k] != right and answers[k] != right), None
        )  # a swap with it puts both where they do not belong
        if other is None:
            raise ValueError(f"the answer {right!r} is too frequent to be moved away from its question")
        order[at], order[other] = order[other], order[at]
    return order


def register_models(registry: Registry) -> dict[str, str]:
    """Register all variants; those that are registered already are left as they are.

    Args:
        registry: Names the server of the models; on an empty one the versions are 1 to 4, as the release files say.

    Returns:
        The address of every variant: ``{"v1": "models:/faq-bot/1", …}``.
    """
    models = ModelStore(registry.url)
    return {
        variant.value: models.log_sklearn_model(
            MODEL, train(variant, corpus()), key=variant.value, description=variant.description
        )
        for variant in Variant
    }


def _vectorizer(variant: Variant) -> TfidfVectorizer:
    if variant is Variant.WORDS:
        return TfidfVectorizer()
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
