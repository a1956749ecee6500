"""The two sides of a reconciliation, added up as far as the provider's reports tell lines apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from fractions import Fraction
from typing import Final

from tasks.costs.line import Rollup
from tasks.costs.rates import PARTS, PUSD_PER_USD
from tasks.finance.provider_reports import Entry, ProviderReport

_FOLDED: Final = {"reasoning": "output"}
"""What no provider reports apart."""


@dataclass(slots=True)
class Side:
    """One line of a bill.

    Attributes:
        tokens, usd: None where nobody says.
        unpriced: Tokens without a price.
        rounding: How much the amount may be off for its own rounding.
    """

    tokens: int | None = None
    usd: Fraction | None = None
    unpriced: int = 0
    rounding: Fraction = field(default_factory=Fraction)


Key = tuple[date, str | None, str | None, str]
"""Day, model, tier and part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grain:
    """How far the provider's reports tell lines apart; ours are added up as far."""

    by_model: bool
    by_tier: bool
    by_part: bool
    has_usd: bool

    @staticmethod
    def of(entries: Sequence[Entry]) -> Grain:
        """Return the grain that all entries have."""
        tokens = [entry for entry in entries if entry.part != "other"]
        return Grain(
            by_model=all(entry.model is not None for entry in tokens),
            by_tier=all(entry.tier is not None for entry in tokens),
            by_part=all(entry.part != "total" for entry in tokens),
            has_usd=any(entry.usd is not None for entry in entries),
        )

    def key(self, entry: Entry) -> Key:
        """Return the line an entry belongs to."""
        part = _FOLDED.get(entry.part, entry.part) if self.by_part else "total"
        return (entry.day, entry.model if self.by_model else None, entry.tier if self.by_tier else None, part)


def their_entries(reports: Sequence[ProviderReport], days: frozenset[date], aliases: Mapping[str, str]) -> list[Entry]:
    """Return the entries of some days; tokens of costs are left out where a usage report has them, too."""
    entries = [entry for report in reports for entry in report.entries if entry.day in days]
    has_usage = any(entry.usd is None for entry in entries)
    named = [replace(entry, model=aliases.get(entry.model or "", entry.model)) for entry in entries]
    return [replace(entry, tokens=None) if has_usage and entry.usd is not None else entry for entry in named]


def covered(reports: Sequence[ProviderReport]) -> frozenset[date]:
    """Return the days that all of some reports cover wholly."""
    days = [report.days for report in reports]
    return frozenset.intersection(*days) if days else frozenset()


def our_entries(lines: Sequence[Rollup]) -> Iterator[Entry]:
    """Yield what a rollup says, in the shape of a report."""
    for line in lines:
        for part, count, pusd in zip(PARTS, line.counts, line.parts_pusd, strict=True):
            is_tokens = part not in {"request", "other"}
            usd = None if pusd is None else Fraction(pusd, PUSD_PER_USD)
            if (is_tokens and count) or usd:
                of = line.key
                yield Entry(
                    day=of.day,
                    model=of.model or "unknown",
                    tier=of.service_tier,
                    part=part,
                    tokens=(count or 0) if is_tokens else None,
                    usd=usd,
                )


def add_sides(entries: Iterable[Entry], grain: Grain) -> dict[Key, Side]:
    """Return one side of the bill, added up to a grain."""
    sides: dict[Key, Side] = defaultdict(Side)
    for entry in entries:
        side = sides[grain.key(entry)]
        if entry.tokens is not None:
            side.tokens = (side.tokens or 0) + entry.tokens
            side.unpriced += entry.tokens if entry.usd is None else 0
        if entry.usd is not None:
            side.usd = (side.usd or Fraction(0)) + entry.usd
        side.rounding += entry.rounding_usd
    return dict(sides)
