"""Exports of OpenTelemetry in OTLP, as JSON or as protobuf: spans with their resource.

A span and the call around it may come in two exports; what is nested is told apart only within one.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from tasks.errors import InputError
from tasks.interactions.sources.spans import Span, calls, exception_type, hex_id
from tasks.interactions.sources.values import from_ns, moment_ns, refuse

_FAILED: Final = (2, "STATUS_CODE_ERROR")
_PLAIN: Final = ("stringValue", "boolValue", "bytesValue")
_DEEPEST: Final = 20


def recognises(document: dict[str, Any]) -> bool:
    """Tell whether a document is an export of traces in OTLP JSON."""
    return "resourceSpans" in document


def items(document: Any) -> list[Any]:
    """Return the calls of models in an export, and the reason for each span that cannot be read."""
    if not isinstance(document, dict) or "resourceSpans" not in document:
        refuse("resourceSpans", "is missing: this is no export of traces")
    read = [span for group in _objects(document, "resourceSpans") for span in _spans(group)]
    refused = [span for span in read if isinstance(span, str)]
    return [*calls([span for span in read if not isinstance(span, str)]), *refused]


def from_protobuf(body: bytes) -> dict[str, Any]:
    """Return an export in protobuf as the document that ``items`` reads.

    Raises:
        InputError: It is no such export.
    """
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
        # Its ids come out in base64, as protobuf's JSON has bytes; they are read as such.
        decoded: dict[str, Any] = MessageToDict(request)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InputError("document: is no export of traces in protobuf") from error
    return {"resourceSpans": [], **decoded}


def _spans(group: dict[str, Any]) -> Iterator[Span | str]:
    try:
        held = group.get("resource")
        resource = attributes_of(held.get("attributes"), "resource") if isinstance(held, dict) else {}
        scopes = _objects(group, "scopeSpans", "instrumentationLibrarySpans")
        spans = [span for scope in scopes for span in _objects(scope, "spans")]
    except InputError as error:
        yield str(error)
        return
    for span in spans:
        try:
            yield _span(span, resource)
        except InputError as error:
            yield str(error)


def _span(span: dict[str, Any], resource: dict[str, Any]) -> Span:
    start = moment_ns(span.get("startTimeUnixNano"), "startTimeUnixNano")
    end = moment_ns(span.get("endTimeUnixNano"), "endTimeUnixNano")
    status = span.get("status")
    events = [
        {"name": event.get("name"), "attributes": attributes_of(event.get("attributes"), "events")}
        for event in _objects(span, "events")
        if event.get("name") == "exception"
    ]
    return Span(
        attributes=attributes_of(span.get("attributes"), "attributes"),
        resource=resource,
        trace_id=hex_id(span.get("traceId"), "traceId"),
        span_id=hex_id(span.get("spanId"), "spanId"),
        parent_id=hex_id(span.get("parentSpanId"), "parentSpanId"),
        start=None if start is None else from_ns(start),
        end=None if end is None else from_ns(end),
        failed=isinstance(status, dict) and status.get("code") in _FAILED,
        exception=exception_type(events),
    )


def attributes_of(pairs: Any, field: str) -> dict[str, Any]:
    """Return attributes that are listed as pairs of key and typed value.

    Raises:
        InputError: They are not.
    """
    found: dict[str, Any] = {}
    for pair in pairs if isinstance(pairs, list) else [] if pairs is None else refuse(field, "must be a list"):
        if not isinstance(pair, dict) or not isinstance(pair.get("key"), str):
            refuse(field, "must be pairs of key and value")
        found[pair["key"]] = _value(pair.get("value"), field, 0)
    return found


def _value(value: Any, field: str, depth: int) -> Any:
    if value is None:
        return None
    if not isinstance(value, dict) or depth == _DEEPEST:
        refuse(field, "must have typed values, at most 20 deep")
    for kind in _PLAIN:
        if kind in value:
            return value[kind]
    if "intValue" in value:
        return _integer(value["intValue"], field)
    if "doubleValue" in value:
        return _double(value["doubleValue"])
    if isinstance(value.get("arrayValue"), dict):
        return [_value(item, field, depth + 1) for item in _objects(value["arrayValue"], "values")]
    if isinstance(value.get("kvlistValue"), dict):
        pairs = _objects(value["kvlistValue"], "values")
        return {str(pair.get("key")): _value(pair.get("value"), field, depth + 1) for pair in pairs}
    return None


def _integer(value: Any, field: str) -> int:
    if isinstance(value, str) and len(value) <= 20 and value.removeprefix("-").isascii():  # noqa: PLR2004
        try:
            return int(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(field, "has a whole number that is none")
    return int(value)


def _double(value: Any) -> Any:
    # Of protobuf a fraction comes as a binary one; its shortest text is what was meant.
    return Decimal(repr(value)) if isinstance(value, float) else value


def _objects(holder: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    found: Any = next((holder[name] for name in names if holder.get(name) is not None), [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        refuse(names[0], "must be a list of objects")
    return found
