"""The view ``priced``: every call with what each part of it cost, exact to the pico-USD.

An amount is kept in pico-USD for ``unit_tokens`` tokens and is rounded once, half to even. A part is the step that the
rounded running sum makes, so the parts add up to the call whatever the price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import duckdb
import pyarrow as pa

from tasks.costs.pricing_sql import priced_sql
from tasks.costs.rates import PARTS, Rate
from tasks.costs.usage import KEYS, MAX_PLAIN_TOKENS, FindRates, UsageKey, prepare_calls

_COUNT = pa.decimal128(38, 0)
_ENDLESS: Final = 2**63 - 1
_PARTS: Final = PARTS[:-1]
_SIDES: Final = ("rate", "list")
_UNITS: Final = pa.map_(pa.string(), _COUNT)
_RATES_SCHEMA: Final = pa.schema(
    [
        *((name, pa.date32() if name == "date_utc" else pa.string()) for name in KEYS),
        ("min_input_tokens", pa.int64()),
        ("max_input_tokens", pa.int64()),
        ("from_second", pa.int64()),
        ("until_second", pa.int64()),
        *((f"{side}_{part}", _COUNT) for side in _SIDES for part in (*_PARTS, "tokens")),
        *((f"{side}_units", _UNITS) for side in _SIDES),
        ("inside_input", pa.list_(pa.string())),
        ("inside_output", pa.list_(pa.string())),
        ("has_list", pa.bool_()),
        ("bills_output", pa.bool_()),
        ("is_free", pa.bool_()),
        ("is_plain", pa.bool_()),
        ("price_layer", pa.string()),
        ("price_sha256", pa.string()),
    ]
)


def price_calls(connection: duckdb.DuckDBPyConnection, keys: Iterable[UsageKey], find: FindRates) -> None:
    """Make the view ``priced`` of the view ``interactions`` of a connection.

    Args:
        connection: Holds the view, with columns of the interaction log; those it lacks are NULL.
        keys: What it has usage of, as ``find_usage_keys`` says; calls of any other key are unpriced.
        find: What the tokens cost.
    """
    prepare_calls(connection)
    register_rates(connection, {key: find(key) for key in keys})
    connection.execute(f"CREATE OR REPLACE TEMP VIEW priced AS {priced_sql()}")


def register_rates(connection: duckdb.DuckDBPyConnection, rates: Mapping[UsageKey, tuple[Rate, ...]]) -> None:
    """Put rates into the table ``rates`` of a connection, in the place of those that are there."""
    rows = [_row(key, rate) for key, found in rates.items() for rate in found]
    connection.register("given_rates", pa.Table.from_pylist(rows, schema=_RATES_SCHEMA))
    wide = {name for name in _RATES_SCHEMA.names if _RATES_SCHEMA.field(name).type == _COUNT}
    columns = [f"CAST({name} AS HUGEINT) AS {name}" if name in wide else _unit(name) for name in _RATES_SCHEMA.names]
    connection.execute(f"CREATE OR REPLACE TEMP TABLE rates AS SELECT {', '.join(columns)} FROM given_rates")  # noqa: S608 -- own names
    connection.unregister("given_rates")


def _unit(name: str) -> str:
    return f"CAST({name} AS MAP(VARCHAR, HUGEINT)) AS {name}" if name.endswith("_units") else name


def _row(key: UsageKey, rate: Rate) -> dict[str, Any]:
    listed = rate.list_rate
    row: dict[str, Any] = {name: getattr(key, name) for name in KEYS}
    for side, one in zip(_SIDES, (rate, listed or rate), strict=True):
        row |= {f"{side}_{part}": Decimal(pusd) for part, pusd in zip(_PARTS, one.part_rates(), strict=True)}
        row[f"{side}_tokens"] = Decimal(one.unit_tokens)
        row[f"{side}_units"] = [(unit.name, Decimal(unit.pusd_per_unit)) for unit in one.units]
    return row | {
        "min_input_tokens": rate.min_input_tokens,
        "max_input_tokens": _ENDLESS if rate.max_input_tokens is None else rate.max_input_tokens,
        "from_second": rate.from_second,
        "until_second": rate.until_second,
        "inside_input": [unit.name for unit in rate.units if unit.inside == "input"],
        "inside_output": [unit.name for unit in rate.units if unit.inside == "output"],
        "has_list": listed is not None,
        "bills_output": rate.bills_output,
        "is_free": rate.is_free,
        "is_plain": is_plain(rate),
        "price_layer": str(rate.layer),
        "price_sha256": rate.sha256,
    }


def is_plain(rate: Rate) -> bool:
    """Return whether calls may be added up before they are priced: no rounding, and no cost beyond 64 bits."""
    listed = rate.list_rate or rate
    largest = max(*rate.part_rates(), *listed.part_rates())
    return rate.is_plain and listed.unit_tokens == 1 and largest * (2 * MAX_PLAIN_TOKENS + 1) < 2**63
