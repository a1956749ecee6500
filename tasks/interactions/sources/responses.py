"""Responses of the providers themselves, and their usage objects.

OpenAI and Google count cached tokens in their input; Anthropic and Bedrock count them beside it, and they are added.
"""

from __future__ import annotations

from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

from tasks.interactions.sources.texts import answer
from tasks.interactions.sources.usage import other_usage, usage_fields
from tasks.interactions.sources.values import dig, first_item, milliseconds, moment, refuse, text
from tasks.interactions.sources.words import ERROR_STATUSES, http_status, machine_word, service_tier

_CHUNKS = ("chat.completion.chunk", "response.chunk")


def openai_response(body: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an answer of OpenAI: chat, responses, embeddings, and whoever speaks as they do."""
    usage, kind = body.get("usage"), body.get("object")
    if kind in _CHUNKS and usage is None:
        refuse("object", "is a part of a streamed answer; log the whole answer, or its last part with the usage")
    fields: dict[str, Any] = {
        "model": text(body.get("model"), "model"),
        "response_id": text(body.get("id"), "id"),
        "time": moment(body.get("created", body.get("created_at")), "created"),
        "service_tier": service_tier(body.get("service_tier"), "service_tier"),
        "finish_reason": machine_word(dig(first_item(body.get("choices")), "finish_reason")),
        "output_text": answer(body) if kind != "list" else None,
        "status": 200,
        **usage_fields(usage, "openai", _openai_flavor(usage, kind)),
    }
    if kind == "list":
        fields |= {"output_tokens": 0} if usage else {}
    if kind == "response":
        fields |= _responses_api(body)
    return fields


def anthropic_response(body: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a message of Anthropic, whose input is without what the cache read or wrote."""
    return {
        "model": text(body.get("model"), "model"),
        "response_id": text(body.get("id"), "id"),
        "service_tier": service_tier(dig(body, "usage", "service_tier"), "usage.service_tier"),
        "finish_reason": machine_word(body.get("stop_reason")),
        "output_text": answer(body),
        "status": 200,
        **usage_fields(body.get("usage"), "anthropic", "default"),
    }


def bedrock_response(body: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an answer of Bedrock Converse, which does not name its model: its request does."""
    meta = body.get("ResponseMetadata")
    return {
        "response_id": text(dig(meta, "RequestId"), "ResponseMetadata.RequestId"),
        "time": _http_date(dig(meta, "HTTPHeaders", "date")),
        "service_tier": service_tier(dig(body, "serviceTier", "type"), "serviceTier.type"),
        "finish_reason": machine_word(body.get("stopReason")),
        "latency_ms": milliseconds(dig(body, "metrics", "latencyMs"), "metrics.latencyMs"),
        "output_text": answer(body),
        "status": http_status(dig(meta, "HTTPStatusCode")) or 200,
        **usage_fields(body.get("usage"), "aws", "default"),
    }


def google_response(body: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an answer of Gemini, whose reasoning stands beside its output and is added."""
    return {
        "model": text(body.get("modelVersion"), "modelVersion"),
        "response_id": text(body.get("responseId"), "responseId"),
        "time": moment(body.get("createTime"), "createTime"),
        "finish_reason": machine_word(dig(first_item(body.get("candidates")), "finishReason")),
        "output_text": answer(body),
        "status": 200,
        **usage_fields(body.get("usageMetadata"), "google", "default", "usageMetadata"),
    }


def cohere_response(body: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an answer or of embeddings of Cohere; tokens are those billed, where it says them.

    It does not name its model: its request does.
    """
    return {
        "response_id": text(body.get("id"), "id"),
        "finish_reason": machine_word(body.get("finish_reason")),
        "output_text": answer(body.get("message")),
        "status": 200,
        **_cohere_usage(body),
    }


def error_fields(error: Any, field: str) -> dict[str, Any]:
    """Return the columns of a provider's error object; its message, which may repeat the question, is not kept."""
    if isinstance(error, str):
        return {"error_type": machine_word("error"), "status": 500}
    dig(error, "type")
    held = error if not isinstance(error.get("error"), dict) else error["error"]
    word = machine_word(held.get("type")) or machine_word(held.get("code")) or machine_word(held.get("status"))
    known = http_status(held.get("code")) or ERROR_STATUSES.get(word or "") or 500
    return {"error_type": word or f"{field}", "status": known}


def _openai_flavor(usage: Any, kind: Any) -> str:
    if isinstance(usage, dict) and usage.get("prompt_tokens") is not None:
        return "chat" if usage.get("completion_tokens") is not None and kind != "list" else "embeddings"
    return "responses"


def _responses_api(body: dict[str, Any]) -> dict[str, Any]:
    output = body.get("output")
    items = [item.get("type") for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    ended = machine_word(dig(body, "incomplete_details", "reason")) or machine_word(body.get("status"))
    searches = {"web_searches": items.count("web_search_call"), "storage_searches": items.count("file_search_call")}
    failed = error_fields(body["error"], "error") if body.get("error") else {}
    return {"finish_reason": ended, **other_usage(searches), **failed}


def _cohere_usage(body: dict[str, Any]) -> dict[str, Any]:
    if "embeddings" in body:
        return usage_fields(body.get("meta"), "cohere", "embeddings", "meta") | {"output_tokens": 0}
    usage = body.get("usage")
    if dig(usage, "billed_units") is None:
        return usage_fields(usage, "cohere", "tokens") if dig(usage, "tokens") is not None else {}
    dig(usage, "billed_units", "input_tokens")  # refuses what is no object
    units: dict[str, Any] = dig(usage, "billed_units")
    billed = {name: _whole(count) for name, count in units.items()}
    lacking = [name for name in ("input_tokens", "output_tokens") if billed.get(name) is None]
    found = usage_fields({"billed_units": billed | dict.fromkeys(lacking, 0)}, "cohere", "default")
    return {name: count for name, count in found.items() if name not in lacking}


def _whole(count: Any) -> Any:
    """Return a whole number as one: Cohere writes its counts as floating-point numbers too."""
    return int(count) if isinstance(count, float | Decimal) and count == int(count) else count


def _http_date(value: Any) -> Any:
    word = text(value, "ResponseMetadata.HTTPHeaders.date")
    try:
        return parsedate_to_datetime(word) if word else None
    except ValueError:
        return refuse("ResponseMetadata.HTTPHeaders.date", "must be a date of HTTP")
