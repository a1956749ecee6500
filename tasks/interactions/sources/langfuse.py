"""Exports of Langfuse: a trace with its observations, a page of observations, or one observation a line.

Only generations and embeddings call a model. Usage comes in buckets beside each other, which are added; where the
buckets ``input`` and ``output`` alone make the total, as of spans that Langfuse took in, the others are parts of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from tasks.interactions.sources.attributes import finish_of, provider_of, whole
from tasks.interactions.sources.context import Context
from tasks.interactions.sources.documents import user_fields
from tasks.interactions.sources.spans import calls_of
from tasks.interactions.sources.texts import answer, question
from tasks.interactions.sources.values import (
    count,
    decimal,
    elapsed_ms,
    first_of,
    identity,
    moment,
    pusd,
    refuse,
    text,
)

_Json = dict[str, Any]
_CALLS: Final = ("GENERATION", "EMBEDDING")
_READ: Final = ("input_cache_read", "input_cached_tokens", "cache_read_input_tokens", "prompt_details.cache_read")
_WRITTEN: Final = (
    "input_cache_creation",
    "input_cache_write",
    "cache_creation_input_tokens",
    "prompt_details.cache_write",
)
_WRITTEN_5M: Final = ("input_cache_creation_5m", "cache_creation.ephemeral_5m_input_tokens")
_WRITTEN_1H: Final = ("input_cache_creation_1h", "cache_creation.ephemeral_1h_input_tokens")
_REASONING: Final = ("output_reasoning", "output_reasoning_tokens", "completion_details.reasoning")
_INPUT_BUCKETS: Final = ("input_", "cache_read_", "cache_creation")
_OUTPUT_BUCKETS: Final = ("output_",)


@dataclass(frozen=True, slots=True)
class Observation:
    """An observation with the trace it stands in, as far as that is known."""

    held: _Json
    trace: _Json


def recognises(document: _Json) -> bool:
    """Tell whether a document is a trace with observations, a page of observations, or one of them."""
    if isinstance(document.get("observations"), list):
        return True
    data = document.get("data")
    if isinstance(data, list) and data and isinstance(data[0], dict):
        document = data[0]
    return {"traceId", "type", "startTime"} <= document.keys()


def items(document: Any) -> list[Any]:
    """Return the calls of models in an export."""
    if not isinstance(document, dict):
        refuse("document", "must be an object")
    trace = document["trace"] if isinstance(document.get("trace"), dict) else {}
    held = document.get("observations", document.get("data"))
    if held is None:
        trace, held = {}, [document]
    elif "observations" in document and not trace:
        trace = document
    if not isinstance(held, list) or not all(isinstance(item, dict) for item in held):
        refuse("observations", "must be a list of objects")
    found = [item for item in held if item.get("type") in _CALLS]
    return [Observation(item, trace) for item in calls_of(found, _ids, _knows_usage)]


def fields(item: Observation, _context: Context) -> dict[str, Any]:
    """Return the columns of one observation."""
    held, trace = item.held, item.trace
    start, end = (moment(held.get(name), name) for name in ("startTime", "endTime"))
    attributes, service = _metadata(held)
    environment = text(first_of((held.get("environment"), trace.get("environment"))), "environment")
    trace_id, own_id = identity(held.get("traceId"), "traceId"), identity(held.get("id"), "id")
    return {
        "interaction_id": f"{trace_id}-{own_id}" if trace_id and own_id else own_id or refuse("id", "is missing"),
        "application": service,
        "time": start,
        "latency_ms": elapsed_ms(start, end),
        "ttft_ms": elapsed_ms(start, moment(held.get("completionStartTime"), "completionStartTime")),
        "provider": provider_of(attributes),
        "model": text(first_of((held.get("providedModelName"), held.get("model"))), "model"),
        "prompt_name": text(held.get("promptName"), "promptName"),
        "prompt_version": whole(held.get("promptVersion")),
        "response_id": text(attributes.get("gen_ai.response.id"), "gen_ai.response.id"),
        "finish_reason": finish_of(attributes),
        "trace_id": trace_id,
        "session_id": identity(trace.get("sessionId"), "sessionId"),
        "environment": None if environment == "default" else environment,
        "tags": _tags(trace),
        "reported_cost_pusd": _cost(held),
        **({"status": 500, "error_type": "error"} if held.get("level") == "ERROR" else {"status": 200}),
        "input_text": question(held.get("input")),
        "output_text": answer(held.get("output")),
        **_usage(held),
        **user_fields(identity(trace.get("userId"), "userId")),
    }


def _ids(held: _Json) -> tuple[str | None, str | None]:
    return identity(held.get("id"), "id"), identity(held.get("parentObservationId"), "parentObservationId")


def _usage(held: _Json) -> dict[str, Any]:
    buckets = {name: count(value, f"usageDetails.{_shown(name)}") for name, value in _details(held).items()}
    known = {name: value for name, value in buckets.items() if value is not None}
    if not known:
        return {}
    whole_input = _sum(known, "input", _INPUT_BUCKETS)
    whole_output = _sum(known, "output", _OUTPUT_BUCKETS)
    base = (known.get("input"), known.get("output"))
    if None not in base and sum(filter(None, base)) == known.get("total"):
        whole_input, whole_output = base
    written_1h = _one(known, _WRITTEN_1H)
    parts = [part for part in (_one(known, _WRITTEN), _one(known, _WRITTEN_5M), written_1h) if part is not None]
    embeds = held.get("type") == "EMBEDDING" and whole_output is None
    return {
        "input_tokens": whole_input,
        "output_tokens": 0 if embeds else whole_output,
        "cached_input_tokens": _one(known, _READ),
        "cache_write_tokens": sum(parts) if parts else None,
        "cache_write_1h_tokens": written_1h,
        "reasoning_tokens": _one(known, _REASONING),
        "audio_input_tokens": known.get("input_audio"),
        "audio_output_tokens": known.get("output_audio"),
    }


def _sum(known: dict[str, int], base: str, prefixes: tuple[str, ...]) -> int | None:
    found = [value for name, value in known.items() if name == base or name.startswith(prefixes)]
    return sum(found) if found else None


def _one(known: dict[str, int], names: tuple[str, ...]) -> int | None:
    return next((known[name] for name in names if name in known), None)


def _details(held: _Json) -> _Json:
    details = held.get("usageDetails")
    if details is None or details == {}:
        details = held.get("usage")
    if details is None:
        return {}
    if not isinstance(details, dict):
        refuse("usageDetails", "must be an object")
    return {name: value for name, value in details.items() if name != "unit" and not name.endswith("Cost")}


def _knows_usage(held: _Json) -> bool:
    details = held.get("usageDetails") or held.get("usage")
    return isinstance(details, dict) and any(value is not None for value in details.values())


def _cost(held: _Json) -> int | None:
    """Return what Langfuse says it cost; its 0 beside no detail stands for a model it has no price of."""
    details = held.get("costDetails")
    if isinstance(details, dict) and details:
        if details.get("total") is not None:
            return pusd(details["total"], "costDetails.total")
        parts = [decimal(part, "costDetails") for part in details.values()]
        return pusd(sum((part for part in parts if part is not None), Decimal(0)), "costDetails")
    said = first_of((held.get("totalCost"), held.get("calculatedTotalCost")))
    return pusd(said, "totalCost") or None


def _metadata(held: _Json) -> tuple[_Json, str | None]:
    """Return the attributes of the span an observation was taken in from, and the name of its service."""
    metadata = held.get("metadata")
    if not isinstance(metadata, dict):
        return {}, None
    attributes = metadata.get("attributes")
    resource = metadata.get("resourceAttributes")
    service = resource.get("service.name") if isinstance(resource, dict) else None
    known = isinstance(service, str) and service and not service.startswith("unknown_service")
    return attributes if isinstance(attributes, dict) else metadata, service if known else None


def _tags(trace: _Json) -> tuple[str, ...] | None:
    tags = trace.get("tags")
    if tags is not None and (not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags)):
        refuse("tags", "must be a list of texts")
    return tuple(filter(None, tags)) or None if tags else None


def _shown(name: str) -> str:
    """Return the name of a bucket that Langfuse or a convention knows; others are the document's own words."""
    known = ("input", "output", "total", *_READ, *_WRITTEN, *_WRITTEN_5M, *_WRITTEN_1H, *_REASONING)
    return name if name in known else "*"
