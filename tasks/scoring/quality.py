"""The quality judge ``support-1``: is the answer supported by what was retrieved, and is it to the question.

``quality = support * (FLOOR + (1 - FLOOR) * relevance)``, each between 0 and 1, judged row by row: a row gets
the same score alone, in a batch or in a shard, so nothing (no idf, no vocabulary) is learnt from the batch.

- *support* is the weighted share of the answer's words that the context holds; function words weigh a third.
- *relevance* is the share of the question's character trigrams that context and answer hold, stretched from
  ``RELEVANCE_NONE`` to ``RELEVANCE_FULL``. Trigrams survive typing errors.
- An empty answer, a refusal, an answer caught in a loop and an echo of the question score 0.

It is valid for question answering over retrieved text in languages that put spaces between words. It is a
copy-support score: it cannot see a negation, a wrong phrase taken from the right context, or reasoning.
It is not valid for chat (turns share few words with the context, so relevance punishes them), for abstractive
summaries, or without a context. Yes-or-no answers have no words to look up: their score is missing, never 0.
Recalibrate it against people's labels before relying on it elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

JUDGE_VERSION: Final = "support-1"
FLOOR: Final = 0.2
"""What is left of the score of an answer that is supported but has nothing to do with the question."""
RELEVANCE_NONE: Final = 0.2
RELEVANCE_FULL: Final = 0.4
"""Shares of a question's trigrams found: where nothing is judged to be on topic, and where everything is."""

_FEATURES: Final = 2**20
_FUNCTION_WEIGHT: Final = 0.35
_WORD: Final = re.compile(r"\w+")
_UNSEGMENTED: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_REFUSAL: Final = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry|as an ai\b|i (do not|don'?t) (know|have (enough|any|the|that|access))"
    r"|i (cannot|can'?t|could not|couldn'?t|am unable|was unable|am not able)\b|i'?m (unable|not able)\b"
    r"|(the|this) (context|text|passage|document)s? (does not|doesn'?t|do not|don'?t) "
    r"|(there is|there'?s) no (information|answer|mention)|no answer\b|unknown\W*$)"
)
_FUNCTION_TEXT: Final = """
a an the this that these those it its he him his she her hers they them their theirs we us our you your i
me my is am are was were be been being do does did has have had having will would shall should can could
may might must and or but nor so if then than as at by for from in into of on onto to with without about
between during after before over under up down out off not no yes true false both either neither also too
very just only there here what which who whom whose when where why how all any each some such s t d ll re
ve m
"""
_FUNCTION_WORDS: Final = frozenset(_FUNCTION_TEXT.split())
_SUFFIXES: Final = ("ing", "ies", "ed", "es", "s")
_STEM_LENGTH: Final = 3
_LOOP_WORDS: Final = 20
_LOOP_DISTINCT: Final = 0.35

Scores = NDArray[np.float64]


def evaluate_quality(question: str | None, response: str | None, context: str | None) -> float | None:
    """Judge one answer.

    Returns:
        The quality from 0 to 1, or None where it could not be scored. The same as ``score_quality`` gives.
    """
    score = float(score_quality([question], [response], [context])[0])
    return None if np.isnan(score) else score


def score_quality(
    questions: Sequence[str | None], responses: Sequence[str | None], contexts: Sequence[str | None]
) -> Scores:
    """Judge a batch of answers, row by row.

    Args:
        questions: What was asked; None is unknown.
        responses: What was answered; None is unknown, an empty text is an empty answer.
        contexts: What was retrieved for the question; None or empty is nothing to judge by.

    Returns:
        A quality from 0 to 1 a row; NaN where it could not be scored.
    """
    if not len(responses):
        return np.empty(0)
    support = score_support(responses, contexts)
    relevance = score_relevance(questions, responses, contexts)
    quality = np.asarray(support * (FLOOR + (1 - FLOOR) * relevance), dtype=np.float64)
    pairs = zip(questions, responses, strict=True)
    quality[np.array([_failed(question, response) for question, response in pairs], dtype=np.bool_)] = 0.0
    return quality


def score_support(responses: Sequence[str | None], contexts: Sequence[str | None]) -> Scores:
    """Return the weighted share of each answer's words that its context holds, 0 to 1.

    Returns:
        NaN where answer or context is missing, where the answer has no word to look up (yes, no), and where
        its script does not separate words.
    """
    answer, weights = _words(responses), _weights()
    total = answer @ weights
    support = np.asarray((answer.multiply(_words(contexts)) @ weights) / np.where(total > 0, total, 1.0))
    wordless = (answer @ (weights >= 1)) == 0
    support[wordless | _unreadable(responses, contexts)] = np.nan
    return support


def score_relevance(
    questions: Sequence[str | None], responses: Sequence[str | None], contexts: Sequence[str | None]
) -> Scores:
    """Return how much of each question context and answer speak of, 0 to 1; NaN where it is unknown."""
    question = _trigrams(questions)
    pairs = zip(responses, contexts, strict=True)
    material = [f"{response or ''} {context or ''}" for response, context in pairs]
    asked = np.asarray(question.sum(axis=1), dtype=np.float64).ravel()
    found = np.asarray(question.multiply(_trigrams(material)).sum(axis=1), dtype=np.float64).ravel()
    share = found / np.where(asked > 0, asked, np.nan)
    return np.clip((share - RELEVANCE_NONE) / (RELEVANCE_FULL - RELEVANCE_NONE), 0.0, 1.0)


def is_refusal(response: str) -> bool:
    """Return whether an answer begins by declining: sorry, cannot, does not know; English only."""
    return bool(_REFUSAL.match(_spoken(response)))


def _spoken(response: str) -> str:
    return response.strip().lower().replace("\u2019", "'")


def _failed(question: str | None, response: str | None) -> bool:
    if response is None:
        return False
    text = _spoken(response)
    if not text or is_refusal(response):
        return True
    words = _WORD.findall(text)
    if len(words) >= _LOOP_WORDS:
        trios = set(zip(words, words[1:], words[2:], strict=False))
        if len(trios) < _LOOP_DISTINCT * (len(words) - 2):
            return True
    return question is not None and len(words) > 1 and words == _WORD.findall(question.lower())


def _unreadable(responses: Sequence[str | None], contexts: Sequence[str | None]) -> NDArray[np.bool_]:
    rows = zip(responses, contexts, strict=True)
    return np.array([not a or not (c or "").strip() or bool(_UNSEGMENTED.search(a)) for a, c in rows], dtype=np.bool_)


def _plain(text: str) -> str:
    lowered = text.lower()
    if lowered.isascii():
        return lowered
    return "".join(c for c in unicodedata.normalize("NFKD", lowered) if not unicodedata.combining(c))


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _STEM_LENGTH:
            return word[: -len(suffix)]
    return word


def _split_words(text: str) -> list[str]:
    return [word if word in _FUNCTION_WORDS else _stem(word) for word in _WORD.findall(_plain(text))]


def _split_trigrams(text: str) -> list[str]:
    padded = (f" {word} " for word in _WORD.findall(_plain(text)) if word not in _FUNCTION_WORDS)
    return [word[at : at + 3] for word in padded for at in range(len(word) - 2)]


def _words(texts: Sequence[str | None]) -> csr_matrix:
    return _hashed(_split_words, texts)


def _trigrams(texts: Sequence[str | None]) -> csr_matrix:
    return _hashed(_split_trigrams, texts)


def _hashed(analyzer: Any, texts: Sequence[str | None]) -> csr_matrix:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        analyzer=analyzer, n_features=_FEATURES, alternate_sign=False, norm=None, binary=True
    )
    return vectorizer.transform([text or "" for text in texts])


@cache
def _weights() -> Scores:
    weights = np.ones(_FEATURES)
    weights[_words([" ".join(sorted(_FUNCTION_WORDS))]).indices] = _FUNCTION_WEIGHT
    return weights
