"""The receiver: what applications already export, and what trackers elsewhere send, into the interaction log."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.errors import InputError
from tasks.interactions.feedback import Feedback, parse_feedback
from tasks.interactions.schema import Interaction
from tasks.interactions.sources.context import Context
from tasks.interactions.sources.formats import FORMATS
from tasks.interactions.sources.otlp import from_protobuf
from tasks.interactions.sources.values import decode
from tasks.receiver.answers import JSON, PROTOBUF, export_answer, refusal
from tasks.receiver.body import RefusedBodyError, Room, read_body
from tasks.receiver.commit import MIN_FREE_BYTES, Committer
from tasks.tracking.breaches import Breach, parse_breach
from tasks.tracking.records import Kept, Refused, as_line
from tasks.tracking.spool import Kind, Line, Spool

PREFIX: Final = "received"
MAX_BODY_BYTES: Final = 32 * 2**20
MAX_TOTAL_BYTES: Final = 256 * 2**20
_LINES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
_SHOWN: Final = 20
_CLIENT_LEFT: Final = 499
_LOCAL_HOSTS: Final = ["127.0.0.1", "localhost", "[::1]"]
_OWN_CONTEXT: Final = Context()
_Handler = Callable[[Request, bytes, str], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the receiver takes.

    Attributes:
        body_bytes: Largest body, packed and unpacked.
        min_free_bytes: Less free space refuses requests with 503.
        total_bytes: More in all bodies at once refuses requests with 429.
    """

    body_bytes: int = MAX_BODY_BYTES
    min_free_bytes: int = MIN_FREE_BYTES
    total_bytes: int = MAX_TOTAL_BYTES


@dataclass(frozen=True, slots=True)
class Read:
    """What one body held: its lines, and why some are set aside, by their ordinals from 1."""

    lines: list[Line] = field(default_factory=list)
    reasons: list[tuple[int, str]] = field(default_factory=list)


def create_app(
    spool: Spool,
    *,
    token: str | None = None,
    kept: Kept | None = None,
    application: str | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """Return the receiver, which answers 200 only for what is on the disk.

    Args:
        spool: Where lines go.
        token: Asked of every request but ``/health``; None asks for none and answers loopback names only.
        kept: What is kept of texts; by default all.
        application: What was called, where a trace names no service.
        limits: How much is taken.
    """
    receiver = _Receiver(spool, token, kept or Kept(), application, limits or Limits())
    local_only = Middleware(TrustedHostMiddleware, allowed_hosts=_LOCAL_HOSTS, www_redirect=False)
    return Starlette(
        routes=[
            Route("/v1/traces", receiver.guarded(receiver.take_traces, (PROTOBUF, JSON)), methods=["POST"]),
            Route("/v1/interactions", receiver.guarded(receiver.take_calls, (JSON, *_LINES)), methods=["POST"]),
            Route("/v1/breaches", receiver.guarded(receiver.take_breaches, (JSON, *_LINES)), methods=["POST"]),
            Route("/v1/feedback", receiver.guarded(receiver.take_feedback, (JSON, *_LINES)), methods=["POST"]),
            Route("/health", _health),
        ],
        # Without a token, a page in somebody's browser that calls itself by another name must not get through.
        middleware=[] if token else [local_only],
        exception_handlers={HTTPException: _http_error},
    )


class _Receiver:
    def __init__(self, spool: Spool, token: str | None, kept: Kept, application: str | None, limits: Limits) -> None:
        self._committer = Committer(spool, limits.min_free_bytes)
        self._room = Room(limits.total_bytes)
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._kept = kept
        self._application = application
        self._limits = limits

    def guarded(self, handle: _Handler, allowed: Sequence[str]) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that reads the body of who may send one."""

        async def endpoint(request: Request) -> Response:
            form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            try:
                self._check_token(request)
                _check_form(form, allowed)
                self._committer.check_room()
                with self._room.share() as take:
                    return await handle(request, await read_body(request, self._limits.body_bytes, take), form)
            except RefusedBodyError as refused:
                return refusal(refused, form)
            except ClientDisconnect:
                return Response(status_code=_CLIENT_LEFT)

        return endpoint

    async def take_traces(self, _: Request, body: bytes, form: str) -> Response:
        """Take an export of traces; of what is no call of a model nothing is kept."""
        read = await asyncio.to_thread(self._read_traces, body, form)
        await self._committer.commit(read.lines)
        return export_answer([reason for _, reason in read.reasons], form)

    async def take_calls(self, _: Request, body: bytes, form: str) -> Response:
        """Take calls in the log's own format."""
        return await self._take_own(body, form, "interactions")

    async def take_feedback(self, _: Request, body: bytes, form: str) -> Response:
        """Take feedback."""
        return await self._take_own(body, form, "feedback")

    async def take_breaches(self, _: Request, body: bytes, form: str) -> Response:
        """Take what trackers saw single calls break."""
        return await self._take_own(body, form, "breaches")

    async def _take_own(self, body: bytes, form: str, kind: Kind) -> Response:
        read = await asyncio.to_thread(self._read_own, body, form, kind)
        await self._committer.commit(read.lines)
        reasons = [{"line": number, "reason": reason} for number, reason in read.reasons[:_SHOWN]]
        rejected = len(read.reasons)
        accepted = len(read.lines) - (0 if kind == "breaches" else rejected)
        return JSONResponse({"accepted": accepted, "rejected": rejected, "reasons": reasons})

    def _check_token(self, request: Request) -> None:
        if self._expected is None:
            return
        shown = request.headers.get("authorization", "").encode("latin-1", errors="replace")
        if not hmac.compare_digest(shown, self._expected):
            raise RefusedBodyError(401, "the token is missing or wrong; send Authorization: Bearer <token>")

    def _read_traces(self, body: bytes, form: str) -> Read:
        otlp = FORMATS["otlp"]
        try:
            document = from_protobuf(body) if form == PROTOBUF else _decoded_export(body)
            if not list(otlp.items(document)):
                return Read()  # an export of something else than calls of models is no mistake
        except (InputError, RecursionError) as error:
            raise RefusedBodyError(400, str(error) if isinstance(error, InputError) else "nested too deep") from None
        read = Read()
        for number, found in enumerate(otlp.parse_decoded(document, Context(application=self._application)), start=1):
            self._add(read, number, found, "interactions", {"source": "otlp", "application": self._application})
        return read

    def _read_own(self, body: bytes, form: str, kind: Kind) -> Read:
        read = Read()
        for number, line in enumerate(_split(body, form), start=1):
            if not line.strip():
                continue
            found: Interaction | Feedback | Breach | str
            if kind == "breaches":
                found = _seen(parse_breach(line))
            elif kind == "feedback":
                found = parse_feedback(line)
            else:
                (found,) = FORMATS["native"].parse(line, _OWN_CONTEXT)
            self._add(read, number, found, kind, {} if not isinstance(found, str) else _values(line))
        return read

    def _add(
        self, read: Read, number: int, found: Interaction | Feedback | Breach | str, kind: Kind, values: dict[str, Any]
    ) -> None:
        if isinstance(found, str):
            read.reasons.append((number, found))
            if kind == "breaches":
                return  # nothing is lost by a figure less, and nobody sets such lines aside
        record = Refused(kind, found, values) if isinstance(found, str) else found
        read.lines.append(as_line(record, self._kept))


def _check_form(form: str, allowed: Sequence[str]) -> None:
    # A page in a browser can send other types to a loopback address without being asked; none of these.
    if form not in allowed:
        raise RefusedBodyError(415, f"Content-Type is not allowed; allowed: {', '.join(allowed)}")


def _decoded_export(body: bytes) -> Any:
    document = decode(body)
    if isinstance(document, dict) and not document:
        return {"resourceSpans": []}  # an export of nothing, as JSON has it
    return document


def _split(body: bytes, form: str) -> list[bytes]:
    """Return the lines of a body, or the elements of an array as lines."""
    if form != JSON:
        return body.split(b"\n")
    try:
        document = json.loads(body)
        items = document if isinstance(document, list) else [document]
        return [json.dumps(item).encode() for item in items]
    except (ValueError, RecursionError):
        raise RefusedBodyError(400, "the body is no JSON in UTF-8, or is nested too deep") from None


def _seen(breach: Breach | str) -> Breach | str:
    """Return a breach that is not later than now, whatever the clock of its sender says: alerts go by its time."""
    now = datetime.now(UTC)
    return breach.model_copy(update={"time": now}) if isinstance(breach, Breach) and breach.time > now else breach


def _values(line: bytes) -> dict[str, Any]:
    """Return what a line that was refused says, as far as it can be read."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {"line": line.decode(errors="replace")}


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok", "time": datetime.now(UTC).isoformat()})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    form = request.headers.get("content-type", "")
    answer = refusal(RefusedBodyError(error.status_code, error.detail), form)
    answer.headers.update(error.headers or {})
    return answer
