"""What each release cost in a window, by the prices of now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import duckdb

from tasks.costs.pricing import price_calls
from tasks.costs.rates import PUSD_PER_USD
from tasks.costs.usage import FindRates, find_usage_keys
from tasks.evaluation.evidence import Cost
from tasks.evaluation.window import Window

_SQL: Final = """
SELECT release_digest, count(*), count(*) FILTER (cost_status IN ('priced', 'estimated', 'free')),
       coalesce(sum(cost_pusd), 0)::HUGEINT, max(cost_pusd)
FROM priced WHERE release_digest IS NOT NULL GROUP BY release_digest
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What releases cost a day, by digest; or why nobody knows."""

    by_digest: Mapping[str, Cost]
    problem: str = ""


def cost_of_releases(connection: duckdb.DuckDBPyConnection, find: FindRates, window: Window) -> dict[str, Cost]:
    """Return what each release cost a day, by its digest.

    Args:
        connection: Holds the view ``interactions``, of one application and window.
        find: What tokens cost.
        window: What the connection holds.
    """
    price_calls(connection, find_usage_keys(connection), find)
    found = {}
    for digest, calls, known, pusd, dearest in connection.sql(_SQL).fetchall():
        ceiling = None if dearest is None else (int(pusd) + (calls - known) * int(dearest)) / PUSD_PER_USD / window.days
        found[str(digest)] = Cost(
            usd_per_day=int(pusd) / PUSD_PER_USD / window.days,
            coverage=known / calls,
            n=int(calls),
            ceiling_usd_per_day=ceiling,
        )
    return found
