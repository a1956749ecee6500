"""The release server: answers for exactly one release and says so on every answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.release.model import Release
from tasks.serving.backends import Backend, Capture
from tasks.serving.chat import EVENT_STREAM, JSON, ApiError, parse_request, with_context
from tasks.serving.log import Call, Caller, InteractionLog

MAX_BODY_BYTES = 1_048_576
CLIENT_LEFT = 499
_SERVER_ERROR = 500


class ReleaseHeaders:
    """Writes on every answer, errors included, which release gave it."""

    def __init__(self, app: ASGIApp, release: Release) -> None:
        self._app = app
        self._headers = {
            "X-Release": release.digest,
            "X-Release-Version": release.spec.version,
            "X-Prompt-Sha256": release.prompt.sha256,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and add the headers to its answer."""

        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_signed)


class ChatEndpoint:
    """Answers chat requests from the backend and logs each, whatever became of it."""

    def __init__(self, backend: Backend, log: InteractionLog) -> None:
        self._backend = backend
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its line is written after the last byte, also when the caller left or time ran out."""
        exchange = _Exchange(Request(scope, receive))

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                exchange.is_finished = True

        try:
            response = await self._answer(exchange)
            await response(scope, receive, send_noted)
        finally:
            self._log.write(exchange.call())
            if exchange.events is not None:
                await exchange.events.aclose()

    async def _answer(self, exchange: _Exchange) -> Response:
        capture = exchange.capture
        try:
            request = parse_request(await _body(exchange.request))
            exchange.question = request.question
            if request.stream:
                exchange.events = _guarded(await self._backend.stream(request, capture), capture)
                return StreamingResponse(exchange.events, media_type=EVENT_STREAM)
            answer = await self._backend.complete(request, capture)
            # Whoever judges a replay must know what the answer rests on; users are told nothing but the answer.
            if exchange.caller.is_smoke and capture.context_text is not None:
                answer = with_context(answer, capture.context_text)
            return Response(answer, media_type=JSON)
        except ApiError as error:
            capture.error_type = error.kind
            return error_response(error)
        except ClientDisconnect as error:
            capture.error_type = type(error).__name__
            return Response(status_code=CLIENT_LEFT)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is an answer with status 500
            capture.error_type = type(error).__name__
            return error_response(_failure(capture.error_type))


class _Exchange:
    """One request on its way to an answer."""

    def __init__(self, request: Request) -> None:
        self._start = time.perf_counter()
        self._time = datetime.now(UTC)
        self.request = request
        self.caller = Caller.of(request.headers)
        self.capture = Capture()
        self.question: str | None = None
        self.events: AsyncGenerator[bytes] | None = None
        self.status = CLIENT_LEFT
        self.is_finished = False

    def call(self) -> Call:
        """Return what is known now; a caller that left before the end is none of the release's failures."""
        if not self.is_finished and self.capture.error_type is None:
            self.capture.error_type = "ClientDisconnect"
        return Call(
            caller=self.caller,
            time=self._time,
            question=self.question,
            capture=self.capture,
            latency_ms=(time.perf_counter() - self._start) * 1000,
            status=self.status if self.is_finished else CLIENT_LEFT,
        )


def create_app(release: Release, backend: Backend, log: InteractionLog) -> ASGIApp:
    """Return the server of one release.

    Args:
        release: What is served.
        backend: What answers; loaded already, so that a server which listens is one which can answer.
        log: Where the calls are written.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await backend.close()
        log.close()

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def shown(_: Request) -> Response:
        return JSONResponse(describe(release))

    routes = [
        Route("/v1/chat/completions", ChatEndpoint(backend, log), methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/release", shown, methods=["GET"]),
    ]
    handlers = {HTTPException: _http_error, Exception: _unexpected}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]
    return ReleaseHeaders(app, release)


def describe(release: Release) -> dict[str, object]:
    """Return the JSON document of ``GET /release``."""
    prompt = release.prompt
    return {
        "application": release.application,
        "model_id": release.spec.model_id,
        "version": release.spec.version,
        "registry_version": release.registry_version,
        "digest": release.digest,
        "prompt": {"name": prompt.name, "version": prompt.version, "sha256": prompt.sha256},
    }


def error_response(error: ApiError) -> Response:
    """Return the answer that an error is."""
    headers = {"Retry-After": error.retry_after} if error.retry_after else None
    return Response(error.body(), status_code=error.status, media_type=JSON, headers=headers)


async def _guarded(events: AsyncGenerator[bytes], capture: Capture) -> AsyncGenerator[bytes]:
    # The status is sent already: an error can only be said inside the stream.
    try:
        async with aclosing(events):
            async for one in events:
                yield one
    except ApiError as error:
        capture.error_type = error.kind
        yield b"data: " + error.body() + b"\n\n"
    except Exception as error:  # noqa: BLE001 - see above
        capture.error_type = type(error).__name__
        yield b"data: " + _failure(capture.error_type).body() + b"\n\n"


async def _body(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", kind="request_too_large")


def _failure(kind: str) -> ApiError:
    return ApiError(_SERVER_ERROR, f"the release failed to answer ({kind})", kind=kind)


async def _http_error(_: Request, error: HTTPException) -> Response:
    response = error_response(ApiError(error.status_code, error.detail, kind="invalid_request_error"))
    response.headers.update(error.headers or {})
    return response


async def _unexpected(_: Request, error: Exception) -> Response:
    return error_response(_failure(type(error).__name__))
