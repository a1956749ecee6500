"""How much was used, normalised: input with its cached part, output with its reasoning."""

from __future__ import annotations

from typing import Any, Final

from genai_prices import extract_usage

from tasks.errors import InputError
from tasks.interactions.sources.values import refuse

_COLUMNS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
    "input_audio_tokens": "audio_input_tokens",
    "cache_audio_read_tokens": "cached_audio_input_tokens",
    "output_audio_tokens": "audio_output_tokens",
}
_REQUIRED: Final = {
    "chat": (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")),
    "embeddings": (("prompt_tokens", "input_tokens"),),
    "responses": (("input_tokens", "input_tokens"), ("output_tokens", "output_tokens")),
    "anthropic": (("input_tokens", "input_tokens"), ("output_tokens", "output_tokens")),
    "aws": (("inputTokens", "input_tokens"), ("outputTokens", "output_tokens")),
    "google": (),
    "cohere": (),
}
"""The counts genai-prices insists on, by provider or flavor, with the column that is unknown without them."""
_OTHER: Final = ("web_searches", "storage_searches")
"""Units that are paid for beside tokens, as the price book names them."""


def usage_fields(usage: Any, provider: str, flavor: str, root: str = "usage") -> dict[str, Any]:
    """Return the columns of a provider's usage object, by the rules of genai-prices.

    Args:
        usage: The object; None gives no column, and a count that it lacks, as of an answer that broke off, is unknown.
        provider: As genai-prices names it.
        flavor: Which of the provider's interfaces wrote it, likewise.
        root: Under which name the response holds it.

    Raises:
        InputError: It is no object, or a count in it is no whole number.
    """
    if usage is None or (isinstance(usage, dict) and all(value is None for value in usage.values())):
        return {}
    usage = usage if isinstance(usage, dict) else refuse(root, "must be an object")
    lacking = {
        name: column for name, column in _REQUIRED.get(provider, _REQUIRED.get(flavor, ())) if usage.get(name) is None
    }
    try:
        # Without the model: one that the catalogue does not know is used all the same.
        whole = usage | dict.fromkeys(lacking, 0)
        found = vars(extract_usage({root: whole}, provider_id=provider, api_flavor=flavor).usage)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{root}: a count in it is no whole number from 0") from error
    known = {unit: column for unit, column in _COLUMNS.items() if unit in found and column not in lacking.values()}
    fields: dict[str, Any] = {column: found[unit] for unit, column in known.items()}
    if any(isinstance(value, bool) or not isinstance(value, int) for value in fields.values()):
        refuse(root, "a count in it is no whole number from 0")
    return fields | other_usage({unit: found.get(unit) for unit in _OTHER})


def other_usage(counts: dict[str, Any]) -> dict[str, Any]:
    """Return the column of what is paid for beside tokens; what was not used is left out.

    >>> other_usage({"web_searches": 2, "storage_searches": 0})
    {'other_usage': {'web_searches': 2}}
    """
    used = {unit: number for unit, number in counts.items() if number}
    return {"other_usage": used} if used else {}


def all_input(
    base: int | None, cached: int | None, written: int | None, output: int | None = None, total: int | None = None
) -> int | None:
    """Return all input tokens where a source's count may be with or without its cached part.

    The source's own arithmetic decides: what is larger than the whole is no part of it, and a total that comes out
    only with the cache counted shows that it is not in the count. Otherwise the count is taken as it is, with its
    cached part, as the conventions ask.

    >>> all_input(10, 100, 0), all_input(110, 100, 0), all_input(50, 30, 0, output=5, total=85)
    (110, 110, 80)
    """
    extra = (cached or 0) + (written or 0)
    if base is None or not extra:
        return base
    summed = total is not None and output is not None and total == base + extra + output
    return base + extra if extra > base or summed else base
