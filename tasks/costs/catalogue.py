"""The public catalogue of prices: genai-prices, from the data it carries; it reaches no server.

A unit that has no price there costs nothing when genai-prices is asked for a sum, and a misspelt price context gives
the standard price. So nothing is asked for a sum here: prices are read one by one, and what is not found is unpriced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from tasks.costs.rates import SECONDS_A_DAY, STANDARD, Layer, Rate, UsdPerMtok, entry_sha256, make_rate

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

_CONTEXTS: Final = {"batch": ("processing", "batch"), "flex": ("service_tier", "flex")} | {
    "priority": ("service_tier", "priority")
}
"""How the catalogue names what ``service_tier`` of the interaction log names."""
_TOKENS: Final = {
    "input_usd_per_mtok": "input_mtok",
    "cached_input_usd_per_mtok": "cache_read_mtok",
    "cache_write_usd_per_mtok": "cache_write_mtok",
    "cache_write_1h_usd_per_mtok": "cache_write_1h_mtok",
    "audio_input_usd_per_mtok": "input_audio_mtok",
    "cached_audio_input_usd_per_mtok": "cache_audio_read_mtok",
    "output_usd_per_mtok": "output_mtok",
    "reasoning_usd_per_mtok": "output_reasoning_mtok",
    "audio_output_usd_per_mtok": "output_audio_mtok",
}
_INSIDE: Final = {
    "input_image_mtok": "input",
    "input_video_mtok": "input",
    "output_image_mtok": "output",
    "output_video_mtok": "output",
    "output_citation_mtok": "output",
}
"""Prices of tokens that ``input_tokens`` and ``output_tokens`` hold and that ``other_usage`` may count."""
_REQUESTS: Final = "requests_kcount"


@lru_cache(maxsize=4096)
def catalogue_rates(provider: str, model: str, day: date, tier: str = STANDARD) -> tuple[Rate, ...]:
    """Return the catalogue's rates for a model on a UTC day, one for each range of request sizes and part of the day.

    Args:
        provider: As the catalogue names it.
        model: As the provider names it; the catalogue also knows aliases.
        day: UTC.
        tier: What was bought: ``standard``, ``batch``, ``flex`` or ``priority``.

    Returns:
        None at all where the catalogue does not know the model or has no price of its tier.
    """
    from genai_prices.data_snapshot import get_snapshot

    return snapshot_rates(get_snapshot(), provider, model, day, tier)


def snapshot_rates(
    snapshot: DataSnapshot, provider: str, model: str, day: date, tier: str = STANDARD
) -> tuple[Rate, ...]:
    """Return the rates of one edition of the catalogue; see ``catalogue_rates``."""
    try:
        found, info = snapshot.find_provider_model(model, None, provider, None)
    except LookupError:
        return ()
    if _is_billed_apart(found, info):
        return ()
    rates: list[Rate] = []
    for start, end in _hours(info):
        price = _price_at(found, info, datetime.combine(day, time(), UTC) + timedelta(seconds=start), tier)
        if price is None:
            return ()
        place = {"provider": found.id, "model": info.id, **({} if tier == STANDARD else {"service_tier": tier})}
        entry = {key: str(value) for key, value in vars(price).items() if value is not None}
        sha256 = entry_sha256({**place, **entry})
        made = [
            make_rate(size, provider=provider, model=model, day=day, layer=Layer.CATALOGUE, sha256=sha256)
            for size in _sizes(price)
        ]
        rates.extend(replace(rate, from_second=start, until_second=end) for rate in made if rate is not None)
    return _whole_days(rates)


@cache
def token_units() -> tuple[str, ...]:
    """Return the units that are tokens: a call's input or output holds them, and they cost as the others do."""
    from genai_prices.data_units import unit_data

    return tuple(sorted(name for name, unit in unit_data.items() if unit["dimensions"].get("family") == "tokens"))


def _hours(info: ModelInfo) -> list[tuple[int, int]]:
    """Return the parts of a day, in seconds of it, at whose ends the price of a model may change."""
    from genai_prices.types import TimeOfDateConstraint

    entries = info.prices if isinstance(info.prices, list) else []
    found = {0, SECONDS_A_DAY}
    for constraint in (entry.constraint for entry in entries):
        if isinstance(constraint, TimeOfDateConstraint):
            found |= {_second(constraint.start_time), _second(constraint.end_time)}
    ends = sorted(found)
    return list(pairwise(ends))


def _second(moment: time) -> int:
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    utc = datetime.combine(date(2000, 1, 2), zoned).astimezone(UTC)
    return utc.hour * 3600 + utc.minute * 60 + utc.second


def _whole_days(rates: Sequence[Rate]) -> tuple[Rate, ...]:
    """Return one rate for the day where every part of it has the same price."""
    if len({rate.sha256 for rate in rates}) > 1:
        return tuple(rates)
    return tuple(replace(rate, until_second=SECONDS_A_DAY) for rate in rates if rate.from_second == 0)


def _price_at(provider: Provider, info: ModelInfo, moment: datetime, tier: str) -> ModelPrice | None:
    """Return the price at a moment, or None where the tier has none of its own."""
    if tier == STANDARD:
        return info.get_prices(moment)
    if tier not in _CONTEXTS or not any(info is model for model in provider.models):
        return None
    key, value = _CONTEXTS[tier]
    return info.get_prices(moment, {key: value}) if _has_variant(info, moment, key, value) else None


def _has_variant(info: ModelInfo, moment: datetime, key: str, value: str) -> bool:
    return any(
        variant.when == {key: value} and (variant.constraint is None or variant.constraint.active(moment))
        for variant in info.price_variants or ()
    )


def _is_billed_apart(provider: Provider, info: ModelInfo) -> bool:
    """Return whether the provider bills at least ten seconds of audio a call, which no rate can say."""
    return provider.id == "groq" and info.id.startswith("whisper-")


def _sizes(price: ModelPrice) -> list[UsdPerMtok]:
    """Return the price by request size: above a tier's start, its price is that of all tokens of the request."""
    parts = [value for value in vars(price).values() if value is not None]
    starts = sorted({0} | {tier.start for part in parts for tier in getattr(part, "tiers", ())})
    sizes = []
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        named: dict[str, Any] = {name: _at(getattr(price, key), start + 1) for name, key in _TOKENS.items()}
        if named["input_usd_per_mtok"] is None:
            return []
        sizes.append(
            UsdPerMtok(
                **named,
                usd_per_request=(_at(getattr(price, _REQUESTS), start + 1) or Decimal()) / 1000,
                usd_per_unit=_units(price, start + 1),
                min_input_tokens=start + 1 if start else 0,
                max_input_tokens=end,
            )
        )
    return sizes


def _units(price: ModelPrice, input_tokens: int) -> dict[tuple[str, str | None], Fraction]:
    """Return the prices of everything that is no plain token, per unit.

    What is cached of an image or a video is left out: it would be a part of two parts at once.
    """
    from genai_prices.data_units import unit_data

    units: dict[tuple[str, str | None], Fraction] = {}
    for name, unit in unit_data.items():
        key = unit["price_key"]
        is_token = unit["dimensions"].get("family") == "tokens"
        usd = _at(getattr(price, key), input_tokens)
        if usd is not None and key != _REQUESTS and (key in _INSIDE or not is_token):
            units[name, _INSIDE.get(key)] = Fraction(usd) / unit["per"]
    return units


def _at(part: Decimal | TieredPrices | None, input_tokens: int) -> Decimal | None:
    if part is None or isinstance(part, Decimal):
        return part
    return next((tier.price for tier in reversed(part.tiers) if input_tokens > tier.start), part.base)
