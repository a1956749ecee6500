"""The sources' words for providers, tiers and errors, as the price book and the log name them."""

from __future__ import annotations

from typing import Any, Final

from tasks.interactions.schema import printable
from tasks.interactions.sources.values import text

_PROVIDERS: Final = {
    "google": (
        *("gemini", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "gcp.vertex.agent", "vertex_ai", "vertexai"),
        *("google_genai", "google_vertexai", "google_ai_studio", "google-gla", "google-vertex", "google_vertex"),
    ),
    "aws": ("aws.bedrock", "bedrock", "bedrock_converse", "aws_bedrock", "amazon_bedrock", "amazon-bedrock"),
    "azure": ("azure.ai.openai", "azure.ai.inference", "az.ai.openai", "az.ai.inference", "azure_ai", "azure_openai"),
    "openai": ("text-completion-openai", "openai.responses", "openai.chat"),
    "anthropic": ("anthropic_text", "claude"),
    "mistral": ("mistral_ai", "mistralai"),
    "x-ai": ("x_ai", "xai"),
    "together": ("together_ai", "togetherai"),
    "fireworks": ("fireworks_ai",),
    "cohere": ("cohere_chat",),
    "moonshotai": ("moonshot",),
}
_CANONICAL: Final = {alias: name for name, aliases in _PROVIDERS.items() for alias in aliases}
_TIERS: Final = {"default": "standard", "on_demand": "standard", "standard_only": "standard"}
_UNDECIDED: Final = ("auto",)

ERROR_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "overloaded_error": 529,
}
"""The status behind a provider's word for an error, where the source gives the word only."""


def provider_name(value: Any, field: str) -> str | None:
    """Return a provider as the price book names it; one that is not known by another name stays as it is.

    >>> provider_name("aws.bedrock", "gen_ai.system"), provider_name("OpenAI", "llm.provider")
    ('aws', 'openai')
    """
    word = (text(value, field) or "").strip().lower()
    return _CANONICAL.get(word, word) or None


def service_tier(value: Any, field: str) -> str | None:
    """Return what was bought; a word nobody knows stays as it is, so that it is not taken for the standard tier.

    >>> service_tier("default", "service_tier"), service_tier("auto", "service_tier")
    ('standard', None)
    """
    word = (text(value, field) or "").strip().lower()
    return None if word in _UNDECIDED else _TIERS.get(word, word) or None


def machine_word(value: Any) -> str | None:
    """Return a machine's word for an error or an ending; None where there is none."""
    return printable(value.strip()) or None if isinstance(value, str) else None


def http_status(value: Any) -> int | None:
    """Return a status from 100 to 599 that a source wrote as a number or as a text; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == len("200"):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599 else None  # noqa: PLR2004
