"""Answers of the receiver, as OTLP over HTTP has them in protobuf and in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.responses import JSONResponse, Response

from tasks.receiver.body import RefusedBodyError

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_SHOWN: Final = 5
_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 413: 3, 415: 3, 429: 8, 503: 14}
"""The codes of gRPC that stand for a status."""
_UNKNOWN: Final = 2


def export_answer(reasons: Sequence[str], form: str) -> Response:
    """Return what an exporter is told: nothing, or how many spans were rejected and why.

    Args:
        reasons: One for each span; none of them names content.
        form: The media type of the request.
    """
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer = ExportTraceServiceResponse()
    if reasons:
        answer.partial_success.rejected_spans = len(reasons)
        answer.partial_success.error_message = summary(reasons)
    if form == PROTOBUF:
        return Response(answer.SerializeToString(), media_type=PROTOBUF)
    return JSONResponse(MessageToDict(answer))


def summary(reasons: Sequence[str]) -> str:
    """Return some of the reasons, each once with how often it was met.

    >>> summary(["a: b", "c: d", "a: b"])
    'a: b (2); c: d (1)'
    """
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons[:1000])}
    shown = [f"{reason} ({count})" for reason, count in list(counts.items())[:_SHOWN]]
    return "; ".join(shown + (["…"] if len(counts) > _SHOWN else []))


def refusal(refused: RefusedBodyError, form: str) -> Response:
    """Return the answer to a request that is not accepted: a ``google.rpc.Status`` in the form of the request."""
    code = _CODES.get(refused.status, _UNKNOWN)
    headers = {} if refused.retry_after_s is None else {"Retry-After": str(refused.retry_after_s)}
    if refused.status == 401:  # noqa: PLR2004 - unauthorized
        headers["WWW-Authenticate"] = "Bearer"
    if form == PROTOBUF:
        return Response(_status(code, refused.reason), refused.status, headers, PROTOBUF)
    return JSONResponse({"code": code, "message": refused.reason}, refused.status, headers)


def _status(code: int, message: str) -> bytes:
    # Two fields of protobuf: a number and a text. A dependency for them is not worth it.
    text = message.encode()[:10_000]
    size, length = len(text), b""
    while size > 0x7F:  # noqa: PLR2004 - seven bits a byte
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x08" + bytes([code]) + b"\x12" + length + bytes([size]) + text
