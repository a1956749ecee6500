"""The public catalogue of prices: genai-prices, from the data it carries; it reaches no server."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.costs.rates import Layer, Rate, UsdPerMtok, entry_sha256, make_rate

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

_NOT_LOGGED = frozenset({"requests_kcount", "output_reasoning_mtok", "output_citation_mtok"})
"""Parts of a price that count what the interaction log does not; a model that has them is left unpriced."""


@lru_cache(maxsize=4096)
def catalogue_rates(provider: str, model: str, day: date) -> tuple[Rate, ...]:
    """Return the catalogue's rates for a model on a UTC day, one for each range of request sizes.

    Args:
        provider: As the catalogue names it.
        model: As the provider names it; the catalogue also knows aliases.
        day: UTC.

    Returns:
        None at all where the catalogue does not know the model, its price changes within the day, or the price
        counts something the interaction log does not.
    """
    from genai_prices.data_snapshot import get_snapshot

    try:
        found, info = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return ()
    price = _price_of_day(info, day)
    if price is None or any(getattr(price, name) is not None for name in _NOT_LOGGED):
        return ()
    entry = {key: str(value) for key, value in vars(price).items() if value is not None}
    sha256 = entry_sha256({"provider": found.id, "model": info.id, **entry})
    made = [
        make_rate(tier, provider=provider, model=model, day=day, layer=Layer.CATALOGUE, sha256=sha256)
        for tier in _tiers(price)
    ]
    return tuple(rate for rate in made if rate is not None)


def _price_of_day(info: ModelInfo, day: date) -> ModelPrice | None:
    """Return the price of a whole day, or None where an hour of it has another."""
    prices = [info.get_prices(datetime.combine(day, time(hour), UTC)) for hour in range(24)]
    return prices[0] if all(price == prices[0] for price in prices) else None


def _tiers(price: ModelPrice) -> list[UsdPerMtok]:
    """Return the price by request size: above a tier's start, its price is that of all tokens of the request."""
    parts = (price.input_mtok, price.cache_read_mtok, price.output_mtok)
    starts = sorted({0} | {tier.start for part in parts for tier in getattr(part, "tiers", ())})
    tiers = []
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        inputs, cached, outputs = (_at(part, start + 1) for part in parts)
        if inputs is None or outputs is None:
            return []
        tiers.append(
            UsdPerMtok(
                input_usd_per_mtok=inputs,
                cached_input_usd_per_mtok=cached,
                output_usd_per_mtok=outputs,
                min_input_tokens=start + 1 if start else 0,
                max_input_tokens=end,
            )
        )
    return tiers


def _at(part: Decimal | TieredPrices | None, input_tokens: int) -> Decimal | None:
    if part is None or isinstance(part, Decimal):
        return part
    return next((tier.price for tier in reversed(part.tiers) if input_tokens > tier.start), part.base)
