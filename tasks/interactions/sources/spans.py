"""Spans of calls of a model, in the conventions of OpenTelemetry GenAI and of OpenInference.

Only a span that calls a model counts. A call nested directly in a call is the same one, seen by two instruments: the
inner one, which stands nearer to the provider, counts if it knows its usage.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from tasks.interactions.sources.attributes import call_fields, call_kind, knows_usage
from tasks.interactions.sources.context import Context
from tasks.interactions.sources.values import dig, elapsed_ms, first_of, moment, refuse, text
from tasks.interactions.sources.words import http_status, machine_word

_ID_BYTES: Final = (8, 16)
_Call = TypeVar("_Call")
_UNNAMED: Final = "unknown_service"


@dataclass(frozen=True, slots=True)
class Span:
    """One span, whatever wrote it.

    Attributes:
        attributes: By their full names.
        resource: The attributes of what it ran in.
        trace_id: Hex digits; None where unknown.
        span_id: Hex digits; None where unknown.
        parent_id: Of the span around it.
        start: When it began.
        end: When it ended.
        failed: Whether it ended in an error.
        exception: The type of the exception it recorded.
    """

    attributes: Mapping[str, Any]
    resource: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None
    parent_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    failed: bool = False
    exception: str | None = None


def calls(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that each stand for one call of a model, in their order."""
    found = [span for span in spans if call_kind(span.attributes)]
    return calls_of(
        found,
        lambda span: (_named(span.trace_id, span.span_id), _named(span.trace_id, span.parent_id)),
        lambda span: knows_usage(span.attributes),
    )


def calls_of(
    found: Sequence[_Call], ids: Callable[[_Call], tuple[str | None, str | None]], knows: Callable[[_Call], bool]
) -> list[_Call]:
    """Return one call where one is nested directly in another: the inner one, if it knows its usage.

    Args:
        found: Spans that call a model.
        ids: The ids of a span and of its parent; None where unknown.
        knows: Whether a span says how much was used.
    """
    named = [(*ids(call), knows(call), call) for call in found]
    around = {parent for own, parent, known, _ in named if known and parent not in (None, own)}
    within = {own for own, _, known, _ in named if known and own is not None}
    return [call for own, parent, known, call in named if own not in around and (known or parent not in within)]


def _named(trace_id: str | None, span_id: str | None) -> str | None:
    return f"{trace_id}-{span_id}" if span_id else None


def fields(span: Span, _context: Context) -> dict[str, Any]:
    """Return the columns of one call."""
    attributes, resource = span.attributes, span.resource
    service = text(resource.get("service.name"), "service.name")
    environment = first_of(
        held.get(name) for held in (resource, attributes) for name in ("deployment.environment.name", _ENVIRONMENT)
    )
    return {
        "interaction_id": f"{span.trace_id}-{span.span_id}" if span.trace_id and span.span_id else None,
        "application": service if service and not service.startswith(_UNNAMED) else None,
        "environment": text(environment, "deployment.environment"),
        "trace_id": span.trace_id,
        "time": span.start,
        "latency_ms": elapsed_ms(span.start, span.end),
        **_outcome(span),
        **call_fields(attributes),
    }


_ENVIRONMENT: Final = "deployment.environment"


def _outcome(span: Span) -> dict[str, Any]:
    attributes = span.attributes
    said = first_of(attributes.get(name) for name in ("http.response.status_code", "http.status_code"))
    kind = machine_word(attributes.get("error.type")) or machine_word(span.exception)
    status = http_status(said) or http_status(kind)
    if not span.failed and not attributes.get("error.type"):
        return {"status": status or 200}
    return {"status": status if status and status >= 400 else 500, "error_type": kind or "error"}  # noqa: PLR2004


def recognises(document: dict[str, Any]) -> bool:
    """Tell whether a document is a span as JSON, or the attributes of one."""
    held = document.get("attributes") if isinstance(document.get("attributes"), dict) else document
    if "mlflow.spanType" in (held or {}) or "info" in document:
        return False
    return isinstance(held, dict) and any(
        name.startswith(("gen_ai.", "llm.", "openinference.")) or name in {"gen_ai", "llm", "openinference"}
        for name in held
    )


def items(document: Any) -> list[Any]:
    """Return the call in a span as JSON, as the SDK's exporters and Phoenix write it, or in bare attributes."""
    if not isinstance(document, dict):
        refuse("document", "must be an object")
    held = document.get("attributes")
    if not isinstance(held, dict):
        return calls([Span(flat(document))])
    attributes = flat(held)
    resource = dig(document, "resource", "attributes")
    status = document.get("status")
    code = document.get("status_code") if status is None else dig(status, "status_code")
    return calls(
        [
            Span(
                attributes=attributes,
                resource=flat(resource) if isinstance(resource, dict) else {},
                trace_id=hex_id(dig(document, "context", "trace_id"), "context.trace_id"),
                span_id=hex_id(dig(document, "context", "span_id"), "context.span_id"),
                parent_id=hex_id(document.get("parent_id"), "parent_id"),
                start=moment(document.get("start_time"), "start_time"),
                end=moment(document.get("end_time"), "end_time"),
                failed=code == "ERROR",
                exception=exception_type(document.get("events")),
            )
        ]
    )


def flat(attributes: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested attributes by their full names.

    >>> flat({"llm": {"token_count": {"prompt": 7}}, "input": "x"})
    {'llm.token_count.prompt': 7, 'input': 'x'}
    """
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def hex_id(value: Any, name: str) -> str | None:
    """Return an id of a trace or a span in hex digits; what is no such id stays as it is.

    >>> hex_id("0x51cf", "span_id"), hex_id("44M2m+KO2pk=", "span_id")
    ('51cf', 'e383369be28eda99')
    """
    word = text(value, name)
    if word is None:
        return None
    if word.endswith("="):
        try:
            read = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            return word
        return read.hex() if len(read) in _ID_BYTES else word
    return word.removeprefix("0x")


def exception_type(events: Any) -> str | None:
    """Return the type of the exception a span recorded; its message is not kept."""
    for event in events if isinstance(events, list) else ():
        if isinstance(event, dict) and event.get("name") == "exception":
            held = event.get("attributes")
            return machine_word(held.get("exception.type")) if isinstance(held, dict) else None
    return None
