"""Cost and usage reports of OpenAI and Anthropic, read strictly from files into one shape.

OpenAI: ``/v1/organization/costs`` (grouped by line item) and ``/v1/organization/usage/completions``. Anthropic:
``/v1/organizations/cost_report``, whose amounts are cents, and ``/v1/organizations/usage_report/messages``. A file
holds one page, a list of pages, or a list of buckets. A number in a field that is not known here is refused, because
it may be usage or money; other unknown fields are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from tasks.costs.rates import STANDARD
from tasks.errors import InputError
from tasks.finance.repeats import each_once

PROVIDERS: Final = ("openai", "anthropic")
MAX_BYTES: Final = 200_000_000
_LEAST_ROUNDING: Final = Fraction(1, 10**6)
_LINE_PARTS: Final = {
    "input": "input",
    "cached input": "cache_read",
    "output": "output",
    "audio input": "audio_input",
    "cached audio input": "cached_audio_input",
    "audio output": "audio_output",
}
_TOKEN_PARTS: Final = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "output_tokens": "output",
}
_TIERS: Final = {"default": STANDARD, "priority_on_demand": "priority", "flex_discount": "flex"}
_OPENAI_COUNTS: Final = (
    *("input_tokens", "output_tokens", "num_model_requests", "input_cached_tokens", "input_audio_tokens"),
    *("output_audio_tokens", "input_cached_audio_tokens", "input_uncached_tokens", "input_text_tokens"),
    *("output_text_tokens", "input_cached_text_tokens", "input_image_tokens", "input_cached_image_tokens"),
    *("output_image_tokens", "output_reasoning_tokens"),
)
_KNOWN: Final = {
    "organization.costs.result": frozenset({"quantity"}),
    "organization.usage.completions.result": frozenset(_OPENAI_COUNTS),
    "cost": frozenset[str](),
    "usage": frozenset({"uncached_input_tokens", "cache_read_input_tokens", "output_tokens"}),
}
_Dict = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What somebody says of one day, model, tier and part.

    Attributes:
        day: UTC.
        model, tier: None where the report is not grouped by it.
        part: One of ``PARTS``, or ``total`` where the report does not tell tokens apart.
        tokens: None where it says no number.
        usd: Exact; None where it says no amount.
        rounding_usd: How much the amount may be off for its own rounding.
    """

    day: date
    model: str | None
    tier: str | None
    part: str
    tokens: int | None
    usd: Fraction | None
    rounding_usd: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReport:
    """What a provider says of some days.

    Attributes:
        days: Those it covers wholly.
        partial_days: Those it covers only a part of; nothing can be held against them.
        entries: Of the days it covers wholly.
    """

    provider: str
    days: frozenset[date]
    partial_days: frozenset[date]
    entries: tuple[Entry, ...]


def read_provider_report(path: Path, provider: str) -> ProviderReport:
    """Read one report file.

    Args:
        path: JSON.
        provider: ``openai`` or ``anthropic``.

    Raises:
        InputError: It cannot be read, is not such a report, is one page of several, or another currency than USD.
    """
    if provider not in PROVIDERS:
        raise InputError.of("provider", provider, PROVIDERS)
    whole: set[date] = set()
    touched: set[date] = set()
    entries: list[Entry] = []
    for index, bucket in enumerate(each_once(_buckets(path), path)):
        place = f"{path}: bucket {index}"
        start, end = _window(bucket, provider, place)
        day = start.date()
        touched |= {day, (end - timedelta(microseconds=1)).date()}
        if (start, end) == (_midnight(day), _midnight(day) + timedelta(days=1)):
            whole.add(day)
        for number, result in enumerate(_list(bucket, "results", place)):
            at = f"{place}, result {number}"
            entries.extend(_openai(result, day, at) if provider == "openai" else _anthropic(result, day, at))
    return ProviderReport(
        provider=provider,
        days=frozenset(whole),
        partial_days=frozenset(touched - whole),
        entries=tuple(entry for entry in entries if entry.day in whole),
    )


def _buckets(path: Path) -> Iterator[_Dict]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: it is too large; allowed: {MAX_BYTES} bytes; ask for fewer days")
        found = json.loads(path.read_bytes(), parse_float=Decimal, parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}; download it again") from error
    for page in found if isinstance(found, list) else [found]:
        if not isinstance(page, dict):
            raise InputError(f"{path}: expected pages or buckets, not {type(page).__name__}")
        if "results" in page:
            yield page
            continue
        if page.get("has_more") and not isinstance(found, list):
            raise InputError(f"{path}: it is one page of several; download the others, too, as a list of pages")
        yield from _list(page, "data", str(path))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _list(holder: _Dict, name: str, place: str) -> list[_Dict]:
    found = holder.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{place}: {name} must be a list of objects; download the report again")
    return found


def _window(bucket: _Dict, provider: str, place: str) -> tuple[datetime, datetime]:
    names = ("start_time", "end_time") if provider == "openai" else ("starting_at", "ending_at")
    try:
        start, end = (_moment(bucket.get(name), provider) for name in names)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise InputError(f"{place}: {' and '.join(names)} must be its times, with a zone: {error}") from error
    if not start < end <= _midnight(start.date()) + timedelta(days=1):
        raise InputError(f"{place}: from {start} to {end} is not within one UTC day; ask for buckets of one day")
    return start, end


def _moment(value: Any, provider: str) -> datetime:
    if provider == "openai":
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"was {value!r:.40}")
        return datetime.fromtimestamp(value, UTC)
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError(f"was {value!r:.40}")
    return found.astimezone(UTC)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _openai(result: _Dict, day: date, place: str) -> Iterator[Entry]:
    kind = result.get("object")
    if kind not in {"organization.costs.result", "organization.usage.completions.result"}:
        raise InputError.of(f"{place}: object", kind, [name for name in _KNOWN if "." in name])
    _refuse_unknown_numbers(result, str(kind), place)
    if kind == "organization.costs.result":
        yield _openai_cost(result, day, place)
        return
    tier = result.get("service_tier") or ("batch" if result.get("batch") else None)
    if tier is None and result.get("batch") is False:
        tier = STANDARD
    tier, model = None if tier is None else _TIERS.get(tier, tier), result.get("model")
    cached, audio = _count(result, "input_cached_tokens", place), _count(result, "input_audio_tokens", place)
    both = _count(result, "input_cached_audio_tokens", place)
    # A real report has fewer output_tokens than output_audio_tokens: those count text only, and audio stands beside.
    counts = {
        "input": _text(result, "input", place) - cached + both,
        "cache_read": cached - both,
        "audio_input": audio - both,
        "cached_audio_input": both,
        "output": _text(result, "output", place),
        "audio_output": _count(result, "output_audio_tokens", place),
    }
    if min(counts.values()) < 0:
        raise InputError(f"{place}: its parts are more than its whole; download the report again")
    yield from _entries(day, model, tier, counts)


def _text(result: _Dict, side: str, place: str) -> int:
    named = f"{side}_text_tokens"
    return _count(result, named if result.get(named) is not None else f"{side}_tokens", place)


def _openai_cost(result: _Dict, day: date, place: str) -> Entry:
    amount, item, quantity = result.get("amount") or {}, result.get("line_item"), result.get("quantity")
    if str(amount.get("currency", "")).lower() != "usd":
        raise InputError.of(f"{place}: currency", amount.get("currency"), ["usd"])
    usd, off = _amount(amount.get("value"), place)
    model, part, tokens = None, "total", None
    if isinstance(item, str):
        name, _, what = item.rpartition(", ")
        model, part = (name, _LINE_PARTS[what]) if what in _LINE_PARTS else (item, "other")
        tokens = None if part == "other" else _whole(quantity)
    return Entry(day=day, model=model, tier=None, part=part, tokens=tokens, usd=usd, rounding_usd=off)


def _anthropic(result: _Dict, day: date, place: str) -> Iterator[Entry]:
    kind = "cost" if "amount" in result else "usage"
    if kind == "cost" and not isinstance(result["amount"], str):
        raise InputError(f"{place}: amount must be a decimal text in cents (was {result['amount']!r:.40})")
    _refuse_unknown_numbers(result, kind, place)
    tier, model = result.get("service_tier"), result.get("model")
    tier = None if tier is None else _TIERS.get(tier, tier)
    if kind == "usage":
        made = result.get("cache_creation") or {}
        counts = {
            "input": _count(result, "uncached_input_tokens", place),
            "cache_read": _count(result, "cache_read_input_tokens", place),
            "cache_write": _count(made, "ephemeral_5m_input_tokens", place),
            "cache_write_1h": _count(made, "ephemeral_1h_input_tokens", place),
            "output": _count(result, "output_tokens", place),
        }
        yield from _entries(day, model, tier, counts)
        return
    if result.get("currency") != "USD":
        raise InputError.of(f"{place}: currency", result.get("currency"), ["USD"])
    cents, off = _amount(result["amount"], place)
    token_type, cost_type = result.get("token_type"), result.get("cost_type")
    if token_type is not None and token_type not in _TOKEN_PARTS:
        raise InputError.of(f"{place}: token_type", token_type, _TOKEN_PARTS)
    part = _TOKEN_PARTS[token_type] if token_type else "total" if cost_type is None else "other"
    name = model if model is not None or cost_type is None else str(result.get("description") or cost_type)
    usd, rounding = cents / 100, max(off / 100, _LEAST_ROUNDING)
    yield Entry(day=day, model=name, tier=tier, part=part, tokens=None, usd=usd, rounding_usd=rounding)


def _entries(day: date, model: Any, tier: str | None, counts: Mapping[str, int]) -> Iterator[Entry]:
    for part, tokens in counts.items():
        if tokens:
            yield Entry(day=day, model=model, tier=tier, part=part, tokens=tokens, usd=None)


def _amount(value: Any, place: str) -> tuple[Fraction, Fraction]:
    """Return an exact amount, and half of its last digit."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise InputError(f"{place}: the amount must be a decimal number (was {value!r:.40})")
    try:
        number = Decimal(value)
    except ArithmeticError as error:
        raise InputError(f"{place}: the amount must be a decimal number (was {value!r:.40})") from error
    if not number.is_finite():
        raise InputError(f"{place}: the amount must be finite (was {value!r:.40})")
    digit = Fraction(Decimal(1).scaleb(int(number.as_tuple().exponent)))
    return Fraction(number), max(digit / 2, _LEAST_ROUNDING)


def _whole(value: Any) -> int | None:
    """Return a number of tokens, which may be written as 30.0; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != int(value):
        return None
    return int(value)


def _count(holder: _Dict, name: str, place: str) -> int:
    value = holder.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{place}: {name} must be a whole number from 0 (was {value!r:.40})")
    return value


def _refuse_unknown_numbers(result: _Dict, kind: str, place: str) -> None:
    known = _KNOWN[kind]
    for name, value in result.items():
        if isinstance(value, int | Decimal) and not isinstance(value, bool) and value and name not in known:
            raise InputError.of(f"{place}: field", name, sorted(known) or "none that is a number")
