"""Calls as the proxy of LiteLLM logs them: the payload of its callbacks, and the rows of its table of spend.

Its prompt tokens include cached ones. A call that its own cache answered bought nothing of a provider: 0 tokens.
"""

from __future__ import annotations

from typing import Any

from tasks.interactions.sources.context import Context
from tasks.interactions.sources.documents import user_fields
from tasks.interactions.sources.texts import answer, parsed, question
from tasks.interactions.sources.usage import usage_fields
from tasks.interactions.sources.values import count, dig, elapsed_ms, first_of, identity, moment, pusd, refuse, text
from tasks.interactions.sources.words import http_status, machine_word, provider_name, service_tier

_Json = dict[str, Any]
_BOUGHT = ("input_tokens", "output_tokens")


def recognises(document: _Json) -> bool:
    """Tell whether a document is a StandardLoggingPayload."""
    return {"call_type", "response_cost", "id"} <= document.keys()


def recognises_spend(document: _Json) -> bool:
    """Tell whether a document is a row of SpendLogs."""
    return {"call_type", "spend", "request_id"} <= document.keys()


def fields(payload: _Json, _context: Context) -> dict[str, Any]:
    """Return the columns of a StandardLoggingPayload."""
    metadata, usage = payload.get("metadata"), dig(payload, "response", "usage")
    team = first_of((dig(metadata, "user_api_key_team_alias"), dig(metadata, "user_api_key_team_id")))
    user = first_of((payload.get("end_user"), dig(metadata, "user_api_key_end_user_id")))
    tokens = first_of((dig(metadata, "usage_object"), usage))
    return {
        **_common(payload, tokens),
        "interaction_id": identity(payload.get("id"), "id"),
        "response_id": identity(dig(payload, "response", "id"), "response.id"),
        "trace_id": text(payload.get("trace_id"), "trace_id"),
        "reported_cost_pusd": pusd(payload.get("response_cost"), "response_cost"),
        "team": identity(team, "metadata.user_api_key_team_id"),
        "service_tier": service_tier(dig(payload, "response", "service_tier"), "response.service_tier"),
        **_outcome(payload, payload.get("error_information"), payload.get("response")),
        **user_fields(identity(user, "end_user")),
    }


def spend_fields(row: _Json, _context: Context) -> dict[str, Any]:
    """Return the columns of a row of SpendLogs, whose objects may be texts of JSON."""
    metadata, response = parsed(row.get("metadata")), parsed(row.get("response"))
    metadata = metadata if isinstance(metadata, dict) else {}
    response = response if isinstance(response, dict) else {}
    return {
        **_common(row, metadata.get("usage_object")),
        "interaction_id": identity(row.get("request_id"), "request_id"),
        "session_id": identity(row.get("session_id"), "session_id"),
        "response_id": identity(response.get("id"), "response.id"),
        "reported_cost_pusd": pusd(row.get("spend"), "spend"),
        "team": identity(first_of((metadata.get("user_api_key_team_alias"), row.get("team_id"))), "team_id"),
        **_outcome(row, metadata.get("error_information"), response),
        **user_fields(identity(first_of((row.get("end_user"), row.get("user"))), "end_user")),
    }


def _common(document: _Json, usage: Any) -> dict[str, Any]:
    start, end = (moment(document.get(name), name) for name in ("startTime", "endTime"))
    first = moment(document.get("completionStartTime"), "completionStartTime")
    # Without a stream the first token is said to come with the last.
    streamed = document.get("stream") is True or (first is not None and first != end)
    model = text(document.get("model"), "model")
    return {
        "provider": provider_name(document.get("custom_llm_provider"), "custom_llm_provider"),
        "model": model,
        "request_model": text(document.get("model_group"), "model_group"),
        "time": start,
        "latency_ms": elapsed_ms(start, end),
        "ttft_ms": elapsed_ms(start, first) if streamed else None,
        "tags": _tags(document),
        "input_text": question(document.get("messages")),
        "output_text": answer(document.get("response")) if document.get("response") not in ({}, "{}", None) else None,
        **_tokens(document, usage),
    }


def _tokens(document: _Json, usage: Any) -> dict[str, Any]:
    if _from_cache(document):
        return dict.fromkeys(_BOUGHT, 0)
    prompt = count(document.get("prompt_tokens"), "prompt_tokens")
    completion = count(document.get("completion_tokens"), "completion_tokens")
    total = count(document.get("total_tokens"), "total_tokens")
    failed = document.get("status") == "failure"
    # A failure that names no usage says 0 of everything: that is unknown.
    known = not failed or any((prompt, completion, total))
    held = dict(zip(_BOUGHT, (prompt, completion), strict=True)) if known else {}
    return (_details(usage) if isinstance(usage, dict) else {}) | {k: v for k, v in held.items() if v is not None}


def _details(usage: _Json) -> dict[str, Any]:
    """Return what a usage object says: OpenAI's shape, with the cache of Anthropic beside it at the top."""
    found = usage_fields(usage, "openai", "chat" if "prompt_tokens" in usage else "responses")
    for column, name in (
        ("cached_input_tokens", "cache_read_input_tokens"),
        ("cache_write_tokens", "cache_creation_input_tokens"),
    ):
        if column not in found and usage.get(name) is not None:
            found[column] = count(usage[name], name)
    searches = count(dig(usage, "server_tool_use", "web_search_requests"), "web_search_requests")
    return found | ({"other_usage": {"web_searches": searches}} if searches else {})


def _from_cache(document: _Json) -> bool:
    return document.get("cache_hit") in (True, "True", "true")


def _tags(document: _Json) -> tuple[str, ...] | None:
    tags = parsed(document.get("request_tags"))
    if tags is None or tags == "":
        tags = []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        refuse("request_tags", "must be a list of texts")
    hit = ("gateway_cache=hit",) if _from_cache(document) else ()
    return (*filter(None, tags), *hit) or None


def _outcome(document: _Json, problem: Any, response: Any) -> dict[str, Any]:
    if document.get("status") != "failure":
        choice = response.get("choices") if isinstance(response, dict) else None
        first = choice[0] if isinstance(choice, list) and choice and isinstance(choice[0], dict) else {}
        return {"status": 200, "finish_reason": machine_word(first.get("finish_reason"))}
    problem = problem if isinstance(problem, dict) else {}
    status = http_status(problem.get("error_code"))
    kind = machine_word(problem.get("error_class")) or "error"
    return {"status": status if status and status >= 400 else 500, "error_type": kind}  # noqa: PLR2004
