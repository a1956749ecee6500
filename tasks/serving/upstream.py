"""A release whose endpoint is any OpenAI-compatible server: requests are forwarded with prompt and parameters.

Whatever the endpoint does wrong has a type that begins with ``endpoint.``: it is the release's failure, also where
the endpoint calls a request invalid, because the release's own parameters are a part of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from tasks.errors import InputError
from tasks.interactions.schema import printable
from tasks.release.model import Release
from tasks.serving.backends import Capture
from tasks.serving.chat import JSON, ApiError, ChatRequest

TIMEOUT = httpx.Timeout(60.0, connect=5.0, write=10.0, pool=5.0)
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
MAX_ANSWER_BYTES = 32 * 2**20
"""Of one answer, unpacked, the frames of a stream included."""
MAX_EVENT_BYTES = 4 * 2**20
"""Of one event of a stream: while it is not whole, each part of it is looked through again."""
_REFUSED_KEY = (401, 403)
_FIRST_ERROR, _LAST_ERROR = 400, 599
_ORIGIN = "endpoint."
_EVENT_END = re.compile(rb"\r?\n\r?\n")

Count = Annotated[int, Field(ge=0, le=2**53)]


class _Details(BaseModel):
    cached_tokens: Count | None = None


class _Usage(BaseModel):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None


class _Content(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Content | None = None
    delta: _Content | None = None
    finish_reason: str | None = None


class _Event(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Answer(_Event):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class UpstreamBackend:
    """An OpenAI-compatible endpoint behind a release.

    The prompt leads as a system message, ``model`` is the release's, and the release's parameters win over the
    caller's. Answers pass through unchanged; a stream passes event by event.

    Args:
        release: The release that is served.
        key: The endpoint's key; None where it needs none.
        timeout: Limits of connecting, of sending and of every single read.
        transport: Replaces the network, in tests.
    """

    def __init__(
        self,
        release: Release,
        key: str | None,
        *,
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._release = release
        self._url = f"{release.spec.endpoint.rstrip('/')}/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=_LIMITS, transport=transport)

    async def complete(self, request: ChatRequest, capture: Capture) -> bytes:
        """Forward the request and return the endpoint's answer, byte for byte."""
        response = await self._send(request)
        try:
            body = await _whole(response)
        except httpx.HTTPError as error:
            raise transport_error(error) from error
        finally:
            await response.aclose()
        try:
            answer = _Answer.model_validate_json(body)
        except ValidationError as error:
            raise _shape_error() from error
        _note(answer, capture)
        return body

    async def stream(self, request: ChatRequest, capture: Capture) -> AsyncGenerator[bytes]:
        """Forward the request and pass the endpoint's events on as they come."""
        response = await self._send(request)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            await response.aclose()
            raise _shape_error()
        return _events(response, capture, hide_usage=not request.wants_usage)

    async def close(self) -> None:
        """Close the connections to the endpoint."""
        await self._client.aclose()

    def payload(self, request: ChatRequest) -> dict[str, Any]:
        """Return what is sent to the endpoint."""
        body = request.model_dump(mode="json", exclude_unset=True)
        body.update(self._release.spec.parameters)
        body["model"] = self._release.spec.model_id
        body["messages"] = [{"role": "system", "content": self._release.prompt.text}, *body["messages"]]
        if request.stream:
            body["stream"] = True
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        else:
            # An endpoint may refuse these where nothing is streamed.
            body.pop("stream", None)
            body.pop("stream_options", None)
        return body

    async def _send(self, request: ChatRequest) -> httpx.Response:
        sent = self._client.build_request("POST", self._url, json=self.payload(request))
        try:
            response = await self._client.send(sent, stream=True)
        except httpx.HTTPError as error:
            raise transport_error(error) from error
        if response.status_code == httpx.codes.OK:
            return response
        try:
            body = await _whole(response)
        except httpx.HTTPError as error:
            raise transport_error(error) from error
        finally:
            await response.aclose()
        raise _status_error(response, body)


def endpoint_key(release: Release, environment: Mapping[str, str]) -> str | None:
    """Return the key of the release's endpoint, None where it needs none.

    Raises:
        InputError: The environment variable that the release names is not set.
    """
    name = release.spec.endpoint_key_env
    if name is None:
        return None
    key = environment.get(name, "").strip()
    if not key:
        raise InputError(
            f"environment variable {name} is not set, and {release.label} needs it for the key of "
            f"{release.spec.endpoint}; set it where the server is started"
        )
    return key


def transport_error(error: httpx.HTTPError) -> ApiError:
    """Return the answer to a call whose endpoint did not answer: 504 for a timeout, otherwise 502."""
    name = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return _endpoint_error(504, f"the endpoint of this release did not answer in time ({name})", name)
    return _endpoint_error(502, f"the endpoint of this release cannot be reached ({name})", name)


async def _whole(response: httpx.Response) -> bytes:
    """Return a body, unpacked; one that has no end must not fill the memory of a server that others wait for."""
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise _size_error()
    return bytes(body)


async def _events(response: httpx.Response, capture: Capture, *, hide_usage: bool) -> AsyncGenerator[bytes]:
    rest, size = b"", 0
    try:
        async for part in response.aiter_bytes():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise _size_error()
            *events, rest = _EVENT_END.split(rest + part)
            if len(rest) > MAX_EVENT_BYTES:
                raise _size_error()
            for one in events:
                if not (_note_event(one, capture) and hide_usage):
                    yield one + b"\n\n"
        if rest.strip() and not (_note_event(rest, capture) and hide_usage):
            yield rest + b"\n\n"
    except httpx.HTTPError as error:
        raise transport_error(error) from error
    finally:
        await response.aclose()


def _note_event(one: bytes, capture: Capture) -> bool:
    """Take from one event what the log wants; return whether it carries the usage and nothing else."""
    # Split at line feeds only: JSON may hold other characters that str.splitlines takes for line ends.
    data = b"\n".join(line[5:].strip() for line in one.split(b"\n") if line.startswith(b"data:"))
    try:
        answer = _Event.model_validate_json(data)
    except ValidationError:
        return False
    if answer.error is not None:
        kind = answer.error.get("type") if isinstance(answer.error, dict) else None
        capture.error_type = printable(_ORIGIN + (kind if isinstance(kind, str) and kind else "error"))
    _note(answer, capture)
    return not answer.choices and answer.error is None and answer.usage is not None


def _note(answer: _Event, capture: Capture) -> None:
    if answer.choices:
        choice = answer.choices[0]
        content = choice.message or choice.delta
        if content is not None and content.content:
            capture.pieces.append(content.content)
        capture.finish_reason = printable(choice.finish_reason or "") or capture.finish_reason
    if answer.usage is not None:
        capture.input_tokens = answer.usage.prompt_tokens
        capture.output_tokens = answer.usage.completion_tokens
        details = answer.usage.prompt_tokens_details
        capture.cached_input_tokens = details.cached_tokens if details else None


def _status_error(response: httpx.Response, body: bytes) -> ApiError:
    status = response.status_code
    if status in _REFUSED_KEY:
        # The caller cannot mend this, and the endpoint's own text may repeat a part of the key.
        return _endpoint_error(502, "the endpoint refused the key of this release", f"status_{status}")
    if not _FIRST_ERROR <= status <= _LAST_ERROR:
        return _endpoint_error(502, f"the endpoint answered with status {status}, no chat answer", f"status_{status}")
    message, kind = _upstream_text(response, body)
    return _endpoint_error(status, message, kind, response.headers.get("retry-after"))


def _upstream_text(response: httpx.Response, body: bytes) -> tuple[str, str]:
    status = response.status_code
    plain = (f"the endpoint answered with status {status}", f"status_{status}")
    if not response.headers.get("content-type", "").startswith(JSON):
        return plain
    try:
        error = json.loads(body)["error"]
        message, kind = error["message"], error.get("type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return plain
    return str(message)[:2000] or plain[0], kind if isinstance(kind, str) and kind else plain[1]


def _shape_error() -> ApiError:
    return _endpoint_error(502, "the endpoint's answer is not OpenAI-shaped", "unknown_shape")


def _size_error() -> ApiError:
    return _endpoint_error(502, "the endpoint's answer is too large", "too_large")


def _endpoint_error(status: int, message: str, kind: str, retry_after: str | None = None) -> ApiError:
    return ApiError(status, message, kind=_ORIGIN + kind, retry_after=retry_after)
