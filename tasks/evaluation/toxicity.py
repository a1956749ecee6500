"""Toxicity of answers with a linear model that carries its weights (alt-profanity-check): no network, no key.

It recognises profanity and open insults in English. Implicit hate, threats without swear words, sexual content and
every other language are invisible to it, and quoted or reclaimed words are false alarms. A probability is what the
model says, not a calibrated frequency. Where that is not enough, a moderation endpoint takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

TOXIC_PROBABILITY: Final = 0.5
"""From this probability on, an answer counts as toxic."""


def score_toxicity(texts: Sequence[str | None]) -> NDArray[np.float64]:
    """Judge a batch of texts.

    Args:
        texts: The answers; None is unknown. One call for all of them: one by one is a thousand times slower.

    Returns:
        The probability of being toxic a text, 0 to 1; NaN where there is no text. An empty answer is not toxic.
    """
    scores = np.full(len(texts), np.nan)
    present = [at for at, text in enumerate(texts) if text is not None]
    if present:
        scores[present] = _predict([text for text in texts if text is not None])
    return scores


def count_toxic(scores: NDArray[np.float64]) -> int:
    """Return how many of the scores are toxic; NaN is not counted."""
    return int(np.count_nonzero(scores >= TOXIC_PROBABILITY))


def _predict(texts: Sequence[str]) -> NDArray[np.float64]:
    from profanity_check import predict_prob

    written = np.array([bool(text.strip()) for text in texts])
    return np.where(written, np.asarray(predict_prob(list(texts)), dtype=np.float64), 0.0)
