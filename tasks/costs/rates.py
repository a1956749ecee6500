"""What a token costs: an exact rate of whole pico-USD, and where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import lcm

PUSD_PER_USD = 10**12
TOKENS_PER_MTOK = 10**6
MAX_RATE_PUSD = 10**21
"""A larger numerator could overflow 128 bits in a sum; at one token a unit it is a billion USD per token."""


class Layer(StrEnum):
    """Where a price was found; the first one that has it decides."""

    RELEASE = "release"
    BOOK = "price book"
    CATALOGUE = "catalogue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The price of one model on one UTC day, for requests of a size.

    A rate that is no whole number of pico-USD per token is kept as whole pico-USD for ``unit_tokens`` tokens, so the
    cost of a request is rounded once: half even, to whole pico-USD.

    Attributes:
        day: The UTC day.
        input_pusd_per_unit, output_pusd_per_unit: Pico-USD for ``unit_tokens`` tokens.
        cached_input_pusd_per_unit: The same for cached tokens, or None where they cost as others do.
        unit_tokens: 1 where the rate is exact per token.
        min_input_tokens, max_input_tokens: The sizes it holds for, both inclusive; None is without end.
        layer: Where the price was found.
        sha256: Digest of the entry that was found there.
    """

    provider: str
    model: str
    day: date
    input_pusd_per_unit: int
    cached_input_pusd_per_unit: int | None
    output_pusd_per_unit: int
    unit_tokens: int
    min_input_tokens: int = 0
    max_input_tokens: int | None = None
    layer: Layer
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsdPerMtok:
    """A price as it is published, USD per million tokens."""

    input_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None
    output_usd_per_mtok: Decimal
    min_input_tokens: int = 0
    max_input_tokens: int | None = None


def make_rate(price: UsdPerMtok, *, provider: str, model: str, day: date, layer: Layer, sha256: str) -> Rate | None:
    """Return a published price as an exact rate, or None where it is too large to be one."""
    cached = price.cached_input_usd_per_mtok
    exact = [_pusd_per_token(usd) for usd in (price.input_usd_per_mtok, price.output_usd_per_mtok, cached or Decimal())]
    unit = lcm(*(fraction.denominator for fraction in exact))
    whole = [int(fraction * unit) for fraction in exact]
    if max(*whole, unit) > MAX_RATE_PUSD:
        return None
    return Rate(
        provider=provider,
        model=model,
        day=day,
        input_pusd_per_unit=whole[0],
        output_pusd_per_unit=whole[1],
        cached_input_pusd_per_unit=None if cached is None else whole[2],
        unit_tokens=unit,
        min_input_tokens=price.min_input_tokens,
        max_input_tokens=price.max_input_tokens,
        layer=layer,
        sha256=sha256,
    )


def entry_sha256(entry: Mapping[str, object]) -> str:
    """Return the digest of a price entry: its canonical JSON, numbers and dates as texts."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def _pusd_per_token(usd_per_mtok: Decimal) -> Fraction:
    return Fraction(usd_per_mtok) * PUSD_PER_USD / TOKENS_PER_MTOK
