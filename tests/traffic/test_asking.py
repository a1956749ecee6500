"""Asking as a probe: what comes back, and that an error is a machine's word and nothing of what was said."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tasks.traffic.asking import answers_as, ask
from tasks.traffic.driver import Message

MESSAGE = "key sk-123 is wrong for: What is my diagnosis?"


def answered(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response | Exception) -> Any:
    def post(url: str, **_: Any) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        answer.request = httpx.Request("POST", url)
        return answer

    monkeypatch.setattr(httpx, "post", post)
    return ask("http://release/v1/chat/completions", "What is my diagnosis?", 1.0, {})


def test_an_answer_says_who_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"choices": [{"message": {"content": "None."}}]}
    headers = {"X-Release": "a" * 64, "X-Prompt-Sha256": "b" * 64}
    found = answered(monkeypatch, httpx.Response(200, json=body, headers=headers))
    assert (found.status, found.text, found.error) == (200, "None.", "")
    assert (found.release_digest, found.prompt_sha256) == ("a" * 64, "b" * 64)
    assert found.latency_ms >= 0


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (
            httpx.Response(429, json={"error": {"message": MESSAGE, "type": "endpoint.rate_limit_error"}}),
            *(429, "endpoint.rate_limit_error"),
        ),
        (httpx.Response(500, json={"error": {"message": MESSAGE, "type": "NotFittedError"}}), 500, "NotFittedError"),
        (httpx.Response(500, content=rb'{"error": {"message": "x", "type": "a b\n\ud800c"}}'), 500, "a_b_c"),
        (httpx.Response(500, json={"error": {"message": MESSAGE, "type": "t" * 300}}), 500, "t" * 80),
        *(
            (httpx.Response(503, json=body), 503, "HTTP 503 without a chat completion")
            for body in (
                {"error": {"message": MESSAGE}},
                {"error": {"message": MESSAGE, "type": 7}},
                {"error": {"message": MESSAGE, "type": ""}},
                {"error": MESSAGE},
                [MESSAGE],
            )
        ),
        (httpx.Response(502, text=MESSAGE), 502, "HTTP 502 without a chat completion"),
        (httpx.Response(200, text=MESSAGE), 200, "HTTP 200 without a chat completion"),
        (
            httpx.Response(200, json={"choices": [{"message": {"content": None}}]}),
            *(200, "HTTP 200 without a chat completion"),
        ),
        (httpx.ConnectError(MESSAGE), 0, "ConnectError"),
        (httpx.ReadTimeout(MESSAGE), 0, "ReadTimeout"),
    ],
)
def test_an_error_is_a_machines_word(
    monkeypatch: pytest.MonkeyPatch, answer: httpx.Response | Exception, status: int, error: str
) -> None:
    found = answered(monkeypatch, answer)
    assert (found.status, found.error, found.text) == (status, error, "")
    assert "sk-123" not in repr(found)
    assert "diagnosis" not in repr(found)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, (7, 0)),
        ({"prompt_tokens": 7}, (7, None)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": "7", "completion_tokens": 1.5}, (None, None)),
        *(((odd, (None, None))) for odd in (None, [], "7", 7)),
    ],
)
def test_tokens_are_known_or_unknown_and_never_nothing(
    monkeypatch: pytest.MonkeyPatch, usage: Any, tokens: tuple[int | None, int | None]
) -> None:
    body = {"choices": [{"message": {"content": "None."}}], "usage": usage}
    found = answered(monkeypatch, httpx.Response(200, json=body))
    assert (found.input_tokens, found.output_tokens) == tokens
    bare = answered(monkeypatch, httpx.Response(200, json={"choices": [{"message": {"content": "None."}}]}))
    assert (bare.input_tokens, bare.output_tokens) == (None, None)


@pytest.mark.parametrize(
    ("told", "context"),
    [({"context": "Bob lives here."}, "Bob lives here."), ({"context": ""}, ""), ({"context": 7}, None), ({}, None)],
)
def test_a_passage_is_known_or_unknown(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], context: str | None
) -> None:
    body = {"choices": [{"message": {"content": "None."}}], **told}
    assert answered(monkeypatch, httpx.Response(200, json=body)).context == context
    assert answered(monkeypatch, httpx.Response(500, json=body)).context is None
    assert answered(monkeypatch, httpx.Response(200, json=[])).context is None


def test_a_question_is_one_message_and_a_conversation_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def post(url: str, *, json: Any, **_: Any) -> httpx.Response:
        sent.append(json["messages"])
        return httpx.Response(500, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx, "post", post)
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    ask("http://release/", "Hello?", 1.0, {})
    ask("http://release/", tuple(Message.model_validate(turn) for turn in turns), 1.0, {})
    assert sent == [[{"role": "user", "content": "Hello?"}], turns]


@pytest.mark.parametrize(
    ("url", "loads"), [("http://127.0.0.1:1/", False), ("https://release/", True), ("HTTP://release/", True)]
)
def test_certificates_are_loaded_only_where_one_is_checked(
    monkeypatch: pytest.MonkeyPatch, url: str, loads: bool
) -> None:
    seen: list[Any] = []

    def refuse(_: str, *, verify: bool, **__: Any) -> httpx.Response:
        seen.append(verify)
        raise httpx.ConnectError("")

    monkeypatch.setattr(httpx, "post", refuse)
    monkeypatch.setattr(httpx, "get", refuse)
    ask(url, "Hello?", 1.0, {})
    answers_as(url, "a")
    assert seen == [loads, loads]


@pytest.mark.parametrize(
    ("body", "is_it"),
    [
        (b'{"digest": "aa"}', True),
        *((body, False) for body in (b'{"digest": "ab"}', b"{}", b"[]", b"null", b"\xff", b"[" * 9999, b"")),
    ],
)
def test_a_release_answers_as_itself_or_not_at_all(monkeypatch: pytest.MonkeyPatch, body: bytes, is_it: bool) -> None:
    def get(url: str, **_: Any) -> httpx.Response:
        assert url == "http://127.0.0.1:1/release"
        return httpx.Response(200, content=body, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    assert answers_as("http://127.0.0.1:1", "aa") is is_it
