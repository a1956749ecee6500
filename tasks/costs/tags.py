"""What each tag cost. A call with two tags counts in both, so the sums of a column are more than the bill.

Beside them stands what the tag is the first of: those columns, with the line of the calls without a tag, add up to the
bill exactly, and this is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from decimal import Decimal
from typing import Any, Final

import duckdb
import pyarrow as pa

from tasks.costs.line import Rollup, known_sum
from tasks.costs.pricing import price_calls
from tasks.costs.usage import FindRates, UsageKey
from tasks.errors import ConflictError

_MONEY: Final = pa.decimal128(38, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagLine:
    """What one tag cost on a day.

    Attributes:
        tag: None stands for the calls without any.
        requests, priced_requests, cost_pusd: Of all calls with the tag.
        first_requests, first_priced_requests, first_cost_pusd: Of the calls whose first tag it is; they add up to the
            bill.
    """

    day: date
    application: str
    tag: str | None
    requests: int
    priced_requests: int
    cost_pusd: int | None
    first_requests: int
    first_priced_requests: int
    first_cost_pusd: int | None


_COUNTS: Final = ("requests", "priced_requests", "first_requests", "first_priced_requests")
TAGS_SCHEMA: Final = pa.schema(
    [
        pa.field("zone", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("application", pa.string(), nullable=False),
        pa.field("tag", pa.string()),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
        *(pa.field(name, _MONEY) for name in ("cost_pusd", "first_cost_pusd")),
    ]
)


def add_up_tags(
    connection: duckdb.DuckDBPyConnection, find: FindRates, day: date, lines: Sequence[Rollup]
) -> tuple[TagLine, ...]:
    """Return what the tags of a connection's calls cost, by application and tag.

    Args:
        connection: Holds the view ``interactions`` of one day.
        find: What the tokens cost.
        day: The day.
        lines: The day's rollup by the same prices.

    Raises:
        ConflictError: The tags and the rollup do not add up, which would be an error of this project.
    """
    tagged: list[TagLine] = []
    if connection.sql("SELECT 1 FROM calls WHERE len(tags) > 0 LIMIT 1").fetchall():
        dates = connection.sql("SELECT DISTINCT date_utc FROM calls").fetchall()
        keys = {_key(line, date_utc) for line in lines for (date_utc,) in dates}
        price_calls(connection, sorted(keys, key=repr), find)
        tagged = [TagLine(day=day, **_named(row)) for row in connection.sql(_TAGS).fetchall()]
    applications = sorted({line.key.application for line in lines})
    untagged = [_untagged(day, name, lines, tagged) for name in applications]
    return tuple(
        sorted((*tagged, *untagged), key=lambda line: (line.application, line.tag is not None, line.tag or ""))
    )


def tags_table(lines: Sequence[TagLine], zone: str) -> pa.Table:
    """Return lines as rows of ``TAGS_SCHEMA``, in their order."""
    rows = [asdict(line) | {"zone": zone} | _decimals(line) for line in lines]
    return pa.Table.from_pylist(rows, schema=TAGS_SCHEMA)


def read_tags(table: pa.Table) -> tuple[TagLine, ...]:
    """Return the rows of ``TAGS_SCHEMA`` as objects, in their order."""
    names = [item.name for item in fields(TagLine)]
    return tuple(TagLine(**{name: _whole(row[name]) for name in names}) for row in table.to_pylist())


def _key(line: Rollup, date_utc: date) -> UsageKey:
    of = line.key
    return UsageKey(date_utc, of.application, of.release_digest, of.provider, of.model, of.team, of.service_tier)


def _named(row: tuple[Any, ...]) -> dict[str, Any]:
    names = [item.name for item in fields(TagLine) if item.name != "day"]
    return dict(zip(names, row, strict=True))


def _untagged(day: date, application: str, lines: Sequence[Rollup], tagged: Sequence[TagLine]) -> TagLine:
    """Return the calls without a tag: what the bill has beyond those that have a first one."""
    mine = [line for line in lines if line.key.application == application]
    first = [line for line in tagged if line.application == application]
    requests = sum(line.requests for line in mine) - sum(line.first_requests for line in first)
    priced = sum(line.priced_requests for line in mine) - sum(line.first_priced_requests for line in first)
    whole = known_sum(line.cost_pusd for line in mine)
    rest = (whole or 0) - sum(line.first_cost_pusd or 0 for line in first)
    if min(requests, priced, rest) < 0 or (requests == 0 and rest):
        raise ConflictError(f"{application} on {day}: its tags do not add up to its bill; run the costs again")
    cost = rest if priced or rest else None
    return TagLine(
        day=day,
        application=application,
        tag=None,
        requests=requests,
        priced_requests=priced,
        cost_pusd=cost,
        first_requests=requests,
        first_priced_requests=priced,
        first_cost_pusd=cost,
    )


def _decimals(line: TagLine) -> dict[str, Decimal | None]:
    money = {"cost_pusd": line.cost_pusd, "first_cost_pusd": line.first_cost_pusd}
    return {name: None if value is None else Decimal(value) for name, value in money.items()}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


_TAGS: Final = """
SELECT application, tag, count(*), count_if(cost_status IN ('priced', 'free', 'estimated')), sum(cost_pusd),
    count_if(is_first), count_if(is_first AND cost_status IN ('priced', 'free', 'estimated')),
    sum(cost_pusd) FILTER (is_first)
FROM (
    SELECT application, unnest(tags) AS tag, unnest(range(len(tags))) = 0 AS is_first, cost_status, cost_pusd
    FROM priced WHERE len(tags) > 0
) GROUP BY application, tag
"""
