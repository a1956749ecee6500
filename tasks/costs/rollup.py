"""A day's usage and cost, line by line: added up in DuckDB, priced in whole numbers, exact to the pico-USD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import duckdb

from tasks.costs.line import ROLLUP_SCHEMA, LineKey, Rollup, add_lines, as_table, read_rollups
from tasks.costs.pricing import is_plain, register_rates
from tasks.costs.pricing_sql import priced_sql
from tasks.costs.rates import PARTS, PUSD_PER_USD, Rate
from tasks.costs.tally import (
    ALONE,
    DIMENSIONS,
    EMPTY,
    KIND,
    REFUSED_CALL,
    TOKENS,
    UNKNOWN,
    Group,
    part_counts,
    tally,
    usual_sizes,
)
from tasks.costs.usage import SUCCEEDED, FindRates, UsageKey, find_usage_keys, prepare_calls

__all__ = [
    "ROLLUP_SCHEMA", "LineKey", "Rollup", "UsageKey", "add_up", "as_table", "find_usage_keys", "format_usd",
    "read_rollups",
]  # fmt: skip

UTC_DAY: Final = "date_utc"


def add_up(connection: duckdb.DuckDBPyConnection, find: FindRates, day: str = UTC_DAY) -> tuple[Rollup, ...]:
    """Add up the view ``interactions`` of a connection.

    Args:
        connection: Holds the view, with columns of the interaction log; those it lacks are NULL.
        find: What the tokens cost.
        day: SQL of the day a call belongs to.

    Returns:
        The lines in the order of their keys. They add up to what the view ``priced`` says, to the last digit.
    """
    prepare_calls(connection)
    sizes: set[int] = set(usual_sizes())
    groups = tally(connection, day, sorted(sizes))
    rates = {key: find(key) for key in {group.key for group in groups}}
    missing = {rate.min_input_tokens for found in rates.values() for rate in found} - sizes - {0}
    seconds = {rate.from_second for found in rates.values() for rate in found} - {0}
    if missing or seconds:
        groups = tally(connection, day, sorted(sizes | missing), sorted(seconds))
    found = [(group, _pick(rates[group.key], group)) for group in groups]
    lines = [_line(group, rate) for group, rate in found if not _is_alone(group, rate)]
    rest = {group.key for group, rate in found if _is_alone(group, rate)}
    if rest:
        register_rates(connection, {key: rates[key] for key in rest})
        lines.extend(_price_alone(connection, day))
    return add_lines(lines)


def format_usd(cost_pusd: int) -> str:
    """Return an amount in USD, exact: at least two decimals, and as many as it has.

    >>> format_usd(144_400_220_000_000), format_usd(-5 * 10**12), format_usd(1)
    ('144.40022', '-5.00', '0.000000000001')
    """
    dollars, rest = divmod(abs(cost_pusd), PUSD_PER_USD)
    decimals = f"{rest:012d}".rstrip("0").ljust(2, "0")
    return f"{'-' if cost_pusd < 0 else ''}{dollars}.{decimals}"


def _pick(rates: Sequence[Rate], group: Group) -> Rate | None:
    """Return the rate of a group; without a request size, that of the smallest, which names the price."""
    now = [rate for rate in rates if rate.from_second <= group.second < rate.until_second]
    return next((rate for rate in now if rate.holds(group.size or 0)), None)


def _is_alone(group: Group, rate: Rate | None) -> bool:
    return group.kind == ALONE or (rate is not None and not is_plain(rate))


def _line(group: Group, rate: Rate | None) -> Rollup:
    """Return the line of calls whose cost is the rate times the sum of their tokens."""
    key = group.line if rate is None else replace(group.line, price_layer=str(rate.layer), price_sha256=rate.sha256)
    line = Rollup(
        key=key,
        requests=group.requests,
        succeeded_requests=group.succeeded,
        input_tokens=group.tokens[0],
        output_tokens=group.tokens[1],
        cached_input_tokens=group.tokens[2],
    )
    if group.kind == REFUSED_CALL:
        nothing, n = (0,) * len(PARTS), group.requests
        known = replace(line, priced_requests=n, free_requests=n, counts=nothing, parts_pusd=nothing)
        return replace(known, cost_pusd=0, list_cost_pusd=0)
    if group.kind == UNKNOWN:
        return line
    counts = part_counts(group)
    return replace(line, counts=counts) if rate is None else _priced(replace(line, counts=counts), group, rate)


def _priced(line: Rollup, group: Group, rate: Rate) -> Rollup:
    is_free = rate.is_free or (group.kind == EMPTY and rate.request_pusd_per_unit == 0)
    costs = (*_cost_parts(group, rate), 0)
    return replace(
        line,
        priced_requests=group.requests,
        free_requests=group.requests if is_free else 0,
        estimated_requests=group.requests if group.is_estimated and not is_free else 0,
        parts_pusd=costs,
        cost_pusd=sum(costs),
        list_cost_pusd=None if rate.list_rate is None else sum(_cost_parts(group, rate.list_rate)),
    )


def _cost_parts(group: Group, rate: Rate) -> tuple[int, ...]:
    return tuple(count * pusd for count, pusd in zip(part_counts(group)[:-1], rate.part_rates(), strict=True))


def _price_alone(connection: duckdb.DuckDBPyConnection, day: str) -> list[Rollup]:
    """Return the lines of the calls of the view ``priced`` that are rounded, or large, or used other units."""
    dimensions = ", ".join((*DIMENSIONS[1:], "price_layer", "price_sha256"))
    numbers = [
        *(f"count(*) AS requests, count_if({SUCCEEDED}) AS succeeded_requests",),
        "count_if(cost_status IN ('priced', 'free', 'estimated')) AS priced_requests",
        *(f"count_if(cost_status = '{status}') AS {status}_requests" for status in ("free", "estimated", "partial")),
        *(f"sum({name}) AS {name}" for name in (*TOKENS[:3], "cost_pusd", "list_cost_pusd")),
        *(f"sum({part}_count)" for part in PARTS),
        *(f"sum({part}_pusd)" for part in PARTS),
    ]
    found = connection.sql(
        f"SELECT {day} AS day, {dimensions}, {', '.join(numbers)} FROM ({priced_sql()}) "  # noqa: S608 -- own names
        f"WHERE {KIND} = {ALONE} OR NOT is_plain GROUP BY day, {dimensions}"
    )
    first, n = len(DIMENSIONS) + 2, len(PARTS)
    names = found.columns[first : -2 * n]
    return [
        Rollup(
            key=LineKey(*row[:first]),
            counts=row[-2 * n : -n],
            parts_pusd=row[-n:],
            **dict(zip(names, row[first : -2 * n], strict=True)),
        )
        for row in found.fetchall()
    ]
