"""What each call of an experiment or a shadow cost, for a comparison: numbers for means, not for a bill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rates import Rate
from tasks.evaluation.summary import numbers
from tasks.release.model import Release

COST_COLUMNS: Final = ("provider", "model", "date_utc", "input_tokens", "output_tokens", "cached_input_tokens")
"""The columns of the interaction log that a cost is made from, beside the release."""


def with_costs(calls: pa.Table, releases: Mapping[str, Release], book: PriceBook) -> pa.Table:
    """Return the calls with ``cost_pusd``, NaN where tokens or a price are not known.

    Args:
        calls: Rows of the log with ``release_digest`` and ``COST_COLUMNS``.
        releases: Those whose own price comes first, by digest.
        book: The project's price book; the public catalogue comes after it.
    """
    keys = list(zip(*(calls[name].to_pylist() for name in ("release_digest", *COST_COLUMNS[:3])), strict=True))
    cost = np.full(len(calls), np.nan)
    for key in set(keys):
        digest, provider, model, day = key
        release = releases.get(digest)
        rates = find_rates(book, provider, model, day, release.spec.price if release else None)
        at = np.array([found == key for found in keys], dtype=np.bool_)
        cost[at] = _costs(calls.filter(pa.array(at)), rates)
    return calls.append_column("cost_pusd", pa.array(cost))


def _costs(calls: pa.Table, rates: tuple[Rate, ...]) -> NDArray[np.float64]:
    given, answered = numbers(calls["input_tokens"]), numbers(calls["output_tokens"])
    cached = np.nan_to_num(numbers(calls["cached_input_tokens"]))
    cost = np.full(len(calls), np.nan)
    for rate in rates:
        own = rate.cached_input_pusd_per_unit
        per_cached = rate.input_pusd_per_unit if own is None else own
        fits = (given >= rate.min_input_tokens) & (given <= (rate.max_input_tokens or np.inf)) & (cached <= given)
        amount = (
            (given - cached) * rate.input_pusd_per_unit + cached * per_cached + answered * rate.output_pusd_per_unit
        )
        cost = np.where(fits, amount / rate.unit_tokens, cost)
    return cost
