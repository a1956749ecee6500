"""The calls of a log as they are billed: whose they are, what they used, and which of them nobody bills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final

import duckdb

from tasks.costs.rates import STANDARD, Rate
from tasks.interactions.columns import SCHEMA

TEXTS: Final = ("input_text", "context_text", "output_text")
"""Columns of the log that no bill holds."""
MAX_PLAIN_TOKENS: Final = 10**9
"""A larger call is priced by itself: what it costs may not fit into 64 bits."""

BILLED: Final = """(
    input_tokens IS NOT NULL OR output_tokens IS NOT NULL OR other_usage IS NOT NULL OR reported_cost_pusd IS NOT NULL
)"""
REFUSED: Final = f"""(
    status >= 400 AND NOT {BILLED} AND coalesce(error_type, '') <> 'ClientDisconnect'
    AND (
        (status < 500 AND status NOT IN (408, 409, 499)) OR status IN (503, 529)
        OR coalesce(error_type, '') IN ('endpoint.ConnectError', 'endpoint.ConnectTimeout', 'endpoint.PoolTimeout',
            'endpoint.status_401', 'endpoint.status_403')
    )
)"""
"""Calls that ended before a model worked on them: refused for what they asked, for the key, the quota or the load, or
never sent. Any other failed call without usage may have been billed, and is unknown."""
CONSISTENT: Final = """(
    coalesce(cached_audio_input_tokens, 0) <= coalesce(cached_input_tokens, 0)
    AND coalesce(cached_audio_input_tokens, 0) <= coalesce(audio_input_tokens, 0)
    AND coalesce(cache_write_1h_tokens, 0) <= coalesce(cache_write_tokens, 0)
    AND coalesce(cached_input_tokens, 0) + coalesce(cache_write_tokens, 0) + coalesce(audio_input_tokens, 0)
        - coalesce(cached_audio_input_tokens, 0) <= input_tokens
    AND coalesce(reasoning_tokens, 0) + coalesce(audio_output_tokens, 0) <= coalesce(output_tokens, 0)
)"""
"""Calls whose parts fit into their whole."""
SECOND: Final = "coalesce(CAST(floor(epoch(time_utc)) AS BIGINT) % 86400, 0)"
"""Of the UTC day."""
SUCCEEDED: Final = "(status < 400 AND error_type IS NULL)"


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """What decides on the price of a call; None is unknown, and a tier that is unknown is the standard one."""

    date_utc: date
    application: str
    release_digest: str | None
    provider: str | None
    model: str | None
    team: str | None = None
    service_tier: str = STANDARD


FindRates = Callable[[UsageKey], tuple[Rate, ...]]
"""Returns what a key's tokens cost, one rate for each range of request sizes; none is unpriced."""
KEYS: Final = ("date_utc", "application", "release_digest", "provider", "model", "team", "service_tier")


def prepare_calls(connection: duckdb.DuckDBPyConnection) -> None:
    """Make of the view ``interactions`` of a connection a view ``calls`` with every column but the texts.

    What the view lacks is NULL, as in the log; a status that it lacks is 200.
    """
    found = {row[0] for row in connection.sql("DESCRIBE interactions").fetchall()}
    columns = [_column(name, found) for name in SCHEMA.names if name not in TEXTS]
    connection.execute(f"CREATE OR REPLACE TEMP VIEW calls AS SELECT {', '.join(columns)} FROM interactions")  # noqa: S608 -- own names


def find_usage_keys(connection: duckdb.DuckDBPyConnection) -> tuple[UsageKey, ...]:
    """Return what the view ``interactions`` of a connection has usage of, in a fixed order."""
    prepare_calls(connection)
    found = connection.sql(f"SELECT DISTINCT {', '.join(KEYS)} FROM calls ORDER BY ALL NULLS FIRST")  # noqa: S608 -- own names
    return tuple(UsageKey(*row) for row in found.fetchall())


def _column(name: str, found: set[str]) -> str:
    if name == "service_tier":
        return f"coalesce(service_tier, '{STANDARD}') AS service_tier" if name in found else f"'{STANDARD}' AS {name}"
    if name in found:
        return f'"{name}"'
    if name == "status":
        return "200 AS status"
    return f'CAST(NULL AS {_TYPES.get(str(SCHEMA.field(name).type), "VARCHAR")}) AS "{name}"'


_TYPES: Final = {
    "int64": "BIGINT",
    "int32": "INTEGER",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "date32[day]": "DATE",
    "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
    "list<item: string>": "VARCHAR[]",
}
