"""Prices by layers: the release's own, contracts, the project's dated price book, the public catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.costs.catalogue import catalogue_rates
from tasks.costs.contracts import Contract, Usd
from tasks.costs.gpu_hours import GpuHours
from tasks.costs.rates import SECONDS_A_DAY, STANDARD, Layer, Rate, UsdPerMtok, entry_sha256, make_rate, with_list
from tasks.documents import read_document
from tasks.errors import InputError
from tasks.release.model import Name, Price

ModelName = Annotated[str, Field(min_length=1, max_length=200)]


class PriceEntry(BaseModel):
    """One price of one model over a range of UTC days.

    Attributes:
        provider, model: As the interaction log names them.
        from_utc: The first day.
        until_utc: The first day after it; None where it holds on.
        service_tier: What has to be bought for it.
        input_usd_per_mtok, output_usd_per_mtok: USD per million tokens.
        cached_input_usd_per_mtok, cache_write_usd_per_mtok, cache_write_1h_usd_per_mtok, audio_input_usd_per_mtok,
        cached_audio_input_usd_per_mtok, reasoning_usd_per_mtok, audio_output_usd_per_mtok: The same; without one
            such tokens cost what the others cost that they are a part of.
        usd_per_request: USD for each call.
        usd_per_unit: USD for one of each unit of ``other_usage``, such as ``web_searches``.
        source: Where the price was read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Name
    model: ModelName
    from_utc: date
    until_utc: date | None = None
    service_tier: Literal["standard", "batch", "flex", "priority"] = STANDARD
    input_usd_per_mtok: Usd
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None
    cache_write_1h_usd_per_mtok: Usd | None = None
    audio_input_usd_per_mtok: Usd | None = None
    cached_audio_input_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd
    reasoning_usd_per_mtok: Usd | None = None
    audio_output_usd_per_mtok: Usd | None = None
    usd_per_request: Usd = Decimal()
    usd_per_unit: dict[Name, Usd] = Field(default_factory=dict)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.until_utc is not None and self.until_utc <= self.from_utc:
            raise ValueError(f"until_utc {self.until_utc} is not after from_utc {self.from_utc}")
        return self

    def covers(self, provider: str, model: str, day: date, tier: str = STANDARD) -> bool:
        """Return whether this is the price of a model on a UTC day."""
        begun = self.from_utc <= day and (self.until_utc is None or day < self.until_utc)
        return begun and (self.provider, self.model, self.service_tier) == (provider, model, tier)

    def price(self) -> UsdPerMtok:
        """Return what it says, without where and when."""
        tokens = {name: value for name, value in self if name.endswith("_usd_per_mtok")}
        units: dict[tuple[str, str | None], Fraction] = {
            (name, None): Fraction(usd) for name, usd in self.usd_per_unit.items()
        }
        return UsdPerMtok(**tokens, usd_per_request=self.usd_per_request, usd_per_unit=units)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    prices: tuple[PriceEntry, ...]
    contracts: tuple[Contract, ...] = ()
    gpu_hours: tuple[GpuHours, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The project's own dated prices and contracts; no two entries of a model and tier share a day."""

    entries: tuple[PriceEntry, ...] = ()
    contracts: tuple[Contract, ...] = ()
    gpu_hours: tuple[GpuHours, ...] = ()

    def rates(self, provider: str, model: str, day: date, tier: str = STANDARD) -> tuple[Rate, ...]:
        """Return the rate of a model on a UTC day; none where the book does not know it."""
        entry = next((entry for entry in self.entries if entry.covers(provider, model, day, tier)), None)
        if entry is None:
            return ()
        sha256 = entry_sha256(entry.model_dump(exclude_defaults=True))
        rate = make_rate(entry.price(), provider=provider, model=model, day=day, layer=Layer.BOOK, sha256=sha256)
        return _one(rate)

    def hosted(self, provider: str | None, model: str | None, day: date) -> GpuHours | None:
        """Return what a model costs by the hour on a UTC day; None where it is not self-hosted."""
        return next((entry for entry in self.gpu_hours if entry.covers(provider, model, day)), None)


def find_rates(
    book: PriceBook,
    provider: str | None,
    model: str | None,
    day: date,
    override: Price | None = None,
    *,
    team: str | None = None,
    tier: str | None = None,
    by_hour: bool = False,
) -> tuple[Rate, ...]:
    """Return what a model's tokens cost on a UTC day.

    Args:
        book: The project's price book.
        provider: Who is paid, as the interaction log names it; None is unknown.
        model: As the interaction log names it; None is unknown.
        day: UTC.
        override: The price in the file of the release that answered.
        team: Who bears the cost; contracts may be one team's.
        tier: What was bought; None is the standard tier.
        by_hour: Also prices that change within the day; without it such a day has none.

    Returns:
        The rates of the first layer that has any, one for each range of request sizes and part of the day; none is
        unpriced, never 0. Each holds what the list (price book, then catalogue) asks for the same requests.
    """
    tier = tier or STANDARD
    listed = _listed(book, provider, model, day, tier) if provider is not None and model is not None else ()
    if not by_hour and any(rate.until_second - rate.from_second < SECONDS_A_DAY for rate in listed):
        listed = ()
    if override is not None:
        price = UsdPerMtok(
            input_usd_per_mtok=override.input_usd_per_mtok,
            cached_input_usd_per_mtok=None,
            output_usd_per_mtok=override.output_usd_per_mtok,
        )
        own = make_rate(
            price,
            provider=provider or "",
            model=model or "",
            day=day,
            layer=Layer.RELEASE,
            sha256=entry_sha256(override.model_dump()),
        )
        return with_list(_one(own), listed)
    if provider is None or model is None:
        return ()
    contract = next((item for item in book.contracts if item.covers(provider, model, day, team, tier)), None)
    return with_list(listed if contract is None else contract.rates(provider, model, day, listed), listed)


def read_price_book(path: Path) -> PriceBook:
    """Read a price book (YAML).

    Raises:
        InputError: It cannot be read, a field is not allowed, or two entries of a model share a day; with the place.
    """
    found = read_document(path, _Document, texts=True)
    _refuse_overlaps(path, found.prices)
    return PriceBook(found.prices, found.contracts, found.gpu_hours)


def _listed(book: PriceBook, provider: str, model: str, day: date, tier: str) -> tuple[Rate, ...]:
    return book.rates(provider, model, day, tier) or catalogue_rates(provider, model, day, tier)


def _refuse_overlaps(path: Path, entries: tuple[PriceEntry, ...]) -> None:
    placed = sorted(enumerate(entries), key=lambda item: (*_of_model(item[1]), item[1].from_utc))
    for (first, earlier), (second, later) in pairwise(placed):
        if earlier.covers(later.provider, later.model, later.from_utc, later.service_tier):
            raise InputError(
                f"{path}: prices.{first} and prices.{second}: two prices of {later.provider} {later.model} on "
                f"{later.from_utc}; close the earlier one with until_utc: {later.from_utc}"
            )


def _of_model(entry: PriceEntry) -> tuple[str, str, str]:
    return entry.provider, entry.model, entry.service_tier


def _one(rate: Rate | None) -> tuple[Rate, ...]:
    return (rate,) if rate is not None else ()
