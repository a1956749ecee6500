"""What each release cost in a window, by the prices of now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb

from tasks.costs.pricing import price_calls
from tasks.costs.rates import PUSD_PER_USD
from tasks.costs.usage import REFUSED, FindRates, find_usage_keys
from tasks.evaluation.evidence import Cost
from tasks.evaluation.window import DAY, Window

_SQL: Final = f"""
SELECT release_digest, count(*) FILTER (NOT {REFUSED}),
    count(*) FILTER (NOT {REFUSED} AND cost_status IN ('priced', 'estimated', 'free')),
    coalesce(sum(cost_pusd), 0)::HUGEINT, max(cost_pusd) FILTER (cost_status IN ('priced', 'estimated'))
FROM priced WHERE release_digest IS NOT NULL GROUP BY release_digest, date_utc ORDER BY release_digest, date_utc
"""  # noqa: S608 -- constants of this project
"""A row a release and UTC day. What was refused cost nothing and says nothing of what an answer costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What releases cost a day, by digest; or why nobody knows."""

    by_digest: Mapping[str, Cost]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Day:
    """What a release did on one UTC day: calls that were not refused, those with a price, and what is known, USD."""

    calls: int
    known: int
    usd: float
    dearest_usd: float | None


def cost_of_releases(connection: duckdb.DuckDBPyConnection, find: FindRates, window: Window) -> dict[str, Cost]:
    """Return what each release cost a day, by its digest.

    Args:
        connection: Holds the view ``interactions``, of one application and window.
        find: What tokens cost.
        window: What the connection holds.
    """
    price_calls(connection, find_usage_keys(connection), find)
    days: defaultdict[str, list[_Day]] = defaultdict(list)
    for digest, calls, known, pusd, dearest in connection.sql(_SQL).fetchall():
        usd = None if dearest is None else int(dearest) / PUSD_PER_USD
        days[str(digest)].append(_Day(int(calls), int(known), int(pusd) / PUSD_PER_USD, usd))
    return {digest: _cost(found, window) for digest, found in days.items()}


def _cost(days: Sequence[_Day], window: Window) -> Cost:
    calls, known = sum(day.calls for day in days), sum(day.known for day in days)
    dearest = max((day.dearest_usd for day in days if day.dearest_usd is not None), default=None)
    at_most = None if dearest is None else max(day.usd + (day.calls - day.known) * dearest for day in days)
    return Cost(
        usd_per_day=sum(day.usd for day in days) / window.days,
        coverage=known / calls if calls else 0.0,
        n=calls,
        ceiling_usd_per_day=at_most,
        dearest_day_usd=max(day.usd for day in days),
        span="part" if not window.is_whole else "day" if window.end - window.start == DAY else "days",
    )
