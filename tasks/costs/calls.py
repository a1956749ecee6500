"""What each of some calls cost, for comparing releases: the same prices as on the bill, call by call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.pricing import price_calls
from tasks.costs.rates import Rate
from tasks.costs.usage import UsageKey, find_usage_keys
from tasks.interactions.columns import SCHEMA
from tasks.release.model import Price, Release

COST_COLUMNS: Final = (
    *("provider", "model", "date_utc", "team", "service_tier", "input_tokens", "output_tokens", "cached_input_tokens"),
    *("cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens", "audio_input_tokens"),
    *("cached_audio_input_tokens", "audio_output_tokens", "other_usage", "tokens_estimated", "reported_cost_pusd"),
)
"""The columns of the interaction log that a cost is made from, beside the release, the status and the error."""
MIN_ANSWERS: Final = 30
MIN_KNOWN: Final = 0.9
"""The share of the calls whose cost must be known for an average to stand for all of them."""
_KNOWN: Final = "cost_status IN ('priced', 'free', 'estimated')"


def with_costs(calls: pa.Table, releases: Mapping[str, Release], book: PriceBook) -> pa.Table:
    """Return the calls with ``cost_pusd``, NaN where it is not wholly known.

    Args:
        calls: Rows of the log with ``interaction_id``, ``release_digest``, ``status``, ``error_type`` and
            ``COST_COLUMNS``, each interaction once.
        releases: Those whose own price comes first, by digest.
        book: The project's price book; the public catalogue comes after it.
    """

    @cache
    def find(key: UsageKey) -> tuple[Rate, ...]:
        release = releases.get(key.release_digest or "")
        own = release.spec.price if release is not None else None
        place = (book, key.provider, key.model, key.date_utc, own)
        return find_rates(*place, team=key.team, tier=key.service_tier, by_hour=True)

    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("interactions", _as_logged(calls))
        price_calls(connection, find_usage_keys(connection), find)
        sql = f"SELECT interaction_id, CAST(cost_pusd AS DOUBLE) FROM priced WHERE {_KNOWN}"  # noqa: S608 -- constant
        known: dict[str, float] = dict(connection.sql(sql).fetchall())
    costs = [known.get(name, float("nan")) for name in calls["interaction_id"].to_pylist()]
    return calls.append_column("cost_pusd", pa.array(costs, pa.float64()))


@dataclass(slots=True)
class CallCosts:
    """What the calls of one application cost, for who looks at them again and again: each call is priced once.

    Where the price book or a release's own price changes, every call is priced anew.
    """

    _known: dict[str, float] = field(default_factory=dict)
    _prices: tuple[PriceBook, dict[str, Price | None]] | None = None

    def attach(self, calls: pa.Table, releases: Mapping[str, Release], book: PriceBook) -> pa.Table:
        """Return the calls as ``with_costs`` does, to the last digit.

        Args:
            calls: As ``with_costs`` takes them; a call is known again by its id.
            releases: Those whose own price comes first, by digest.
            book: The project's price book.
        """
        prices = (book, {digest: release.spec.price for digest, release in releases.items()})
        if prices != self._prices:
            self._known, self._prices = {}, prices
        names = calls["interaction_id"].to_pylist()
        if new := [at for at, name in enumerate(names) if name not in self._known]:
            costs = with_costs(calls.take(pa.array(new)), releases, book)["cost_pusd"].to_pylist()
            self._known.update(zip((names[at] for at in new), costs, strict=True))
        return calls.append_column("cost_pusd", pa.array([self._known[name] for name in names], pa.float64()))


def answer_cost(calls: pa.Table) -> float | None:
    """Return what a successful answer cost on average, pico-USD, with the failed ones paid for.

    Args:
        calls: With ``status``, ``error_type`` and ``cost_pusd``.

    Returns:
        None where fewer than ``MIN_ANSWERS`` succeeded, where less than ``MIN_KNOWN`` of the calls have a cost, or
        where it is nothing.
    """
    cost = np.asarray(calls["cost_pusd"].to_numpy(), dtype=np.float64)
    known = ~np.isnan(cost)
    good = np.asarray(
        pc.and_(pc.less(calls["status"], 400), pc.is_null(calls["error_type"])).to_numpy(), dtype=np.bool_
    )
    answers = int((good & known).sum())
    if answers < MIN_ANSWERS or known.mean() < MIN_KNOWN:
        return None
    return float(cost[known].sum() / answers) or None


def _as_logged(calls: pa.Table) -> pa.Table:
    """Return the columns a price depends on, with the types of the log; those that are missing are NULL there."""
    names = [name for name in SCHEMA.names if name in calls.column_names]
    table = calls.select(names).cast(pa.schema([pa.field(name, SCHEMA.field(name).type) for name in names]))
    if "application" not in names:
        table = table.append_column("application", pa.array([""] * len(table), pa.string()))
    return table
