from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.judging.client import EndpointSpec
from tasks.scoring.cache import ScoreCache
from tasks.scoring.moderation import ToxicitySpec, rate_toxicity
from tasks.scoring.pool import State
from tasks.scoring.portions import Portion
from tasks.scoring.reading import values_of
from tasks.scoring.signals import FeedbackSpec, rate_feedback, score_similarity
from tasks.scoring.toxicity import LIMITS, count_toxic, score_toxicity

TEXTS = ["you stupid idiot", "hello", None, " "]


def moderate(_: str, body: dict[str, Any]) -> dict[str, Any]:
    flags = ["idiot" in text for text in body["input"]]
    return {"results": [{"flagged": flag, "category_scores": {"hate": 0.02, "harassment": 0.4}} for flag in flags]}


@pytest.fixture
def endpoint(model_server: Any) -> ToxicitySpec:
    model_server.reply = moderate
    where = EndpointSpec(url=model_server.url, model="moderation", timeout_s=1)
    return ToxicitySpec(source="endpoint", endpoint=where, batch_size=2, retries=0)


def test_the_embedded_model_is_the_default_and_says_its_limits() -> None:
    found = rate_toxicity(ToxicitySpec(), TEXTS, environment={})
    assert values_of(found).tolist()[:2] == score_toxicity(TEXTS[:2]).tolist()
    assert [one.state for one in found] == [State.SCORED, State.SCORED, State.NOT_RUN, State.SCORED]
    assert ToxicitySpec().limits == LIMITS
    plain = rate_toxicity(ToxicitySpec(source="profanity"), TEXTS, environment={})
    assert count_toxic(values_of(plain)) == count_toxic(values_of(found)) == 1


def test_an_endpoint_takes_its_place_and_its_flag_decides(endpoint: ToxicitySpec, model_server: Any) -> None:
    found = rate_toxicity(endpoint, TEXTS, environment={})
    assert [one.value for one in found] == [0.5, 0.4, None, 0.0]
    assert count_toxic(values_of(found)) == 1
    assert [body["input"] for body in model_server.asked] == [["you stupid idiot", "hello"]]
    assert "moderation of 127.0.0.1" in endpoint.limits


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((500, {}), "the endpoint answered 500"),
        ({"results": []}, "the endpoint did not give 2 results"),
        ({"results": [{"flagged": True}, {}]}, "the endpoint's results have no flag or no scores"),
        (
            {"results": [{"flagged": False, "category_scores": {"a": float("nan")}}] * 2},
            "the endpoint's scores are not from 0 to 1",
        ),
        ({"results": [{"flagged": 1, "category_scores": {"a": 0.5}}] * 2}, "the endpoint's scores are not from 0 to 1"),
    ],
)
def test_an_endpoint_that_fails_is_an_error_and_never_clean(
    endpoint: ToxicitySpec, model_server: Any, reply: Any, reason: str
) -> None:
    model_server.reply = lambda _, __: reply
    found = rate_toxicity(endpoint, TEXTS, environment={})
    assert [(one.state, one.value, one.reason) for one in found[:2]] == [(State.ERROR, None, reason)] * 2
    assert np.isnan(values_of(found)[:3]).all()


def test_an_endpoint_that_hangs_is_an_error(endpoint: ToxicitySpec, model_server: Any) -> None:
    def slow(path: str, body: dict[str, Any]) -> Any:
        time.sleep(0.4)
        return moderate(path, body)

    model_server.reply = slow
    where = EndpointSpec(url=model_server.url, model="moderation", timeout_s=0.1)
    found = rate_toxicity(endpoint.model_copy(update={"endpoint": where}), TEXTS[:1], environment={})
    assert found[0].reason == "the endpoint took longer than 0.1 s"


def test_of_many_answers_a_sample_is_sent_and_the_others_are_not_judged(
    endpoint: ToxicitySpec, model_server: Any, tmp_path: Path
) -> None:
    texts = [f"hello {at}" for at in range(60)] + ["no"] * 60 + [None, " "]
    few = endpoint.model_copy(update={"sample": 30, "batch_size": 10})
    with ScoreCache(tmp_path / "scores.db") as cache:
        found = rate_toxicity(few, texts, environment={}, cache=cache)
        sent = [text for body in model_server.asked for text in body["input"]]
        assert len(sent) <= 30, "a blank answer is drawn as well, and costs nothing"
        scored = [one.state is State.SCORED for one in found]
        assert sum(scored) == 30
        assert 5 < sum(scored[60:120]) < 25, "an answer given sixty times is drawn about as often as the others"
        left = {(one.state, one.value, one.reason) for one, known in zip(found, scored, strict=True) if not known}
        why = "not judged: not in the sample that the endpoint is sent"
        assert left == {(State.NOT_RUN, None, why), (State.NOT_RUN, None, "there is no text")}
        assert int(np.isnan(values_of(found)).sum()) == len(texts) - 30, "missing, and never clean"
        assert rate_toxicity(few, texts, environment={}, cache=cache) == found
        back = rate_toxicity(few, texts[::-1], environment={}, cache=cache)
        assert sum(body["input"] == [] for body in model_server.asked) == 0
        assert sum(len(body["input"]) for body in model_server.asked) == len(sent), "a rerun sends nothing again"
        assert sorted(map(str, back)) == sorted(map(str, found))
        part = rate_toxicity(few, texts[:60], environment={}, cache=cache, portion=Portion(180))
    assert sum(one.state is State.SCORED for one in part) == 10, "a third of the sample for a third of the answers"
    assert few.limits.endswith("it may change at any time. Of a release about 30 answers, drawn at random.")
    with pytest.raises(ValidationError, match="sample is given where source is endpoint"):
        ToxicitySpec(sample=5)


def test_a_text_is_sent_once(endpoint: ToxicitySpec, model_server: Any, tmp_path: Path) -> None:
    with ScoreCache(tmp_path / "scores.db") as cache:
        first = rate_toxicity(endpoint, TEXTS, environment={}, cache=cache)
        assert rate_toxicity(endpoint, TEXTS, environment={}, cache=cache) == first
    assert len(model_server.asked) == 1


def test_any_scorer_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tox_scorers.py").write_text(
        "def rude(outputs):\n    return {'idiot': 0.9, 'odd': 7}.get(outputs.split()[-1], 0.1)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = ToxicitySpec.model_validate({"source": "scorer", "scorer": {"name": "rude", "path": "tox_scorers:rude"}})
    found = rate_toxicity(spec, ["you idiot", "hello", None, "odd"], environment={})
    assert [one.value for one in found] == [0.9, 0.1, None, None]
    assert found[3].reason == "its score is not from 0 (clean) to 1 (toxic)"
    assert spec.limits == "As the scorer tox_scorers:rude judges."
    del sys.modules["tox_scorers"]


@pytest.mark.parametrize(
    "fields", [{"source": "endpoint"}, {"source": "scorer"}, {"endpoint": {"url": "http://a/v1", "model": "m"}}]
)
def test_a_source_comes_with_what_it_needs(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is given where source is"):
        ToxicitySpec.model_validate(fields)


class TestSimilarity:
    def test_letters_are_compared(self) -> None:
        found = score_similarity(["Delhi", "In Delhi", "Paris", "", None, "Delhi"], ["Delhi"] * 5 + [None])
        assert found[0] == pytest.approx(1)
        assert found[0] > found[1] > 0.5 > found[2]
        assert found[3] == 0
        assert np.isnan(found[4:]).all()
        assert len(score_similarity([], [])) == 0

    def test_a_row_scores_the_same_alone_and_in_a_batch(self) -> None:
        alone = [float(score_similarity([text], ["New Delhi"])[0]) for text in ("Delhi", "Mumbai")]
        assert score_similarity(["Delhi", "Mumbai"], ["New Delhi"] * 2).tolist() == alone


FEEDBACK = pa.table(
    {
        "interaction_id": ["a", "a", "b", "c", "d"],
        "kind": ["thumbs", "thumbs", "thumbs", "stars", "thumbs"],
        "value": [1.0, 0.0, 0.0, 5.0, None],
        "label": [None, None, None, None, "thumbs_down"],
    }
)


def test_feedback_is_read_and_silence_is_no_judgement() -> None:
    ids = ["a", "b", "c", "d", "e"]
    found = rate_feedback(ids, FEEDBACK, FeedbackSpec())
    assert found[:4].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert np.isnan(found[4])
    only = rate_feedback(ids, FEEDBACK, FeedbackSpec(kind="stars", negative_at_most=4))
    assert np.isnan(only[[0, 1, 3, 4]]).all()
    assert rate_feedback(["c"], FEEDBACK, FeedbackSpec(kind="stars", negative_at_most=5)).tolist() == [1.0]


def test_a_word_that_says_neither_up_nor_down_is_no_rating() -> None:
    words = pa.table(
        {"interaction_id": ["a", "b"], "kind": ["k"] * 2, "value": [None, None], "label": ["blue", "Good"]}
    )
    found = rate_feedback(["a", "b"], words.cast(FEEDBACK.schema), FeedbackSpec())
    assert np.isnan(found[0])
    assert found[1] == 0.0
