"""A day's usage and cost by application, release and model: joined in DuckDB, exact to the pico-USD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa

from tasks.costs.rates import PUSD_PER_USD, Rate

_COUNT = pa.decimal128(38, 0)

ROLLUP_SCHEMA = pa.schema(
    [
        pa.field("date_utc", pa.date32(), nullable=False),
        pa.field("application", pa.string(), nullable=False),
        pa.field("release_digest", pa.string()),
        pa.field("provider", pa.string()),
        pa.field("model", pa.string()),
        pa.field("requests", pa.int64(), nullable=False),
        pa.field("priced_requests", pa.int64(), nullable=False),
        pa.field("unpriced_requests", pa.int64(), nullable=False),
        pa.field("input_tokens", _COUNT),
        pa.field("output_tokens", _COUNT),
        pa.field("cached_input_tokens", _COUNT),
        pa.field("cost_pusd", _COUNT),
        pa.field("coverage", pa.float64(), nullable=False),
        pa.field("price_layer", pa.string()),
        pa.field("price_sha256", pa.string()),
    ]
)
"""The columns of a rollup. A sum is NULL where nothing in it is known."""

_RATES_SCHEMA = pa.schema(
    [
        ("date_utc", pa.date32()),
        ("application", pa.string()),
        ("release_digest", pa.string()),
        ("provider", pa.string()),
        ("model", pa.string()),
        ("min_input_tokens", pa.int64()),
        ("max_input_tokens", pa.int64()),
        ("input_pusd", _COUNT),
        ("cached_input_pusd", _COUNT),
        ("output_pusd", _COUNT),
        ("unit_tokens", _COUNT),
        ("layer", pa.string()),
        ("sha256", pa.string()),
    ]
)
_ENDLESS = 2**63 - 1


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """What a line of a rollup is about; None is unknown."""

    date_utc: date
    application: str
    release_digest: str | None
    provider: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Rollup:
    """One line of a rollup.

    Attributes:
        key: What it is about.
        requests: How many calls.
        priced_requests: How many of them have a known cost.
        input_tokens, output_tokens, cached_input_tokens: Sums of what is known; None where nothing is.
        cost_pusd: Sum over the priced calls, pico-USD; None where no call is priced.
        price_layer: Where the price was found; None where it was not.
    """

    key: UsageKey
    requests: int
    priced_requests: int
    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None
    cost_pusd: int | None
    price_layer: str | None

    @property
    def coverage(self) -> float:
        """The share of the calls whose cost is known, 0 to 1."""
        return self.priced_requests / self.requests


def find_usage_keys(connection: duckdb.DuckDBPyConnection) -> tuple[UsageKey, ...]:
    """Return what the view ``interactions`` of a connection has usage of, in a fixed order."""
    found = connection.sql(f"SELECT DISTINCT {_KEYS} FROM interactions ORDER BY ALL NULLS FIRST")  # noqa: S608 -- constant
    return tuple(UsageKey(*row) for row in found.fetchall())


def roll_up(connection: duckdb.DuckDBPyConnection, rates: Mapping[UsageKey, tuple[Rate, ...]]) -> pa.Table:
    """Add up the view ``interactions`` of a connection.

    A call is priced if its rate and both its token counts are known. Cached tokens are part of the input tokens; where
    their number is unknown all input tokens cost the full rate, which never understates. A call with more cached than
    input tokens, or of more than 9.2 million USD, is not priced.

    Args:
        connection: Holds the view, with the columns of the interaction log.
        rates: What each key's tokens cost; a key without rates is unpriced.

    Returns:
        Rows of ``ROLLUP_SCHEMA`` in the order of the key; the same input gives the same bytes.
    """
    connection.register("rates", _rates_table(rates))
    try:
        # Built anew, because what DuckDB leaves in the place of a NULL differs from run to run.
        return pa.Table.from_pylist(connection.sql(_ROLL_UP).to_arrow_table().to_pylist(), schema=ROLLUP_SCHEMA)
    finally:
        connection.unregister("rates")


def read_rollups(table: pa.Table) -> tuple[Rollup, ...]:
    """Return the rows of ``ROLLUP_SCHEMA`` as objects, in their order."""
    return tuple(
        Rollup(
            UsageKey(row["date_utc"], row["application"], row["release_digest"], row["provider"], row["model"]),
            row["requests"],
            row["priced_requests"],
            _whole(row["input_tokens"]),
            _whole(row["output_tokens"]),
            _whole(row["cached_input_tokens"]),
            _whole(row["cost_pusd"]),
            row["price_layer"],
        )
        for row in table.to_pylist()
    )


def format_usd(cost_pusd: int) -> str:
    """Return an amount in USD, exact: at least two decimals, and as many as it has.

    >>> format_usd(144_400_220_000_000), format_usd(-5 * 10**12), format_usd(1)
    ('144.40022', '-5.00', '0.000000000001')
    """
    dollars, rest = divmod(abs(cost_pusd), PUSD_PER_USD)
    decimals = f"{rest:012d}".rstrip("0").ljust(2, "0")
    return f"{'-' if cost_pusd < 0 else ''}{dollars}.{decimals}"


def _whole(value: Decimal | None) -> int | None:
    return None if value is None else int(value)


def _rates_table(rates: Mapping[UsageKey, tuple[Rate, ...]]) -> pa.Table:
    rows = [
        {
            "date_utc": key.date_utc,
            "application": key.application,
            "release_digest": key.release_digest,
            "provider": key.provider,
            "model": key.model,
            "min_input_tokens": rate.min_input_tokens,
            "max_input_tokens": _ENDLESS if rate.max_input_tokens is None else rate.max_input_tokens,
            "input_pusd": Decimal(rate.input_pusd_per_unit),
            "cached_input_pusd": _cached(rate),
            "output_pusd": Decimal(rate.output_pusd_per_unit),
            "unit_tokens": Decimal(rate.unit_tokens),
            "layer": str(rate.layer),
            "sha256": rate.sha256,
        }
        for key, found in rates.items()
        for rate in found
    ]
    return pa.Table.from_pylist(rows, schema=_RATES_SCHEMA)


def _cached(rate: Rate) -> Decimal:
    cached = rate.cached_input_pusd_per_unit
    return Decimal(rate.input_pusd_per_unit if cached is None else cached)


_KEYS = "date_utc, application, release_digest, provider, model"
_ROLL_UP = f"""
WITH units AS (
    SELECT {", ".join(f"i.{name}" for name in _KEYS.split(", "))},
        i.input_tokens, i.output_tokens, i.cached_input_tokens, r.layer, r.sha256,
        CAST(r.unit_tokens AS HUGEINT) AS per,
        CASE WHEN coalesce(i.cached_input_tokens, 0) <= i.input_tokens THEN
            CAST(i.input_tokens - coalesce(i.cached_input_tokens, 0) AS HUGEINT) * CAST(r.input_pusd AS HUGEINT)
            + CAST(coalesce(i.cached_input_tokens, 0) AS HUGEINT) * CAST(r.cached_input_pusd AS HUGEINT)
            + CAST(i.output_tokens AS HUGEINT) * CAST(r.output_pusd AS HUGEINT)
        END AS amount
    FROM interactions i LEFT JOIN rates r
        ON i.date_utc = r.date_utc AND i.application = r.application
        AND i.release_digest IS NOT DISTINCT FROM r.release_digest
        AND i.provider IS NOT DISTINCT FROM r.provider AND i.model IS NOT DISTINCT FROM r.model
        AND i.input_tokens BETWEEN r.min_input_tokens AND r.max_input_tokens
), costs AS (
    SELECT *, TRY_CAST(
        amount // per + CASE
            WHEN 2 * (amount % per) > per OR (2 * (amount % per) = per AND (amount // per) % 2 = 1) THEN 1 ELSE 0
        END AS BIGINT) AS cost_pusd
    FROM units
)
SELECT {_KEYS},
    count(*) AS requests,
    count(cost_pusd) AS priced_requests,
    count(*) - count(cost_pusd) AS unpriced_requests,
    CAST(sum(input_tokens) AS DECIMAL(38, 0)) AS input_tokens,
    CAST(sum(output_tokens) AS DECIMAL(38, 0)) AS output_tokens,
    CAST(sum(cached_input_tokens) AS DECIMAL(38, 0)) AS cached_input_tokens,
    CAST(sum(cost_pusd) AS DECIMAL(38, 0)) AS cost_pusd,
    CAST(count(cost_pusd) AS DOUBLE) / count(*) AS coverage,
    min(layer) AS price_layer,
    min(sha256) AS price_sha256
FROM costs GROUP BY {_KEYS} ORDER BY {", ".join(f"{name} NULLS FIRST" for name in _KEYS.split(", "))}
"""  # noqa: S608 -- constants of this module
