"""One line of a rollup: what it is about, how many calls, what they used, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import date
from decimal import Decimal
from functools import reduce
from itertools import groupby
from typing import Any, Final

import pyarrow as pa

from tasks.costs.rates import PARTS, STANDARD

UTC: Final = "UTC"
_COUNT = pa.decimal128(38, 0)


@dataclass(frozen=True, slots=True)
class LineKey:
    """What a line is about; None is unknown. Two prices are two lines.

    Attributes:
        day: A day of the rollup's time zone.
        price_layer: Where the price was found; None where it was not, or where none was needed.
        price_sha256: Digest of the price entry.
    """

    day: date
    application: str
    release_digest: str | None = None
    prompt_name: str | None = None
    prompt_version: int | None = None
    provider: str | None = None
    model: str | None = None
    team: str | None = None
    service_tier: str = STANDARD
    price_layer: str | None = None
    price_sha256: str | None = None

    def order(self) -> tuple[tuple[bool, Any], ...]:
        """Return what lines are put in order by: unknown before all else."""
        return tuple((value is not None, value) for value in astuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollup:
    """One line of a rollup.

    Attributes:
        key: What it is about.
        requests: How many calls.
        succeeded_requests: How many of them ended well: a status below 400 and no error.
        priced_requests: How many have a cost that is wholly known, with the free and the estimated ones.
        free_requests: How many of these cost nothing: declared so, refused, or without any usage.
        estimated_requests: How many of these have tokens that somebody else than the provider counted.
        partial_requests: How many used something that has no price; the known part of their cost is in the sum.
        input_tokens, output_tokens, cached_input_tokens: Sums of what is known; None where nothing is.
        counts: How much of each of ``PARTS``; None where nothing is known.
        parts_pusd: What each of ``PARTS`` cost, pico-USD; None where no call is priced. They add up to the cost.
        cost_pusd: Sum over the calls with a cost, pico-USD; None where no call has one.
        list_cost_pusd: The same before contracts and releases' own prices, over the calls that a list knows.
    """

    key: LineKey
    requests: int
    succeeded_requests: int = 0
    priced_requests: int = 0
    free_requests: int = 0
    estimated_requests: int = 0
    partial_requests: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    counts: tuple[int | None, ...] = (None,) * len(PARTS)
    parts_pusd: tuple[int | None, ...] = (None,) * len(PARTS)
    cost_pusd: int | None = None
    list_cost_pusd: int | None = None

    @property
    def unpriced_requests(self) -> int:
        """How many calls have no cost at all."""
        return self.requests - self.priced_requests - self.partial_requests

    @property
    def coverage(self) -> float:
        """The share of the calls whose cost is wholly known, 0 to 1."""
        return self.priced_requests / self.requests

    @property
    def price_layer(self) -> str | None:
        """Where the price was found."""
        return self.key.price_layer


_NUMBERS: Final = tuple(
    item.name for item in fields(Rollup) if item.name.endswith("requests") or item.name.endswith("_tokens")
)
_MONEY: Final = ("cost_pusd", "list_cost_pusd")
ROLLUP_SCHEMA: Final = pa.schema(
    [
        pa.field("zone", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("application", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("release_digest", "prompt_name")),
        pa.field("prompt_version", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("provider", "model", "team")),
        pa.field("service_tier", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("price_layer", "price_sha256")),
        *(pa.field(name, pa.int64(), nullable=False) for name in _NUMBERS if name.endswith("requests")),
        pa.field("unpriced_requests", pa.int64(), nullable=False),
        *(pa.field(name, _COUNT) for name in _NUMBERS if name.endswith("_tokens")),
        *(pa.field(f"{part}_{what}", _COUNT) for part in PARTS for what in ("count", "pusd")),
        *(pa.field(name, _COUNT) for name in _MONEY),
        pa.field("coverage", pa.float64(), nullable=False),
    ]
)
"""The columns of a rollup. A sum is NULL where nothing in it is known."""


def add_lines(lines: Iterable[Rollup]) -> tuple[Rollup, ...]:
    """Return one line a key, in the order of the keys; rollups of shards add up to that of the whole."""
    ordered = sorted(lines, key=_order)
    return tuple(reduce(_add, group) for _, group in groupby(ordered, key=_order))


def as_table(lines: Sequence[Rollup], zone: str = UTC) -> pa.Table:
    """Return lines as rows of ``ROLLUP_SCHEMA``, in their order."""
    return pa.Table.from_pylist([_row(line, zone) for line in lines], schema=ROLLUP_SCHEMA)


def read_rollups(table: pa.Table) -> tuple[Rollup, ...]:
    """Return the rows of ``ROLLUP_SCHEMA`` as objects, in their order."""
    return tuple(_line(row) for row in table.to_pylist())


def known_sum(values: Iterable[int | None]) -> int | None:
    """Return the sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _order(line: Rollup) -> tuple[tuple[bool, Any], ...]:
    return line.key.order()


def _add(one: Rollup, other: Rollup) -> Rollup:
    sums: dict[str, Any] = {
        name: known_sum((getattr(one, name), getattr(other, name))) for name in (*_NUMBERS, *_MONEY)
    }
    counts = tuple(known_sum(pair) for pair in zip(one.counts, other.counts, strict=True))
    parts = tuple(known_sum(pair) for pair in zip(one.parts_pusd, other.parts_pusd, strict=True))
    return replace(one, **sums, counts=counts, parts_pusd=parts)


def _row(line: Rollup, zone: str) -> dict[str, Any]:
    row: dict[str, Any] = {item.name: getattr(line.key, item.name) for item in fields(LineKey)}
    row |= {name: getattr(line, name) for name in (*_NUMBERS, "unpriced_requests", "coverage")}
    sums = {name: getattr(line, name) for name in _MONEY}
    sums |= {f"{part}_count": value for part, value in zip(PARTS, line.counts, strict=True)}
    sums |= {f"{part}_pusd": value for part, value in zip(PARTS, line.parts_pusd, strict=True)}
    return row | {name: None if value is None else Decimal(value) for name, value in sums.items()} | {"zone": zone}


def _line(row: dict[str, Any]) -> Rollup:
    numbers: dict[str, Any] = {name: _whole(row[name]) for name in (*_NUMBERS, *_MONEY)}
    return Rollup(
        key=LineKey(**{item.name: row[item.name] for item in fields(LineKey)}),
        counts=tuple(_whole(row[f"{part}_count"]) for part in PARTS),
        parts_pusd=tuple(_whole(row[f"{part}_pusd"]) for part in PARTS),
        **numbers,
    )


def _whole(value: Decimal | int | None) -> int | None:
    return None if value is None else int(value)
