from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tasks.errors import InputError
from tasks.serving import upstream
from tasks.serving.upstream import UpstreamBackend, endpoint_key

USER = {"role": "user", "content": "Who is it?"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
ANSWER = {
    "id": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Bob."}, "finish_reason": "length"}],
    "usage": USAGE,
    "their_own": "field",
}


def chunk(text: str | None = None, *, finish: str | None = None, usage: object = None) -> bytes:
    choices = [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]
    document = {"choices": choices if usage is None else [], "usage": usage}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


STREAM = [chunk("Bo"), chunk("b \u2028 ë."), chunk(finish="stop"), chunk(usage=USAGE), b"data: [DONE]\n\n"]
PARAMETERS = {"temperature": 0.1, "max_tokens": 50, "stop": ["###"]}


class Remote:
    """Makes servers whose endpoint gives one answer; what was sent to it stands in ``sent``."""

    def __init__(self, serve, release_of) -> None:
        self._serve = serve
        self._release_of = release_of
        self.sent: list[httpx.Request] = []

    def __call__(self, answer: httpx.Response | Exception):
        def handle(request: httpx.Request) -> httpx.Response:
            self.sent.append(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        fields = {"endpoint": "http://models.test/v1/", "provider": "acme", "parameters": PARAMETERS}
        release = self._release_of("Be kind.", **fields)
        return self._serve(UpstreamBackend(release, "k-123", transport=httpx.MockTransport(handle)), release)


@pytest.fixture
def remote(serve, release_of) -> Remote:
    return Remote(serve, release_of)


def test_prompt_model_parameters_and_key_are_the_releases(remote):
    served = remote(httpx.Response(200, json=ANSWER))

    response = served.ask(
        {"messages": [USER], "model": "mine", "temperature": 1.5, "top_p": 0.5, "logit_bias": {"5": 1}}
    )

    (sent,) = remote.sent
    assert str(sent.url) == "http://models.test/v1/chat/completions"
    assert sent.headers["authorization"] == "Bearer k-123"
    assert json.loads(sent.content) == {
        "messages": [{"role": "system", "content": "Be kind."}, USER],
        "model": "faq-bot",
        "temperature": 0.1,
        "max_tokens": 50,
        "stop": ["###"],
        "top_p": 0.5,
        "logit_bias": {"5": 1},
    }
    assert response.json() == ANSWER
    (line,) = served.lines()
    assert (line.input_text, line.output_text, line.context_text) == ("Who is it?", "Bob.", None)
    assert (line.input_tokens, line.output_tokens, line.cached_input_tokens) == (9, 3, 4)
    assert (line.provider, line.finish_reason, line.status) == ("acme", "length", 200)
    assert "k-123" not in line.model_dump_json()


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_passes_through_and_is_captured(remote, wants_usage: bool, line_end: bytes, size: int):
    body = b"".join(STREAM).replace(b"\n", line_end)

    async def parts():
        for at in range(0, len(body), size):
            yield body[at : at + size]

    served = remote(httpx.Response(200, content=parts(), headers={"content-type": "text/event-stream; charset=utf-8"}))

    response = served.ask(
        {"messages": [USER], "stream": True, **({"stream_options": {"include_usage": True}} if wants_usage else {})}
    )

    expected = STREAM if wants_usage else [one for one in STREAM if one != STREAM[3]]
    assert response.content == b"".join(expected)
    assert json.loads(remote.sent[0].content)["stream_options"] == {"include_usage": True}
    (line,) = served.lines()
    assert (line.output_text, line.finish_reason, line.error_type) == ("Bob \u2028 ë.", "stop", None)
    assert (line.input_tokens, line.output_tokens, line.cached_input_tokens) == (9, 3, 4)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        (httpx.ReadTimeout("slow"), 504, "endpoint.ReadTimeout"),
        (httpx.ConnectTimeout("slow"), 504, "endpoint.ConnectTimeout"),
        (httpx.ConnectError("down"), 502, "endpoint.ConnectError"),
        (httpx.Response(200, text="<html>"), 502, "endpoint.unknown_shape"),
        (httpx.Response(200, json={"choices": []}), 502, "endpoint.unknown_shape"),
        (httpx.Response(302, headers={"location": "/x"}), 502, "endpoint.status_302"),
        (httpx.Response(401, json={"error": {"message": "bad key k-123", "type": "auth"}}), 502, "endpoint.status_401"),
        (httpx.Response(503, text="busy"), 503, "endpoint.status_503"),
        (httpx.Response(500, json={"error": "no object"}), 500, "endpoint.status_500"),
        (httpx.Response(429, json={"error": {"message": "Slow!", "type": "rate_limit"}}), 429, "endpoint.rate_limit"),
        (httpx.Response(700, text="?"), 502, "endpoint.status_700"),
        (httpx.Response(429, json={"error": {"message": "x", "type": "rate\tlimit"}}), 429, "endpoint.rate_limit"),
        (httpx.Response(429, json={"error": {"message": "x", "type": "r" * 300}}), 429, "endpoint." + "r" * 191),
        (
            httpx.Response(400, json={"error": {"message": "no such stop", "type": "invalid_request_error"}}),
            *(400, "endpoint.invalid_request_error"),
        ),
    ],
)
def test_what_the_endpoint_does_wrong_is_an_openai_error(remote, answer, status: int, kind: str, stream: bool):
    served = remote(answer)

    response = served.ask({"messages": [USER], "stream": stream})

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (status, kind, status)
    assert "k-123" not in response.text
    assert [(line.status, line.error_type) for line in served.lines()] == [(status, kind)]


def test_the_endpoints_own_words_and_its_retry_after_are_passed_on(remote):
    body = {"error": {"message": "Slow down", "type": "rate_limit"}}

    response = remote(httpx.Response(429, json=body, headers={"retry-after": "7"})).ask()

    assert response.json()["error"]["message"] == "Slow down"
    assert response.headers["retry-after"] == "7"


def test_a_stream_that_breaks_ends_with_an_error_event(remote):
    async def parts():
        yield STREAM[0]
        raise httpx.ReadError("gone")

    served = remote(httpx.Response(200, content=parts(), headers={"content-type": "text/event-stream"}))

    response = served.ask({"messages": [USER], "stream": True})

    assert response.content.startswith(STREAM[0])
    assert json.loads(response.content.split(b"data: ")[-1])["error"]["type"] == "endpoint.ReadError"
    (line,) = served.lines()
    assert (line.status, line.error_type) == (200, "endpoint.ReadError")
    assert (line.output_text, line.output_tokens) == ("Bo", None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "overloaded"}, "endpoint.error"),
        ({"message": "overloaded", "type": "over\nloaded"}, "endpoint.over_loaded"),
        ("overloaded", "endpoint.error"),
    ],
)
def test_an_error_inside_a_stream_is_passed_on_and_logged(remote, error: object, kind: str):
    broken = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    body = STREAM[0] + broken
    served = remote(httpx.Response(200, content=body, headers={"content-type": "text/event-stream"}))

    assert served.ask({"messages": [USER], "stream": True}).content == body
    assert served.lines()[0].error_type == kind


@pytest.mark.parametrize(("given", "logged"), [("st\top", "st_op"), ("s" * 300, "s" * 200), ("", None)])
def test_a_finish_reason_that_cannot_be_logged_is_cleaned(remote, given: str, logged: str | None):
    answer = {"choices": [{"message": {"content": "Bob."}, "finish_reason": given}]}
    served = remote(httpx.Response(200, json=answer))

    assert served.ask().json() == answer
    (line,) = served.lines()
    assert (line.output_text, line.finish_reason, line.error_type) == ("Bob.", logged, None)


def test_a_missing_key_is_said_at_the_start(release_of):
    release = release_of(endpoint="https://models.test/v1", endpoint_key_env="MODEL_KEY")

    with pytest.raises(InputError, match="environment variable MODEL_KEY is not set"):
        endpoint_key(release, {})
    with pytest.raises(InputError, match="MODEL_KEY"):
        endpoint_key(release, {"MODEL_KEY": " "})
    assert endpoint_key(release, {"MODEL_KEY": "k"}) == "k"
    assert endpoint_key(release_of(), {"MODEL_KEY": "k"}) is None


def endless(sent: list[float]) -> Starlette:
    async def answer(_: object) -> StreamingResponse:
        async def parts():
            try:
                while True:
                    yield chunk("word ")
                    await asyncio.sleep(0.02)
            finally:
                sent.append(time.monotonic())

        return StreamingResponse(parts(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


def test_chunks_come_as_they_are_made_and_a_caller_who_leaves_ends_them(serve, release_of, on_loopback):
    ended: list[float] = []
    with on_loopback(endless(ended)) as upstream:
        release = release_of("Be kind.", endpoint=f"{upstream}/v1")
        served = serve(UpstreamBackend(release, None), release)
        with on_loopback(served.app) as url:
            body = {"messages": [USER], "stream": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                parts = response.iter_bytes()
                got = [next(parts) for _ in range(3)]
            wait_until(served.lines)
        wait_until(lambda: ended)

    assert all(part.startswith(b"data: ") for part in got)
    (line,) = served.lines()
    assert (line.status, line.error_type) == (499, "ClientDisconnect")
    assert (line.output_text or "").startswith("word word ")


def test_an_endpoint_that_is_too_slow_is_a_504(serve, release_of, on_loopback):
    async def never(_: object) -> StreamingResponse:
        await asyncio.sleep(1)
        return StreamingResponse(iter(()))

    app = Starlette(routes=[Route("/v1/chat/completions", never, methods=["POST"])])
    with on_loopback(app) as upstream:
        release = release_of("Be kind.", endpoint=f"{upstream}/v1")
        served = serve(UpstreamBackend(release, None, timeout=httpx.Timeout(0.1)), release)
        assert served.ask().status_code == 504
    assert served.lines()[0].error_type == "endpoint.ReadTimeout"


def wait_until(condition) -> None:
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_without_end_fills_no_memory(remote, monkeypatch: pytest.MonkeyPatch, streams: bool, status: int):
    monkeypatch.setattr(upstream, "MAX_ANSWER_BYTES", 200_000)
    taken: list[int] = []

    async def endless():
        while len(taken) < 1000:
            taken.append(1)
            yield chunk("x" * 1000) if streams else b" " * 1000

    kind = "text/event-stream" if streams else "application/json"
    served = remote(httpx.Response(status, content=endless(), headers={"content-type": kind}))

    response = served.ask({"messages": [USER], "stream": streams})

    assert len(taken) < 250
    (line,) = served.lines()
    assert line.error_type == "endpoint.too_large"
    assert "the endpoint's answer is too large" in response.text
    assert response.status_code == (200 if streams and status == 200 else 502)


def test_an_event_without_end_is_given_up(remote, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upstream, "MAX_EVENT_BYTES", 50_000)

    async def endless():
        for _ in range(1000):
            yield b"data: " + b"x" * 1000

    served = remote(httpx.Response(200, content=endless(), headers={"content-type": "text/event-stream"}))

    served.ask({"messages": [USER], "stream": True})

    (line,) = served.lines()
    assert line.error_type == "endpoint.too_large"
