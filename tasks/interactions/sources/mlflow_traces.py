"""Traces of MLflow as JSON: an object of ``info`` and ``data.spans``, in which every attribute is a text of JSON.

Its integrations count cached tokens in the input. Its own sums over a trace are not read: they repeat the spans.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from tasks.interactions.sources.context import Context
from tasks.interactions.sources.documents import user_fields
from tasks.interactions.sources.spans import calls_of, exception_type, hex_id
from tasks.interactions.sources.texts import answer, question
from tasks.interactions.sources.usage import all_input
from tasks.interactions.sources.values import (
    count,
    dig,
    elapsed_ms,
    first_item,
    from_ns,
    identity,
    moment_ns,
    pusd,
    refuse,
    text,
)
from tasks.interactions.sources.words import machine_word, provider_name

_Json = dict[str, Any]
_CALLS: Final = ("CHAT_MODEL", "LLM", "EMBEDDING")
_USAGE: Final = "mlflow.chat.tokenUsage"
_FAILED: Final = ("STATUS_CODE_ERROR", "ERROR")


@dataclass(frozen=True, slots=True)
class TracedCall:
    """A span that calls a model, with what its trace knows."""

    span: _Json
    info: _Json


def recognises(document: _Json) -> bool:
    """Tell whether a document is a trace."""
    data = document.get("data")
    return isinstance(document.get("info"), dict) and isinstance(data, dict) and "spans" in data


def items(document: Any) -> list[Any]:
    """Return the calls of models in a trace."""
    info, spans = dig(document, "info"), dig(document, "data", "spans")
    if not isinstance(info, dict) or not isinstance(spans, list):
        refuse("document", "must hold info and data.spans")
    if not all(isinstance(span, dict) and isinstance(span.get("attributes"), dict) for span in spans):
        refuse("data.spans", "must be a list of objects with attributes")
    found = [span for span in spans if _attribute(span, "mlflow.spanType") in _CALLS]
    nested = calls_of(
        found, lambda span: (_id(span, "span_id"), _id(span, "parent_span_id", "parent_id")), _knows_usage
    )
    return [TracedCall(span, info) for span in nested]


def fields(item: TracedCall, _context: Context) -> dict[str, Any]:
    """Return the columns of one call."""
    span, info = item.span, item.info
    start = moment_ns(_first(span, "start_time_unix_nano", "start_time_ns", "start_time"), "start_time_unix_nano")
    end = moment_ns(_first(span, "end_time_unix_nano", "end_time_ns", "end_time"), "end_time_unix_nano")
    trace_id, span_id = text(info.get("trace_id", info.get("request_id")), "info.trace_id"), _id(span, "span_id")
    begun, ended = (None if value is None else from_ns(value) for value in (start, end))
    asked, answered = _attribute(span, "mlflow.spanInputs"), _attribute(span, "mlflow.spanOutputs")
    metadata = info.get("trace_metadata", info.get("request_metadata"))
    said = answered.get("model") if isinstance(answered, dict) else None
    model = text(_attribute(span, "mlflow.llm.model"), "mlflow.llm.model")
    return {
        "interaction_id": f"{trace_id}-{span_id}" if trace_id and span_id else refuse("span_id", "is missing"),
        "trace_id": trace_id,
        "time": begun,
        "latency_ms": elapsed_ms(begun, ended),
        "provider": provider_name(_attribute(span, "mlflow.llm.provider"), "mlflow.llm.provider"),
        "model": said if isinstance(said, str) and said else model,
        "request_model": model,
        "session_id": identity(dig(metadata, "mlflow.trace.session"), "mlflow.trace.session"),
        "tags": _tags(info),
        "reported_cost_pusd": pusd(dig(_attribute(span, "mlflow.llm.cost"), "total_cost"), "mlflow.llm.cost"),
        "input_text": question(asked),
        "output_text": answer(answered),
        **_answer_fields(answered),
        **_usage(span),
        **_outcome(span),
        **user_fields(identity(dig(metadata, "mlflow.trace.user"), "mlflow.trace.user")),
    }


def _usage(span: _Json) -> dict[str, Any]:
    usage = _attribute(span, _USAGE)
    if usage is not None and not isinstance(usage, dict):
        refuse(_USAGE, "must be an object")
    known = {name: count(dig(usage, name), f"{_USAGE}.{name}") for name in _COUNTS}
    read, written = known["cache_read_input_tokens"], known["cache_creation_input_tokens"]
    output = known["output_tokens"]
    if output is None and usage and _attribute(span, "mlflow.spanType") == "EMBEDDING":
        output = 0
    return {
        "input_tokens": all_input(known["input_tokens"], read, written, output, known["total_tokens"]),
        "output_tokens": output,
        "cached_input_tokens": read,
        "cache_write_tokens": written,
    }


_COUNTS: Final = (
    *("input_tokens", "output_tokens", "total_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens"),
)


def _answer_fields(answered: Any) -> dict[str, Any]:
    """Return what an answer that was kept as the provider gave it says of itself."""
    if not isinstance(answered, dict):
        return {}
    own = answered.get("id")
    choice = first_item(answered.get("choices"))
    ended = choice.get("finish_reason") if isinstance(choice, dict) else answered.get("stop_reason")
    return {"response_id": own if isinstance(own, str) and own else None, "finish_reason": machine_word(ended)}


def _outcome(span: _Json) -> dict[str, Any]:
    status = span.get("status")
    code = status.get("code") if isinstance(status, dict) else span.get("status_code")
    if code not in _FAILED:
        return {"status": 200}
    return {"status": 500, "error_type": exception_type(span.get("events")) or "error"}


def _tags(info: _Json) -> tuple[str, ...] | None:
    tags = info.get("tags")
    if tags is not None and not isinstance(tags, dict):
        refuse("info.tags", "must be an object")
    return tuple(f"{name}={value}" for name, value in (tags or {}).items() if not name.startswith("mlflow.")) or None


def _attribute(span: _Json, name: str) -> Any:
    """Return an attribute; MLflow keeps each as a text of JSON."""
    value = span["attributes"].get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        return value


def _knows_usage(span: _Json) -> bool:
    return bool(_attribute(span, _USAGE))


def _id(span: _Json, *names: str) -> str | None:
    value = _first(span, *names)
    value = dig(span, "context", "span_id") if value is None and names[0] == "span_id" else value
    return hex_id(value, names[0])


def _first(span: _Json, *names: str) -> Any:
    return next((span[name] for name in names if span.get(name) is not None), None)
