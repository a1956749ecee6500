"""Contracts: what was agreed with a provider in the place of its list price."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.costs.rates import Layer, Rate, UsdPerMtok, entry_sha256, make_rate
from tasks.release.model import Name

Usd = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=6, allow_inf_nan=False)]
Percent = Annotated[Decimal, Field(gt=0, le=100, max_digits=8, decimal_places=5, allow_inf_nan=False)]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
MIXED = "give either percent_off or input_usd_per_mtok and output_usd_per_mtok"


class Contract(BaseModel):
    """One agreement over a range of UTC days; the first one of the price book that fits a call decides.

    Attributes:
        name: What people call it.
        provider, model: As the interaction log names them; ``*`` and ``?`` stand for anything.
        team: Whose calls it is for; None is everybody's.
        service_tier: What has to be bought; None is any tier.
        from_utc: The first day.
        until_utc: The first day after it; None where it holds on.
        percent_off: Percent of the list price that are not paid, for every part of it.
        input_usd_per_mtok, cached_input_usd_per_mtok, cache_write_usd_per_mtok, output_usd_per_mtok: An agreed one.
        committed_usd_per_month: What is paid in any case; it changes the price of no call.
        source: Where it is written down.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    provider: Pattern
    model: Pattern = "*"
    team: str | None = None
    service_tier: str | None = None
    from_utc: date
    until_utc: date | None = None
    percent_off: Percent | None = None
    input_usd_per_mtok: Usd | None = None
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd | None = None
    committed_usd_per_month: Usd | None = None
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if self.until_utc is not None and self.until_utc <= self.from_utc:
            raise ValueError(f"until_utc {self.until_utc} is not after from_utc {self.from_utc}")
        own = (self.input_usd_per_mtok, self.output_usd_per_mtok)
        parts = (*own, self.cached_input_usd_per_mtok, self.cache_write_usd_per_mtok)
        if (self.percent_off is None) == all(part is None for part in parts) or (
            self.percent_off is None and None in own
        ):
            raise ValueError(MIXED)
        return self

    def covers(self, provider: str, model: str, day: date, team: str | None, tier: str) -> bool:
        """Return whether it is for a call of a team on a UTC day."""
        begun = self.from_utc <= day and (self.until_utc is None or day < self.until_utc)
        bought = self.team in {None, team} and self.service_tier in {None, tier}
        return begun and bought and fnmatchcase(provider, self.provider) and fnmatchcase(model, self.model)

    def rates(self, provider: str, model: str, day: date, listed: tuple[Rate, ...]) -> tuple[Rate, ...]:
        """Return the agreed rates; a discount of a list price that nobody knows is unpriced."""
        if self.percent_off is not None:
            factor = 1 - Fraction(self.percent_off) / 100
            return tuple(found for rate in listed if (found := _discounted(rate, factor, self)) is not None)
        price = UsdPerMtok(
            input_usd_per_mtok=self.input_usd_per_mtok or Decimal(),
            cached_input_usd_per_mtok=self.cached_input_usd_per_mtok,
            cache_write_usd_per_mtok=self.cache_write_usd_per_mtok,
            output_usd_per_mtok=self.output_usd_per_mtok,
        )
        sha256 = entry_sha256(self.model_dump(exclude_defaults=True))
        made = make_rate(price, provider=provider, model=model, day=day, layer=Layer.CONTRACT, sha256=sha256)
        return (made,) if made is not None else ()


def _discounted(rate: Rate, factor: Fraction, contract: Contract) -> Rate | None:
    sha256 = entry_sha256({**contract.model_dump(exclude_defaults=True), "list_sha256": rate.sha256})
    return rate.times(factor, layer=Layer.CONTRACT, sha256=sha256)
