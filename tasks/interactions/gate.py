"""The gate of the ingestion: what must hold of a batch before it is stored, as Great Expectations.

Great Expectations sees one row: numbers that DuckDB counted over every row of the batch, and no text of a user. It
sends no statistics from here, and is imported where it is used, because that takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from tasks.interactions.columns import SCHEMA, SCHEMA_VERSION
from tasks.interactions.expectations import great_expectations, open_frame

WATCHED: Final = (
    "model", "provider", "input_tokens", "output_tokens", "cached_input_tokens", "latency_ms", "finish_reason",
    "release_digest", "unit", "user_hash",
)  # fmt: skip
"""Columns whose share of NULL is held against the days before."""
_AHEAD: Final = timedelta(days=1)
_PARTS: Final = """
coalesce(cached_input_tokens, 0) + coalesce(cache_write_tokens, 0) > input_tokens
OR coalesce(reasoning_tokens, 0) > output_tokens OR audio_input_tokens > input_tokens
OR audio_output_tokens > output_tokens OR cache_write_1h_tokens > cache_write_tokens
OR cached_audio_input_tokens > least(audio_input_tokens, cached_input_tokens)
"""


class GatePolicy(BaseModel):
    """What is allowed of a batch; shares are from 0 to 1.

    Attributes:
        enabled: Whether batches are looked at.
        least_rows: Smaller batches pass: their shares say nothing.
        most_rejected: Share of lines that could not be read.
        most_backwards: Share of rows that are earlier than the row before them.
        most_ahead: Share of rows more than a day later than now.
        most_wrong_tokens: Share of rows in which a part of the tokens is more than the whole.
        known_models: Every model there should be; None: any.
        most_unknown_models: Share of rows of another model.
        most_changed: How far the share of NULL of a column may be from that of the days before.
        least_before: Rows of the days before that a comparison needs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    least_rows: int = Field(default=50, ge=1)
    most_rejected: float = Field(default=0.2, ge=0, le=1)
    most_backwards: float = Field(default=0.6, ge=0, le=1)
    most_ahead: float = Field(default=0.01, ge=0, le=1)
    most_wrong_tokens: float = Field(default=0.01, ge=0, le=1)
    known_models: tuple[str, ...] | None = None
    most_unknown_models: float = Field(default=0.05, ge=0, le=1)
    most_changed: float = Field(default=0.3, ge=0, le=1)
    least_before: int = Field(default=200, ge=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the gate says of a batch.

    Attributes:
        success: Whether everything expected holds.
        failures: What does not hold, with its number and limit.
        page: The Data Docs of it as HTML; empty where everything holds.
    """

    success: bool
    failures: tuple[str, ...] = ()
    page: str = ""


@dataclass(frozen=True, slots=True)
class Before:
    """The days before a batch: how many rows were looked at, and which share of a column is NULL in them."""

    rows: int
    null_share: Mapping[str, float]


def measure(
    rows: pa.Table, rejected: int, policy: GatePolicy, before: Before | None, now: datetime
) -> dict[str, float]:
    """Return the numbers of a batch, each over all of its rows."""
    count, total = rows.num_rows, rows.num_rows + rejected
    times = rows["time_utc"].cast(pa.int64()).to_numpy()
    counted = _count(rows, policy, now)
    numbers = {
        "columns": float(rows.num_columns),
        "schema_version": float(counted["version"]),
        "status_lowest": float(counted["low"]),
        "status_highest": float(counted["high"]),
        "rejected_share": rejected / total,
        "backwards_share": float(np.mean(np.diff(times) < 0)) if count > 1 else 0.0,
        "ahead_share": counted["ahead"] / count,
        "wrong_tokens_share": counted["wrong"] / count,
    }
    if policy.known_models is not None:
        numbers["unknown_models_share"] = counted["unknown"] / count
    if before is not None and before.rows >= policy.least_before:
        changes = {name: abs(rows[name].null_count / count - before.null_share[name]) for name in WATCHED}
        numbers["most_null_change"] = max(changes.values())
        # Of the single columns those that are on their way: an expectation takes as long as the whole of the counting.
        numbers |= {f"{name}_null_change": held for name, held in changes.items() if held > policy.most_changed / 2}
    return numbers


def check(numbers: Mapping[str, float], policy: GatePolicy) -> Finding:
    """Hold the numbers of a batch against a policy.

    Returns:
        The finding, with a page of Data Docs where something does not hold.
    """
    import pandas as pd

    gx, limits = great_expectations(), _limits(policy)
    suite = gx.ExpectationSuite(
        name="batch",
        expectations=[
            # Of one row the largest value is the value, and is looked at in a quarter of the time.
            gx.expectations.ExpectColumnMaxToBeBetween(
                column=name, min_value=limits[_rule(name)][0], max_value=limits[_rule(name)][1]
            )
            for name in numbers
        ],
    )
    outcome = open_frame(pd.DataFrame([dict(numbers)])).validate(suite)
    broken = tuple(_words(result, numbers, limits) for result in outcome.results if not result.success)
    if outcome.success:
        return Finding(success=True)
    return Finding(success=False, failures=broken, page=_page(outcome))


def _count(rows: pa.Table, policy: GatePolicy, now: datetime) -> dict[str, int]:
    known = list(policy.known_models or ())
    sql = f"""
    SELECT max(schema_version) AS version, min(status) AS low, max(status) AS high,
        count(*) FILTER (time_utc > $ahead) AS ahead, count(*) FILTER ({_PARTS}) AS wrong,
        count(*) FILTER (model IS NOT NULL AND NOT list_contains($known, model)) AS unknown
    FROM rows
    """  # noqa: S608 -- ours
    with _database(os.getpid()).cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", rows.drop_columns(["input_text", "context_text", "output_text"]))
        found = connection.sql(sql, params={"ahead": now + _AHEAD, "known": known})
        return dict(zip(found.columns, found.fetchall()[0], strict=True))


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    # To open one takes longer than the counting; a copy of a process must not use that of its parent.
    return duckdb.connect(":memory:", config={"autoload_known_extensions": False})


def _limits(policy: GatePolicy) -> dict[str, tuple[float, float]]:
    return {
        "columns": (len(SCHEMA), len(SCHEMA)),
        "schema_version": (1, SCHEMA_VERSION),
        "status_lowest": (100, 599),
        "status_highest": (100, 599),
        "rejected_share": (0, policy.most_rejected),
        "backwards_share": (0, policy.most_backwards),
        "ahead_share": (0, policy.most_ahead),
        "wrong_tokens_share": (0, policy.most_wrong_tokens),
        "unknown_models_share": (0, policy.most_unknown_models),
        "null_change": (0, policy.most_changed),
    }


def _rule(name: str) -> str:
    return "null_change" if name.endswith("_null_change") else name


def _words(result: Any, numbers: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> str:
    name = str(result.expectation_config.kwargs["column"])
    low, high = limits[_rule(name)]
    value = numbers[name]
    return f"{name} {value:.4g} > limit {high:g}" if value > high else f"{name} {value:.4g} < limit {low:g}"


def _page(outcome: Any) -> str:
    from great_expectations.render import renderer, view

    for result in outcome.results:
        observed = result.result.get("observed_value")
        if hasattr(observed, "item"):  # a number of NumPy is shown as an error of the page
            result.result["observed_value"] = observed.item()
    pages: Any = renderer.ValidationResultsPageRenderer(run_info_at_end=True)  # type: ignore[attr-defined]
    frame: Any = view.DefaultJinjaPageView()  # type: ignore[attr-defined]
    return str(frame.render(pages.render(outcome)))
