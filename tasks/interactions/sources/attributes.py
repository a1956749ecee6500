"""The attributes of a span that calls a model: OpenTelemetry GenAI, old and new names, and OpenInference."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

from tasks.interactions.sources.documents import user_fields
from tasks.interactions.sources.texts import answer, plain_text, question
from tasks.interactions.sources.usage import all_input
from tasks.interactions.sources.values import count, first_item, first_of, identity, milliseconds, pusd, text
from tasks.interactions.sources.words import machine_word, provider_name, service_tier

Attributes = Mapping[str, Any]
_CALLS: Final = frozenset({"chat", "text_completion", "completion", "generate_content", "embeddings", "embedding"})
_KINDS: Final = frozenset({"LLM", "EMBEDDING"})
_INPUT: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens")
_OUTPUT: Final = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens")
_READ: Final = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.details.cache_read_tokens",
    "gen_ai.usage.details.cache_read_input_tokens",
)
_WRITTEN: Final = (
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.details.cache_write_tokens",
    "gen_ai.usage.details.cache_creation_input_tokens",
)
_REASONING: Final = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "gen_ai.usage.details.reasoning_tokens",
)
_TIER: Final = ("openai.response.service_tier", "gen_ai.openai.response.service_tier", "gen_ai.response.service_tier")
_COST: Final = ("gen_ai.usage.cost", "operation.cost", "llm.cost.total")
_PROMPT, _COMPLETION = "llm.token_count.prompt", "llm.token_count.completion"
_DETAILS: Final = ("llm.token_count.prompt_details.", "llm.token_count.completion_details.")


def call_kind(attributes: Attributes) -> Literal["genai", "openinference"] | None:
    """Return by which convention a span says that it calls a model; None for agents, tools and the rest.

    A span with a model and tokens but no word for what it does is taken for a call, unless it names an agent or a tool.
    """
    operation, kind = attributes.get("gen_ai.operation.name"), attributes.get("openinference.span.kind")
    if isinstance(operation, str):
        return "genai" if operation in _CALLS else None
    if isinstance(kind, str):
        return "openinference" if kind.upper() in _KINDS else None
    older = attributes.get("llm.request.type")  # of OpenLLMetry
    if isinstance(older, str):
        return "genai" if older in _CALLS else None
    model = first_of(attributes.get(name) for name in ("gen_ai.response.model", "gen_ai.request.model"))
    named = any(name.startswith(("gen_ai.agent.", "gen_ai.tool.")) for name in attributes)
    return "genai" if model and not named and knows_usage(attributes) else None


def knows_usage(attributes: Attributes) -> bool:
    """Tell whether a span says how many tokens were used."""
    return any(attributes.get(name) is not None for name in (*_INPUT, *_OUTPUT, _PROMPT, _COMPLETION))


def call_fields(attributes: Attributes) -> dict[str, Any]:
    """Return the columns that the attributes of a call give."""
    held = call_kind(attributes)
    own = _genai(attributes) if held == "genai" else _openinference(attributes)
    session = first_of(attributes.get(name) for name in ("gen_ai.conversation.id", "session.id"))
    user = first_of(attributes.get(name) for name in ("user.id", "enduser.id"))
    return {
        "session_id": identity(session, "session.id"),
        "reported_cost_pusd": pusd(first_of(attributes.get(name) for name in _COST), "cost"),
        **user_fields(identity(user, "user.id")),
        **own,
    }


def provider_of(attributes: Attributes) -> str | None:
    """Return who is paid, as any of the conventions names it."""
    names = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ls_provider")
    return next(filter(None, (provider_name(attributes.get(name), name) for name in names)), None)


def finish_of(attributes: Attributes) -> str | None:
    """Return why the answer ended: the first of the reasons."""
    reasons = attributes.get("gen_ai.response.finish_reasons")
    return machine_word(first_item(reasons) if isinstance(reasons, list) else reasons)


def _genai(attributes: Attributes) -> dict[str, Any]:
    read, written = _count(attributes, _READ), _count(attributes, _WRITTEN)
    output = _count(attributes, _OUTPUT)
    asked = text(attributes.get("gen_ai.request.model"), "gen_ai.request.model")
    first_chunk = "gen_ai.response.time_to_first_chunk"
    return {
        "provider": provider_of(attributes),
        "model": text(attributes.get("gen_ai.response.model"), "gen_ai.response.model") or asked,
        "request_model": asked,
        "response_id": text(attributes.get("gen_ai.response.id"), "gen_ai.response.id"),
        "finish_reason": finish_of(attributes),
        "service_tier": service_tier(first_of(attributes.get(name) for name in _TIER), "service_tier"),
        "prompt_name": text(attributes.get("gen_ai.prompt.name"), "gen_ai.prompt.name"),
        "prompt_version": whole(attributes.get("gen_ai.prompt.version")),
        "input_tokens": all_input(_count(attributes, _INPUT), read, written),
        "output_tokens": 0 if _is_embedding(attributes) and output is None else output,
        "cached_input_tokens": read,
        "cache_write_tokens": written,
        "reasoning_tokens": _count(attributes, _REASONING),
        "ttft_ms": milliseconds(attributes.get(first_chunk), first_chunk, per_unit=1000),
        "input_text": _first_text(attributes, "gen_ai.input.messages", "gen_ai.prompt", question),
        "output_text": _first_text(attributes, "gen_ai.output.messages", "gen_ai.completion", answer),
    }


def _openinference(attributes: Attributes) -> dict[str, Any]:
    prompt, completion = count_of(attributes, _PROMPT), count_of(attributes, _COMPLETION)
    details = {
        name: count_of(attributes, f"{prefix}{name}")
        for prefix, names in zip(_DETAILS, (("cache_read", "cache_write"), ("reasoning",)), strict=True)
        for name in names
    }
    total = count_of(attributes, "llm.token_count.total")
    model = first_of(attributes.get(name) for name in ("llm.model_name", "embedding.model_name"))
    embeds = str(attributes.get("openinference.span.kind")).upper() == "EMBEDDING"
    tags = attributes.get("tag.tags")
    return {
        "provider": provider_of(attributes),
        "model": text(model, "llm.model_name"),
        "input_tokens": all_input(prompt, details["cache_read"], details["cache_write"], completion, total),
        "output_tokens": 0 if embeds and completion is None else completion,
        "cached_input_tokens": details["cache_read"],
        "cache_write_tokens": details["cache_write"],
        "reasoning_tokens": details["reasoning"],
        "audio_input_tokens": count_of(attributes, f"{_DETAILS[0]}audio"),
        "audio_output_tokens": count_of(attributes, f"{_DETAILS[1]}audio"),
        "finish_reason": machine_word(attributes.get("llm.finish_reason")),
        "tags": tuple(tag for tag in tags if isinstance(tag, str) and tag) if isinstance(tags, list) else None,
        "input_text": _message(attributes, "llm.input_messages.", "user") or question(attributes.get("input.value")),
        "output_text": _message(attributes, "llm.output_messages.", None) or answer(attributes.get("output.value")),
    }


def count_of(attributes: Attributes, name: str) -> int | None:
    """Return a count among the attributes; one written as a decimal without a fraction is whole."""
    value = attributes.get(name)
    if isinstance(value, Decimal) and value.is_finite() and abs(value) <= 2**53 and value == int(value):
        value = int(value)
    return count(value, name)


def whole(value: Any) -> int | None:
    """Return a version that is a whole number, also as a text; None for any other name of a version."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:  # noqa: PLR2004
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _count(attributes: Attributes, names: tuple[str, ...]) -> int | None:
    return next((count_of(attributes, name) for name in names if attributes.get(name) is not None), None)


def _is_embedding(attributes: Attributes) -> bool:
    return str(attributes.get("gen_ai.operation.name")) in {"embeddings", "embedding"}


def _first_text(attributes: Attributes, messages: str, older: str, read: Any) -> str | None:
    held = attributes.get(messages)
    if held is None:
        held = attributes.get(older)
    if held is not None:
        found: str | None = read(held)
        return found
    return _message(attributes, f"{older}.", "user" if read is question else None)


def _message(attributes: Attributes, prefix: str, role: str | None) -> str | None:
    """Return the text of the last message of a role among attributes that are numbered one by one."""
    numbered: dict[int, dict[str, Any]] = {}
    for name, value in attributes.items():
        number, _, rest = name.removeprefix(prefix).partition(".") if name.startswith(prefix) else ("", "", "")
        if number.isascii() and number.isdigit() and len(number) < 6:  # noqa: PLR2004
            numbered.setdefault(int(number), {})[rest.removeprefix("message.")] = value
    for _, parts in sorted(numbered.items(), reverse=True):
        if role is None or parts.get("role") == role:
            held = [value for name, value in parts.items() if name == "content" or name.endswith("_content.text")]
            return plain_text(held)
    return None
