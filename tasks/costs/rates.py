"""What a token costs: an exact rate of whole pico-USD, and where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import gcd, lcm
from typing import Any, Final

PUSD_PER_USD = 10**12
TOKENS_PER_MTOK = 10**6
MAX_RATE_PUSD = 10**21
"""A larger numerator could overflow 128 bits in a sum; at one token a unit it is a billion USD per token."""

INPUT_PARTS: Final = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "cached_audio_input")
OUTPUT_PARTS: Final = ("output", "reasoning", "audio_output")
PARTS: Final = (*INPUT_PARTS, *OUTPUT_PARTS, "request", "other")
"""What a call is billed for; the parts are disjoint, and in this order their costs are rounded."""
STANDARD: Final = "standard"
SECONDS_A_DAY: Final = 86_400


class Layer(StrEnum):
    """Where a price was found; the first one that has it decides."""

    RELEASE = "release"
    CONTRACT = "contract"
    GPU_HOURS = "gpu hours"
    BOOK = "price book"
    CATALOGUE = "catalogue"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRate:
    """The price of one unit that is no plain token, such as a web search or a token of an image.

    Attributes:
        name: As ``other_usage`` of the interaction log names it.
        pusd_per_unit: Pico-USD for ``unit_tokens`` of the rate.
        inside: ``input`` or ``output`` where the unit is a part of those tokens; None where it is none.
    """

    name: str
    pusd_per_unit: int
    inside: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The price of one model on one UTC day, for requests of a size.

    A rate that is no whole number of pico-USD per token is kept as whole pico-USD for ``unit_tokens`` tokens, so the
    cost of a request is rounded once: half even, to whole pico-USD.

    Attributes:
        day: The UTC day.
        input_pusd_per_unit, output_pusd_per_unit: Pico-USD for ``unit_tokens`` tokens.
        cached_input_pusd_per_unit: The same for cached tokens, or None where they cost as others do.
        cache_write_pusd_per_unit, cache_write_1h_pusd_per_unit, audio_input_pusd_per_unit,
        cached_audio_input_pusd_per_unit, reasoning_pusd_per_unit, audio_output_pusd_per_unit: The same; None where
            they cost what the tokens cost that they are a part of.
        request_pusd_per_unit: Pico-USD for ``unit_tokens`` requests.
        units: What else has a price.
        bills_output: False where the model has no price for output, as an embedding has none.
        unit_tokens: 1 where the rate is exact per token.
        min_input_tokens, max_input_tokens: The sizes it holds for, both inclusive; None is without end.
        from_second, until_second: Which part of the UTC day it holds for, half-open; few prices change within a day.
        layer: Where the price was found.
        sha256: Digest of the entry that was found there.
        list_rate: What the list asks for requests of the same sizes; None where no list knows the model.
    """

    provider: str
    model: str
    day: date
    input_pusd_per_unit: int
    cached_input_pusd_per_unit: int | None
    output_pusd_per_unit: int
    cache_write_pusd_per_unit: int | None = None
    cache_write_1h_pusd_per_unit: int | None = None
    audio_input_pusd_per_unit: int | None = None
    cached_audio_input_pusd_per_unit: int | None = None
    reasoning_pusd_per_unit: int | None = None
    audio_output_pusd_per_unit: int | None = None
    request_pusd_per_unit: int = 0
    units: tuple[UnitRate, ...] = ()
    bills_output: bool = True
    unit_tokens: int
    min_input_tokens: int = 0
    max_input_tokens: int | None = None
    from_second: int = 0
    until_second: int = SECONDS_A_DAY
    layer: Layer
    sha256: str
    list_rate: Rate | None = None

    def holds(self, input_tokens: int) -> bool:
        """Return whether it is for requests of a size."""
        return self.min_input_tokens <= input_tokens <= (self.max_input_tokens or input_tokens)

    def part_rates(self) -> tuple[int, ...]:
        """Return pico-USD for ``unit_tokens`` of each of ``PARTS`` but the last, with every fallback resolved."""
        inputs, outputs = self.input_pusd_per_unit, self.output_pusd_per_unit
        read = _first(self.cached_input_pusd_per_unit, inputs)
        write = _first(self.cache_write_pusd_per_unit, inputs)
        audio = _first(self.audio_input_pusd_per_unit, inputs)
        # Audio from a cache is both; where only the two prices are known, the dearer one never understates.
        known = [rate for rate in (self.cached_input_pusd_per_unit, self.audio_input_pusd_per_unit) if rate is not None]
        return (
            inputs,
            read,
            write,
            _first(self.cache_write_1h_pusd_per_unit, write),
            audio,
            _first(self.cached_audio_input_pusd_per_unit, max(known, default=inputs)),
            outputs,
            _first(self.reasoning_pusd_per_unit, outputs),
            _first(self.audio_output_pusd_per_unit, outputs),
            self.request_pusd_per_unit,
        )

    def times(self, factor: Fraction, *, layer: Layer, sha256: str) -> Rate | None:
        """Return the rate times a factor from 0 to 1, exact, or None where it is too large to be one."""
        up = factor.denominator
        if max(*self.part_rates(), self.unit_tokens, *(unit.pusd_per_unit for unit in self.units)) * up > MAX_RATE_PUSD:
            return None
        names = [f"{name}_pusd_per_unit" for name in (*TOKEN_PRICES, "request")]
        tokens: dict[str, Any] = {name: getattr(self, name) for name in names}
        scaled: dict[str, Any] = {
            name: None if rate is None else rate * factor.numerator for name, rate in tokens.items()
        }
        units = [replace(unit, pusd_per_unit=unit.pusd_per_unit * factor.numerator) for unit in self.units]
        return _reduced(
            replace(self, **scaled, units=tuple(units), unit_tokens=self.unit_tokens * up, layer=layer, sha256=sha256)
        )

    @property
    def is_free(self) -> bool:
        """Whether everything it has a price for is declared to cost 0."""
        return not any(self.part_rates()) and not any(unit.pusd_per_unit for unit in self.units)

    @property
    def is_plain(self) -> bool:
        """Whether the cost of calls is the rate times the sum of their tokens, without a rounding of each."""
        return self.unit_tokens == 1 and self.bills_output


@dataclass(frozen=True, slots=True, kw_only=True)
class UsdPerMtok:
    """A price as it is published, USD per million tokens; None costs what it is a part of.

    Attributes:
        output_usd_per_mtok: None where the model has no price for output.
        usd_per_request: USD for each call.
        usd_per_unit: USD for one of each other unit; with ``input`` or ``output`` where it is a part of those tokens.
        min_input_tokens, max_input_tokens: The sizes of requests it holds for.
    """

    input_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None
    output_usd_per_mtok: Decimal | None
    cache_write_usd_per_mtok: Decimal | None = None
    cache_write_1h_usd_per_mtok: Decimal | None = None
    audio_input_usd_per_mtok: Decimal | None = None
    cached_audio_input_usd_per_mtok: Decimal | None = None
    reasoning_usd_per_mtok: Decimal | None = None
    audio_output_usd_per_mtok: Decimal | None = None
    usd_per_request: Decimal = Decimal()
    usd_per_unit: Mapping[tuple[str, str | None], Fraction] = field(default_factory=dict)
    min_input_tokens: int = 0
    max_input_tokens: int | None = None


TOKEN_PRICES: Final = (
    *("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "cached_audio_input"),
    *("output", "reasoning", "audio_output"),
)
"""``<name>_usd_per_mtok`` of a price is ``<name>_pusd_per_unit`` of its rate."""


def make_rate(
    price: UsdPerMtok,
    *,
    provider: str,
    model: str,
    day: date,
    layer: Layer,
    sha256: str,
    factor: Fraction = Fraction(1),
) -> Rate | None:
    """Return a published price, times a factor, as an exact rate, or None where it is too large to be one."""
    exact: dict[str, Fraction] = {}
    for name in TOKEN_PRICES:
        usd = getattr(price, f"{name}_usd_per_mtok")
        if usd is not None:
            exact[f"{name}_pusd_per_unit"] = Fraction(usd) * PUSD_PER_USD / TOKENS_PER_MTOK * factor
    exact["request_pusd_per_unit"] = Fraction(price.usd_per_request) * PUSD_PER_USD * factor
    others = {key: usd * PUSD_PER_USD * factor for key, usd in price.usd_per_unit.items()}
    unit = lcm(*(fraction.denominator for fraction in (*exact.values(), *others.values())))
    whole = {name: int(fraction * unit) for name, fraction in exact.items()}
    units = [UnitRate(name=key[0], inside=key[1], pusd_per_unit=int(usd * unit)) for key, usd in others.items()]
    if max(*whole.values(), unit, *(item.pusd_per_unit for item in units)) > MAX_RATE_PUSD:
        return None
    names: dict[str, Any] = {"cached_input_pusd_per_unit": None, "output_pusd_per_unit": 0} | whole
    return Rate(
        provider=provider,
        model=model,
        day=day,
        **names,
        units=tuple(sorted(units, key=lambda item: item.name)),
        bills_output=price.output_usd_per_mtok is not None,
        unit_tokens=unit,
        min_input_tokens=price.min_input_tokens,
        max_input_tokens=price.max_input_tokens,
        layer=layer,
        sha256=sha256,
    )


def _reduced(rate: Rate) -> Rate:
    """Return the same rate in the smallest whole numbers."""
    names = [f"{name}_pusd_per_unit" for name in (*TOKEN_PRICES, "request")]
    values: dict[str, Any] = {name: getattr(rate, name) for name in names}
    shared = gcd(
        rate.unit_tokens, *(value for value in values.values() if value), *(unit.pusd_per_unit for unit in rate.units)
    )
    smaller: dict[str, Any] = {name: None if value is None else value // shared for name, value in values.items()}
    units = tuple(replace(unit, pusd_per_unit=unit.pusd_per_unit // shared) for unit in rate.units)
    return replace(rate, **smaller, units=units, unit_tokens=rate.unit_tokens // shared)


def with_list(rates: Sequence[Rate], listed: Sequence[Rate]) -> tuple[Rate, ...]:
    """Return the rates with what the list asks for the same requests, split where the list changes."""
    hours = {(item.from_second, item.until_second) for item in listed} or {(0, SECONDS_A_DAY)}
    found: list[Rate] = []
    for rate in rates:
        for start, end in sorted(hours):
            first, last = max(rate.from_second, start), min(rate.until_second, end)
            mine = [item for item in listed if (item.from_second, item.until_second) == (start, end)]
            if first < last:
                found.extend(_split(replace(rate, from_second=first, until_second=last), mine))
    return tuple(found)


def _split(rate: Rate, listed: Sequence[Rate]) -> Iterator[Rate]:
    ends = {rate.min_input_tokens} | {item.min_input_tokens for item in listed}
    ends |= {item.max_input_tokens + 1 for item in listed if item.max_input_tokens is not None}
    last = rate.max_input_tokens
    starts = sorted(end for end in ends if end >= rate.min_input_tokens and (last is None or end <= last))
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        found = next((item for item in listed if item.holds(start)), None)
        end = last if following is None else following - 1
        yield replace(rate, min_input_tokens=start, max_input_tokens=end, list_rate=found)


def entry_sha256(entry: Mapping[str, object]) -> str:
    """Return the digest of a price entry: its canonical JSON, numbers and dates as texts."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def _first(rate: int | None, otherwise: int) -> int:
    return otherwise if rate is None else rate
