"""Toxicity by whom a team trusts: the embedded model, a moderation endpoint, or any scorer, with one result.

An endpoint that is down is an error and a missing score, never 0. What a moderation endpoint is sent is limited by the
number of answers: such endpoints say neither tokens nor a price. Which are sent is drawn at random; the others are not
judged, and never counted as clean.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from tasks.judging.client import Client, EndpointSpec
from tasks.release.model import Record
from tasks.scoring.cache import ScoreCache, cache_key
from tasks.scoring.pool import CallError, Limits, State, run_calls
from tasks.scoring.portions import WHOLE, Portion
from tasks.scoring.reading import Score, keep_value, read_value
from tasks.scoring.scorers import Row, ScorerSpec, load_scorer, run_scorer
from tasks.scoring.toxicity import LIMITS, TOXIC_PROBABILITY, score_profanity, score_toxicity

NAME: Final = "toxicity"
_BELOW: Final = float(np.nextafter(TOXIC_PROBABILITY, 0))
_NOT_SENT: Final = "not judged: not in the sample that the endpoint is sent"


class ToxicitySpec(Record):
    """Who judges toxicity.

    Attributes:
        source: ``embedded`` is the default, ``profanity`` its model without the word list.
        endpoint: A server with ``/moderations``, as OpenAI's; needed where it is the source.
        scorer: Any scorer whose scores are 0 (clean) to 1 (toxic); needed where it is the source.
        sample: Answers of a release and window that the endpoint is sent, shared out among its slices by what each
            holds and drawn at random; a rerun draws the same. Empty: all of them.
        batch_size: Texts a request of the endpoint.
    """

    source: Literal["embedded", "profanity", "endpoint", "scorer"] = "embedded"
    endpoint: EndpointSpec | None = None
    scorer: ScorerSpec | None = None
    sample: Annotated[int, Field(ge=1, le=10**9)] | None = None
    batch_size: int = Field(default=32, ge=1, le=1000)
    retries: int = Field(default=2, ge=0, le=10)
    workers: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _given(self) -> Self:
        if (self.endpoint is not None) != (self.source == "endpoint"):
            raise ValueError("endpoint is given where source is endpoint, and only there")
        if (self.scorer is not None) != (self.source == "scorer"):
            raise ValueError("scorer is given where source is scorer, and only there")
        if self.sample is not None and self.endpoint is None:
            raise ValueError("sample is given where source is endpoint, and only there; a scorer has its own")
        return self

    @property
    def limits(self) -> str:
        """What its scores do not see, for people."""
        if self.endpoint is not None:
            most = f" Of a release about {self.sample} answers, drawn at random." if self.sample else ""
            place = self.endpoint.url.split("://")[-1]
            return f"As {self.endpoint.model} of {place} judges; it may change at any time.{most}"
        return f"As the scorer {self.scorer.path} judges." if self.scorer is not None else LIMITS


def rate_toxicity(
    spec: ToxicitySpec,
    texts: Sequence[str | None],
    *,
    environment: Mapping[str, str],
    cache: ScoreCache | None = None,
    portion: Portion = WHOLE,
) -> list[Score]:
    """Judge the toxicity of texts.

    Args:
        spec: Who judges.
        texts: The answers; None is unknown.
        environment: Where the endpoint's key is looked up.
        cache: Where scores of endpoints and scorers are looked up and kept.
        portion: What the texts are of the release's window; the sample is shared out by it.

    Returns:
        A score a text, 0 to 1, where ``TOXIC_PROBABILITY`` and above is toxic; errors, missing texts and those that
        are not in the sample have none.
    """
    if spec.scorer is not None:
        rows = [None if text is None else Row(inputs={}, outputs=text) for text in texts]
        named = run_scorer(load_scorer(spec.scorer), rows, cache)
        return _bounded(next(iter(named.values()), []))
    if spec.endpoint is not None:
        with Client(spec.endpoint, environment) as client:
            return _moderate(spec, client, texts, cache, portion)
    values = (score_toxicity if spec.source == "embedded" else score_profanity)(texts)
    return [_missing() if text is None else _scored(value) for text, value in zip(texts, values.tolist(), strict=True)]


def _moderate(
    spec: ToxicitySpec, client: Client, texts: Sequence[str | None], cache: ScoreCache | None, portion: Portion
) -> list[Score]:
    sent = _draw(texts, portion.share_out(spec.sample, sum(text is not None for text in texts)))
    keys = [cache_key(f"moderation {client.spec.url} {client.spec.model}", text) for text in texts]
    known = cache.find(keys) if cache else {}
    scores = [
        _known(text, known.get(key)) if at in sent else _left_out(text)
        for at, (text, key) in enumerate(zip(texts, keys, strict=True))
    ]
    todo = [at for at, score in enumerate(scores) if score is None]
    batches = [todo[start : start + spec.batch_size] for start in range(0, len(todo), spec.batch_size)]

    def call(number: int) -> list[float]:
        batch = batches[number]
        values = _read(client.post("/moderations", {"input": [texts[at] for at in batch]}), len(batch))
        if cache:
            cache.keep((keys[at], keep_value([_scored(value)])) for at, value in zip(batch, values, strict=True))
        return values

    limits = Limits(workers=spec.workers, retries=spec.retries, timeout_s=client.spec.timeout_s * 1.5)
    for batch, done in zip(batches, run_calls(call, len(batches), limits), strict=True):
        for place, at in enumerate(batch):
            failed = Score(name=NAME, state=done.state, reason=done.reason)
            scores[at] = failed if done.value is None else _scored(done.value[place])
    return [score for score in scores if score is not None]


def _draw(texts: Sequence[str | None], size: int | None) -> frozenset[int]:
    """Return the places of the texts that may be sent: the same answers give the same, whatever their order.

    An answer that was given many times is drawn as often as chance has it, not wholly or not at all.
    """
    places = [at for at, text in enumerate(texts) if text is not None]
    if size is None or len(places) <= size:
        return frozenset(places)
    seen, order = Counter[str | None](), list[tuple[bytes, int]]()
    for at in places:
        seen[texts[at]] += 1
        content = f"{seen[texts[at]]} {texts[at]}".encode(errors="surrogatepass")
        order.append((hashlib.sha256(content).digest(), at))
    return frozenset(at for _, at in sorted(order)[:size])


def _left_out(text: str | None) -> Score:
    return _missing() if text is None else Score(name=NAME, state=State.NOT_RUN, reason=_NOT_SENT)


def _read(found: Mapping[str, Any], count: int) -> list[float]:
    results = found.get("results")
    if not isinstance(results, list) or len(results) != count:
        raise CallError(f"the endpoint did not give {count} results", retry=True)
    return [_probability(result) for result in results]


def _probability(result: Any) -> float:
    """Return the largest category's score, on the side of ``TOXIC_PROBABILITY`` that ``flagged`` says."""
    try:
        flagged, scores = result["flagged"], [float(value) for value in result["category_scores"].values()]
        value = max(scores)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise CallError("the endpoint's results have no flag or no scores") from None
    if not isinstance(flagged, bool) or not all(0 <= score <= 1 for score in scores):
        raise CallError("the endpoint's scores are not from 0 to 1")
    return max(value, TOXIC_PROBABILITY) if flagged else min(value, _BELOW)


def _bounded(scores: Sequence[Score]) -> list[Score]:
    """Return scores with those that are no probability made errors."""
    wrong = "its score is not from 0 (clean) to 1 (toxic)"
    return [
        Score(name=NAME, state=State.ERROR, reason=wrong)
        if score.state is State.SCORED and (score.value is None or not 0 <= score.value <= 1)
        else Score(name=NAME, state=score.state, value=score.value, reason=score.reason)
        for score in scores
    ]


def _known(text: str | None, kept: Mapping[str, Any] | None) -> Score | None:
    if text is None:
        return _missing()
    if not text.strip():
        return _scored(0.0)
    return read_value(kept)[0] if kept else None


def _scored(value: float) -> Score:
    return Score(name=NAME, state=State.SCORED, value=value)


def _missing() -> Score:
    return Score(name=NAME, state=State.NOT_RUN, reason="there is no text")
