from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tasks.serving.backends import RetrievalBackend, count_tokens, render
from tasks.serving.server import MAX_BODY_BYTES

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "Who is it?"}


@pytest.fixture
def served(serve, release_of, oracle):
    release = release_of("Answer: {{answer}}")
    return serve(RetrievalBackend(release, oracle()), release)


def test_an_answer_is_openai_shaped_and_logged(served):
    response = served.ask(headers={"X-Request-Id": "r-9", "X-Unit": "user-1", "X-Unit-Kind": "user", "X-Bucket": "5"})

    body = response.json()
    assert response.status_code == 200
    assert (body["object"], body["model"]) == ("chat.completion", "faq-bot")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Answer: It is Bob."}
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    (line,) = served.lines()
    assert (line.interaction_id, line.unit, line.bucket, line.status) == ("r-9", "user-1", 5, 200)
    assert (line.input_text, line.output_text) == ("Who is it?", "Answer: It is Bob.")
    assert (line.context_text, line.finish_reason, line.error_type) == ("Bob lives here.", "stop", None)
    assert (line.provider, line.model, line.input_tokens, line.output_tokens) == ("internal", "faq-bot", 4, 6)
    assert line.latency_ms is not None
    assert 0 < line.latency_ms < 10_000


@pytest.mark.parametrize("purpose", [None, "", "user", "smoker"])
def test_a_passage_is_told_to_probes_and_never_to_users(served, purpose: str | None):
    told = served.ask(headers={"X-Purpose": "smoke"}).json()
    assert told.pop("context") == "Bob lives here."
    asked = served.ask(headers={} if purpose is None else {"X-Purpose": purpose})
    assert asked.json().keys() == told.keys()
    assert "lives here" not in asked.text
    streamed = served.ask({"messages": [USER], "stream": True}, headers={"X-Purpose": "smoke"})
    assert "lives here" not in streamed.text
    assert len(served.lines()) == 1  # the user's; a probe is nobody's call


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_the_same_answer_in_pieces(served, events_of, usage: bool):
    response = served.ask({"messages": [USER], "stream": True, "stream_options": {"include_usage": usage}})

    chunks = events_of(response.content)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]]
    assert "".join(deltas) == "Answer: It is Bob."
    assert len(deltas) > 3
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if "usage" in chunk] == ([10] if usage else [])
    (line,) = served.lines()
    assert (line.output_text, line.status, line.finish_reason) == ("Answer: It is Bob.", 200, "stop")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/release", 200),
        ("GET", PATH, 405),
        ("GET", "/nowhere", 404),
        ("POST", PATH, 400),
    ],
)
def test_every_answer_says_which_release_gave_it(served, method: str, path: str, status: int):
    response = served.call(method, path)

    assert response.status_code == status
    assert response.headers["x-release"] == served.release.digest
    assert response.headers["x-release-version"] == "1"
    assert response.headers["x-prompt-sha256"] == served.release.prompt.sha256
    if status >= 400:
        assert response.json()["error"]["code"] == status


def test_the_release_is_described(served):
    release = served.release
    assert served.call("GET", "/release").json() == {
        "application": "faq",
        "model_id": "faq-bot",
        "version": "1",
        "registry_version": 3,
        "digest": release.digest,
        "prompt": {"name": "faq-answer", "version": 7, "sha256": release.prompt.sha256},
    }


def test_a_model_that_raises_is_an_answer_and_a_line(serve, release_of, oracle):
    served = serve(RetrievalBackend(release_of(), oracle(error=KeyError("a secret"))), release_of())

    for stream in (False, True):
        response = served.ask({"messages": [USER], "stream": stream})

        assert response.status_code == 500
        assert response.json()["error"]["type"] == "KeyError"
        assert "secret" not in response.text
        assert response.headers["x-release"] == served.release.digest
    assert [(line.status, line.error_type) for line in served.lines()] == [(500, "KeyError")] * 2
    assert {line.input_text for line in served.lines()} == {"Who is it?"}


def test_a_prediction_that_is_no_document_is_an_error(serve, release_of, oracle):
    model = oracle()
    model.predict = lambda questions: ["just text" for _ in questions]
    served = serve(RetrievalBackend(release_of(), model), release_of())

    assert served.ask().status_code == 500
    assert served.lines()[0].error_type == "ServingError"


def test_a_refused_request_is_logged_as_such(served):
    assert served.ask({"messages": []}).json()["error"]["param"] == "messages"
    assert [(line.status, line.error_type, line.input_text) for line in served.lines()] == [
        (400, "invalid_request_error", None)
    ]


def test_a_body_that_is_too_large_is_refused(served):
    response = served.ask({"messages": [{"role": "user", "content": "x" * MAX_BODY_BYTES}]})

    assert response.status_code == 413
    assert served.lines()[0].status == 413


def test_a_body_without_length_is_limited_too(served):
    async def parts():
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b"x" * 1024

    assert served.call("POST", PATH, content=parts()).status_code == 413


def test_probes_are_answered_and_not_logged(served):
    assert served.ask(headers={"X-Purpose": "smoke"}).status_code == 200
    assert served.lines() == []


def test_content_is_logged_only_if_wanted(serve, release_of, oracle):
    served = serve(RetrievalBackend(release_of(), oracle()), release_of(), log_content=False)

    served.ask()

    assert "Bob" not in served.lines()[0].model_dump_json()
    assert "Who" not in served.lines()[0].model_dump_json()


class Slow:
    """A model that says when it was asked and waits for leave to answer."""

    def __init__(self, model) -> None:
        self.was_asked = threading.Event()
        self.may_answer = threading.Event()
        self._model = model

    def predict(self, questions: list[str]) -> list[str]:
        self.was_asked.set()
        assert self.may_answer.wait(30)
        return list(self._model.predict(questions))


@pytest.fixture
def slow(serve, release_of, oracle):
    model = Slow(oracle())
    return model, serve(RetrievalBackend(release_of(), model), release_of())


def test_health_answers_while_the_model_works(slow, on_loopback):
    model, served = slow

    with on_loopback(served.app) as url, ThreadPoolExecutor() as pool:
        asking = pool.submit(httpx.post, f"{url}{PATH}", json={"messages": [USER]}, timeout=30)
        assert model.was_asked.wait(30)
        assert httpx.get(f"{url}/health", timeout=10).status_code == 200
        assert served.lines() == []
        model.may_answer.set()
        assert asking.result().status_code == 200

    assert [line.status for line in served.lines()] == [200]


def test_a_request_in_flight_is_answered_and_logged_when_the_server_stops(slow, on_loopback):
    model, served = slow

    with ThreadPoolExecutor() as pool:
        with on_loopback(served.app) as url:
            asking = pool.submit(httpx.post, f"{url}{PATH}", json={"messages": [USER]}, timeout=30)
            assert model.was_asked.wait(30)
            threading.Timer(0.3, model.may_answer.set).start()
        assert asking.result().status_code == 200

    assert [line.status for line in served.lines()] == [200]


@pytest.mark.parametrize(
    ("template", "text"),
    [("{{ answer }}", r"a\1{{b}}"), ("{{answer}} {{ answer }}", r"a\1{{b}} a\1{{b}}"), ("Be kind.", r"a\1{{b}}")],
)
def test_an_answer_is_put_into_the_prompt_as_it_is(template: str, text: str):
    assert render(template, r"a\1{{b}}") == text


def test_tokens_are_words_and_marks():
    assert [count_tokens(text) for text in ("", "  ", "two words", "Don't!", "naïve 漢字.")] == [0, 0, 2, 4, 3]


def test_an_answer_holds_any_text(serve, release_of, oracle, events_of):
    answer = "  Zoë said “\u2028 漢字” \\ \n twice "
    served = serve(RetrievalBackend(release_of(), oracle(answer)), release_of())

    plain = json.loads(served.ask().content)["choices"][0]["message"]["content"]
    chunks = events_of(served.ask({"messages": [USER], "stream": True}).content)

    assert plain == answer
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer
    assert [line.output_text for line in served.lines()] == [answer, answer]
