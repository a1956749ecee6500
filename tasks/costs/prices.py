"""Prices by layers: the release's own, the project's dated price book, the public catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.costs.catalogue import catalogue_rates
from tasks.costs.rates import Layer, Rate, UsdPerMtok, entry_sha256, make_rate
from tasks.documents import read_document
from tasks.errors import InputError
from tasks.release.model import Name, Price

Usd = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=6, allow_inf_nan=False)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]


class PriceEntry(BaseModel):
    """One price of one model over a range of UTC days.

    Attributes:
        provider, model: As the interaction log names them.
        from_utc: The first day.
        until_utc: The first day after it; None where it holds on.
        input_usd_per_mtok, cached_input_usd_per_mtok, output_usd_per_mtok: USD per million tokens.
        source: Where the price was read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Name
    model: ModelName
    from_utc: date
    until_utc: date | None = None
    input_usd_per_mtok: Usd
    cached_input_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.until_utc is not None and self.until_utc <= self.from_utc:
            raise ValueError(f"until_utc {self.until_utc} is not after from_utc {self.from_utc}")
        return self

    def covers(self, provider: str, model: str, day: date) -> bool:
        """Return whether this is the price of a model on a UTC day."""
        begun = self.from_utc <= day and (self.until_utc is None or day < self.until_utc)
        return begun and (self.provider, self.model) == (provider, model)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    prices: tuple[PriceEntry, ...]


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The project's own dated prices; no two entries of a model share a day."""

    entries: tuple[PriceEntry, ...] = ()

    def rates(self, provider: str, model: str, day: date) -> tuple[Rate, ...]:
        """Return the rate of a model on a UTC day; none where the book does not know it."""
        entry = next((entry for entry in self.entries if entry.covers(provider, model, day)), None)
        if entry is None:
            return ()
        price = UsdPerMtok(
            input_usd_per_mtok=entry.input_usd_per_mtok,
            cached_input_usd_per_mtok=entry.cached_input_usd_per_mtok,
            output_usd_per_mtok=entry.output_usd_per_mtok,
        )
        sha256 = entry_sha256(entry.model_dump())
        return _one(make_rate(price, provider=provider, model=model, day=day, layer=Layer.BOOK, sha256=sha256))


def find_rates(
    book: PriceBook, provider: str | None, model: str | None, day: date, override: Price | None = None
) -> tuple[Rate, ...]:
    """Return what a model's tokens cost on a UTC day.

    Args:
        book: The project's price book.
        provider: Who is paid, as the interaction log names it; None is unknown.
        model: As the interaction log names it; None is unknown.
        day: UTC.
        override: The price in the file of the release that answered.

    Returns:
        The rates of the first layer that has any, one for each range of request sizes; none is unpriced, never 0.
    """
    if override is not None:
        price = UsdPerMtok(
            input_usd_per_mtok=override.input_usd_per_mtok,
            cached_input_usd_per_mtok=None,
            output_usd_per_mtok=override.output_usd_per_mtok,
        )
        place, sha256 = {"provider": provider or "", "model": model or ""}, entry_sha256(override.model_dump())
        return _one(make_rate(price, **place, day=day, layer=Layer.RELEASE, sha256=sha256))
    if provider is None or model is None:
        return ()
    return book.rates(provider, model, day) or catalogue_rates(provider, model, day)


def read_price_book(path: Path) -> PriceBook:
    """Read a price book (YAML).

    Raises:
        InputError: It cannot be read, a field is not allowed, or two entries of a model share a day; with the place.
    """
    entries = read_document(path, _Document, texts=True).prices
    _refuse_overlaps(path, entries)
    return PriceBook(entries)


def _refuse_overlaps(path: Path, entries: tuple[PriceEntry, ...]) -> None:
    placed = sorted(enumerate(entries), key=lambda item: (item[1].provider, item[1].model, item[1].from_utc))
    for (first, earlier), (second, later) in pairwise(placed):
        if earlier.covers(later.provider, later.model, later.from_utc):
            raise InputError(
                f"{path}: prices.{first} and prices.{second}: two prices of {later.provider} {later.model} on "
                f"{later.from_utc}; close the earlier one with until_utc: {later.from_utc}"
            )


def _one(rate: Rate | None) -> tuple[Rate, ...]:
    return (rate,) if rate is not None else ()
