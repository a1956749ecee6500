"""Drift of meaning by a real server on loopback that gives embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from model_server import ModelServer
from pydantic import ValidationError

from tasks.drift.embeddings import EmbeddingSpec, hold_meanings
from tasks.drift.sample import Sample
from tasks.drift.wording import Old
from tasks.monitors.verdict import Outcome

LEVEL = 0.001
KEY = {"EMBED_KEY": "k3y"}


def sample_of(name: str, n: int = 100) -> Sample:
    rows = pa.table(
        {
            "who": [f"{name}{at}" for at in range(n)],
            "is_known": [True] * n,
            "interaction_id": [f"{name}-{at}" for at in range(n)],
            "input_text": [f"{name} question {at}" for at in range(n)],
            "output_text": pa.array([None] * n, pa.string()),
        }
    )
    return Sample(rows=rows, calls=n)


def spec_of(server: ModelServer, **more: Any) -> EmbeddingSpec:
    return EmbeddingSpec(endpoint={"url": server.url, "model": "e", "key_env": "EMBED_KEY"}, batch=25, **more)


def embed(_path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return vectors of noise; what says ``moved`` lies elsewhere."""
    source = np.random.default_rng(len(body["input"][0]))
    vectors = source.normal(size=(len(body["input"]), 8))
    vectors[:, 2] += [4.0 * text.startswith("moved") for text in body["input"]]
    return {"data": [{"index": at, "embedding": list(vector)} for at, vector in enumerate(vectors)]}


def hold(server: ModelServer, new: Sample, *, environment: dict[str, str] = KEY, **more: Any) -> Any:
    old = Old(sample=sample_of("old"), is_named=True)
    return hold_meanings(new, old, spec_of(server, **more), environment, lambda: 0.0, LEVEL)


def test_a_new_meaning_fails_and_the_same_passes_within_the_budget(model_server: ModelServer) -> None:
    model_server.reply = embed
    (moved,) = hold(model_server, sample_of("moved")).checks
    assert (moved.monitor, moved.outcome) == ("drift:question meaning", Outcome.FAIL)
    (same,) = hold(model_server, sample_of("same")).checks
    assert same.outcome is not Outcome.FAIL
    assert set(model_server.keys) == {"Bearer k3y"}
    model_server.asked.clear()
    hold(model_server, sample_of("same"), texts=200)
    assert sum(len(body["input"]) for body in model_server.asked) == 100, "a quarter of the budget a side and column"


def test_what_the_endpoint_does_not_give_is_missing_and_never_a_pass(model_server: ModelServer) -> None:
    model_server.reply = lambda _path, _body: (500, {"error": "secret question 1"})
    (refused,) = hold(model_server, sample_of("same")).checks
    assert refused.outcome is Outcome.ERROR
    assert refused.statement.startswith("drift: question meaning could not be compared: ")
    assert refused.statement.endswith("0 of 100 texts have an embedding: the endpoint answered 500 (n=0)")
    (keyless,) = hold(model_server, sample_of("same"), environment={}).checks
    assert keyless.outcome is Outcome.ERROR
    assert "EMBED_KEY is not set" in keyless.statement


def test_no_request_begins_after_its_time(model_server: ModelServer) -> None:
    model_server.reply = embed
    ticks = iter(range(1000))
    old = Old(sample=sample_of("old"), is_named=True)
    spec = spec_of(model_server, total_s=3)
    (late,) = hold_meanings(sample_of("same"), old, spec, KEY, lambda: float(next(ticks)), LEVEL).checks
    assert len(model_server.asked) == 2
    assert late.outcome is Outcome.ERROR
    assert "0 of 100 texts have an embedding: no time was left after 3 s" in late.statement


def test_a_side_without_texts_is_not_asked_about(model_server: ModelServer) -> None:
    old = Old(sample=sample_of("old", 0), is_named=True)
    assert hold_meanings(sample_of("same"), old, spec_of(model_server), KEY, lambda: 0.0, LEVEL).checks == ()
    assert model_server.asked == []
    with pytest.raises(ValidationError, match="texts"):
        spec_of(model_server, texts=10)
