"""Documents of the providers' interfaces: bare responses, lines of batches, and envelopes that hold request and answer.

An envelope is ``{"request": {...}, "response": {...}, "time": ..., "application": ..., "user": ...}`` with any column
of the log beside these; what stands there beats what the response says.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from tasks.interactions.schema import Interaction
from tasks.interactions.sources.context import Context
from tasks.interactions.sources.responses import (
    anthropic_response,
    bedrock_response,
    cohere_response,
    error_fields,
    google_response,
    openai_response,
)
from tasks.interactions.sources.texts import question
from tasks.interactions.sources.values import dig, identity, moment, refuse, text, text_sha256
from tasks.interactions.sources.words import http_status, provider_name, service_tier

_Read = Callable[[dict[str, Any]], dict[str, Any]]
_Shape = Callable[[dict[str, Any]], bool]
_PARTS: Final = ("request", "response", "error", "user")
_BESIDE: Final = frozenset(Interaction.model_fields) - {"source"}


def user_fields(user: str | None) -> dict[str, Any]:
    """Return the columns of the user's id: who it is, and what a deletion goes by."""
    return {} if user is None else {"unit": user, "unit_kind": "user", "user_hash": text_sha256(user)}


def is_openai(document: dict[str, Any]) -> bool:
    """Tell whether a document is an answer of OpenAI's chat, responses or embeddings, or of who speaks as they do."""
    usage = document.get("usage")
    if document.get("object") in ("chat.completion", "chat.completion.chunk", "text_completion", "response"):
        return True
    return isinstance(usage, dict) and "prompt_tokens" in usage and ("choices" in document or "data" in document)


def is_anthropic(document: dict[str, Any]) -> bool:
    """Tell whether a document is a message of Anthropic."""
    return document.get("type") == "message" and "usage" in document


def is_bedrock(document: dict[str, Any]) -> bool:
    """Tell whether a document is an answer of Bedrock Converse."""
    usage = document.get("usage")
    return isinstance(usage, dict) and "inputTokens" in usage and ("output" in document or "stopReason" in document)


def is_google(document: dict[str, Any]) -> bool:
    """Tell whether a document is an answer of Gemini."""
    return "usageMetadata" in document and ("candidates" in document or "modelVersion" in document)


def is_cohere(document: dict[str, Any]) -> bool:
    """Tell whether a document is an answer of Cohere's chat, second version, or its embeddings."""
    usage, meta = document.get("usage"), document.get("meta")
    if isinstance(meta, dict) and "billed_units" in meta:
        return "embeddings" in document
    return isinstance(usage, dict) and ("billed_units" in usage or "tokens" in usage) and "message" in document


def is_wrapped(shape: _Shape) -> _Shape:
    """Return a shape that also knows an answer in its envelope, or in a line of a batch."""

    def recognises(document: dict[str, Any]) -> bool:
        held = document.get("response") if document.keys() <= _BESIDE | set(_PARTS) else None
        return shape(document) or any(shape(body) for body in (_batch(document)[0], held) if isinstance(body, dict))

    return recognises


def reader(provider: str, read: _Read) -> Callable[[Any, Context], dict[str, Any]]:
    """Return the reader of one provider's documents.

    Args:
        provider: Who is paid, where the document does not say.
        read: Reads an answer.
    """

    def fields(document: Any, _context: Context) -> dict[str, Any]:
        dig(document, "response")
        body, tier, problem = _batch(document)
        if body is not None or problem is not None:
            found = _answered(provider, read, body, problem)
            return found | ({"service_tier": tier} if tier else {})
        if "response" in document or "request" in document:
            return _from_envelope(provider, read, document)
        if isinstance(document.get("error"), dict) and "usage" not in document:
            return {"provider": provider, **error_fields(document["error"], "error")}
        return _answered(provider, read, document, None)

    return fields


def _answered(provider: str, read: _Read, body: Any, problem: Any) -> dict[str, Any]:
    if isinstance(body, dict) and isinstance(body.get("error"), dict) and "usage" not in body:
        body, problem = None, body["error"]
    if body is not None:
        dig(body, "usage")
    if isinstance(body, dict) and not (
        {"usage", "usageMetadata", "choices", "object", "stop_reason", "meta"} & body.keys()
    ):
        refuse("response", "is no answer of this format: it has neither usage nor choices")
    found = read(body) if body is not None else {}
    found |= error_fields(problem, "error") if problem is not None else {}
    return {"provider": provider, "interaction_id": found.get("response_id"), **found}


def _batch(document: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None, Any]:
    """Return answer, tier and error of a line of a batch's result; nothing where it is none."""
    if "custom_id" not in document:
        return None, None, None
    held, result = document.get("response"), document.get("result")
    if isinstance(held, dict) and isinstance(held.get("body"), dict):
        return held["body"], "batch", document.get("error")
    if isinstance(result, dict):
        message, problem = result.get("message"), result.get("error")
        return message if isinstance(message, dict) else None, "batch", problem or (None if message else "expired")
    return None, "batch", document.get("error")


def _from_envelope(provider: str, read: _Read, document: dict[str, Any]) -> dict[str, Any]:
    if document.keys() - _BESIDE - set(_PARTS):
        refuse(
            "envelope", f"holds a field that is not allowed; allowed: {', '.join(_PARTS)} and the columns of the log"
        )
    request = document.get("request")
    asked: dict[str, Any] = {
        "request_model": text(dig(request, "model") or dig(request, "modelId"), "request.model"),
        "input_text": question(request),
        "service_tier": service_tier(dig(request, "service_tier"), "request.service_tier"),
        **user_fields(identity(dig(request, "user"), "request.user")),
        **user_fields(identity(dig(request, "metadata", "user_id"), "request.metadata.user_id")),
    }
    found = _answered(provider, read, document.get("response"), document.get("error"))
    found = {**_known(asked), **_known(found), **_beside(document)}
    status = document.get("status")
    if status is not None:
        found["status"] = http_status(status) or refuse("status", "must be a status of HTTP, 100 to 599")
    return {"model": found.get("request_model"), "status": 200, **found}


def _beside(document: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that stand beside request and answer."""
    found = {name: _plain(document[name]) for name in document.keys() & _BESIDE if document[name] is not None}
    if "time" in found:
        found["time"] = moment(found["time"], "time")
    if "provider" in found:
        found["provider"] = provider_name(found["provider"], "provider")
    return user_fields(identity(document.get("user"), "user")) | found


def native_fields(document: dict[str, Any], _context: Context) -> dict[str, Any]:
    """Return the columns of a decoded line in the log's own format."""
    found = {name: _plain(value) for name, value in document.items()}
    return found | ({"time": moment(found["time"], "time")} if "time" in found else {})


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


READERS: Final = {
    "openai": (reader("openai", openai_response), is_wrapped(is_openai)),
    "anthropic": (reader("anthropic", anthropic_response), is_wrapped(is_anthropic)),
    "bedrock": (reader("aws", bedrock_response), is_wrapped(is_bedrock)),
    "google": (reader("google", google_response), is_wrapped(is_google)),
    "cohere": (reader("cohere", cohere_response), is_wrapped(is_cohere)),
}
"""By format: what reads a document, and what recognises it."""
