"""The SQL of the view ``priced``: ``calls`` joined with ``rates``, in exact integers of 128 bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from tasks.costs.catalogue import token_units
from tasks.costs.rates import PARTS
from tasks.costs.usage import CONSISTENT, KEYS, REFUSED, SECOND, TEXTS
from tasks.interactions.columns import SCHEMA

COUNTS: Final = {
    "input": "input_tokens - coalesce(cached_input_tokens, 0) - coalesce(cache_write_tokens, 0)"
    " - coalesce(audio_input_tokens, 0) + coalesce(cached_audio_input_tokens, 0) - inside_in",
    "cache_read": "coalesce(cached_input_tokens, 0) - coalesce(cached_audio_input_tokens, 0)",
    "cache_write": "coalesce(cache_write_tokens, 0) - coalesce(cache_write_1h_tokens, 0)",
    "cache_write_1h": "coalesce(cache_write_1h_tokens, 0)",
    "audio_input": "coalesce(audio_input_tokens, 0) - coalesce(cached_audio_input_tokens, 0)",
    "cached_audio_input": "coalesce(cached_audio_input_tokens, 0)",
    "output": "coalesce(output_tokens, 0) - coalesce(reasoning_tokens, 0)"
    " - coalesce(audio_output_tokens, 0) - inside_out",
    "reasoning": "coalesce(reasoning_tokens, 0)",
    "audio_output": "coalesce(audio_output_tokens, 0)",
    "request": "1",
    "other": "other_units",
}
"""How many of each part a call used; its tokens of images and the like are no plain ones where they have a price."""


@cache
def priced_sql() -> str:
    """Return the query; it reads the views ``calls`` and ``rates``."""
    columns = ", ".join(f'"{name}"' for name in SCHEMA.names if name not in TEXTS)
    return f"""
WITH joined AS ({_joined()}), units AS ({_units()}), counts AS ({_counts()}),
amounts AS (SELECT *, {_amounts("rate")}, {_amounts("list")} FROM counts),
sums AS (SELECT *, {_running("rate", PARTS)}, {_running("list", PARTS[-1:])} FROM amounts),
quotients AS (SELECT *, {_quotients()} FROM sums), wholes AS ({_wholes()})
SELECT {columns}, {", ".join(f"{part}_count" for part in PARTS)}, {_steps()},
    cost AS cost_pusd, list_cost AS list_cost_pusd,
    CASE
        WHEN is_refused THEN 'free' WHEN cost IS NULL THEN 'unpriced' WHEN len(unknown_list) > 0 THEN 'partial'
        WHEN is_free OR (input_tokens = 0 AND coalesce(output_tokens, 0) = 0 AND rate_request = 0 AND other_units = 0)
            THEN 'free'
        WHEN tokens_estimated THEN 'estimated' ELSE 'priced'
    END AS cost_status,
    CASE WHEN cost IS NOT NULL AND NOT is_refused AND len(unknown_list) > 0 THEN unknown_list END AS unknown_units,
    price_layer, price_sha256, coalesce(is_plain, true) AS is_plain
FROM wholes
"""  # noqa: S608 -- constants of this project


def _joined() -> str:
    on = " AND ".join(_matches(name) for name in KEYS)
    return f"""
    SELECT c.*, r.* EXCLUDE ({", ".join(KEYS)}), {REFUSED} AS is_refused,
        TRY_CAST(TRY_CAST(c.other_usage AS JSON) AS MAP(VARCHAR, BIGINT)) AS used
    FROM calls c LEFT JOIN rates r
    ON {on} AND coalesce(c.input_tokens, 0) BETWEEN r.min_input_tokens AND r.max_input_tokens
        AND {SECOND} >= r.from_second AND {SECOND} < r.until_second"""  # noqa: S608 -- own names


def _matches(name: str) -> str:
    equal = "=" if name in {"date_utc", "application", "service_tier"} else "IS NOT DISTINCT FROM"
    return f"c.{name} {equal} r.{name}"


def _units() -> str:
    tokens = ", ".join(f"'{name}'" for name in token_units())
    priced, inside = "map_contains({}, e.key)", "list_contains({}, e.key)"
    strange = f"e.value > 0 AND NOT {priced.format('rate_units')} AND NOT list_contains([{tokens}], e.key)"
    return f"""
    SELECT *,
        {_sum_of(inside.format("inside_input"))} AS inside_in,
        {_sum_of(inside.format("inside_output"))} AS inside_out,
        {_sum_of(priced.format("rate_units"))} AS other_units,
        {_sum_of(priced.format("rate_units"), "rate_units[e.key]")} AS rate_other,
        {_sum_of(priced.format("list_units"), "list_units[e.key]")} AS list_other,
        list_sort(list_concat(
            CASE WHEN used IS NULL THEN [] ELSE
                list_transform(list_filter(map_entries(used), lambda e: {strange}), lambda e: e.key) END,
            CASE WHEN NOT bills_output AND output_tokens > 0 THEN ['output_tokens'] ELSE [] END
        )) AS unknown_list
    FROM joined"""  # noqa: S608 -- own names


def _sum_of(condition: str, price: str = "1") -> str:
    """Return SQL: how many units of a call meet a condition, each times its price."""
    chosen = f"list_filter(map_entries(used), lambda e: {condition})"
    summed = f"list_sum(list_transform({chosen}, lambda e: CAST(e.value AS HUGEINT) * {price}))"
    return f"CASE WHEN used IS NULL THEN 0 ELSE coalesce({summed}, 0) END"


def _counts() -> str:
    known = f"""coalesce({CONSISTENT}, false) AND (output_tokens IS NOT NULL OR NOT coalesce(bills_output, true))
        AND (other_usage IS NULL OR used IS NOT NULL)"""
    counted = [f"CASE WHEN is_refused THEN 0 WHEN is_known THEN CAST({sql} AS BIGINT) END" for sql in COUNTS.values()]
    named = ", ".join(f"{sql} AS {part}_count" for part, sql in zip(COUNTS, counted, strict=True))
    return f"SELECT *, {named} FROM (SELECT *, {known} AS is_known FROM units)"  # noqa: S608 -- own names


def _amounts(side: str) -> str:
    """Return SQL: the exact amount of each part."""
    priced = [f"CAST({part}_count AS HUGEINT) * {side}_{part} AS {side}_amount_{part}" for part in PARTS[:-1]]
    return ", ".join([*priced, f"{side}_other AS {side}_amount_other"])


def _running(side: str, parts: Sequence[str]) -> str:
    """Return SQL: the exact amounts of parts, each with all before it."""
    summed = [PARTS[: PARTS.index(part) + 1] for part in parts]
    sums = [" + ".join(f"{side}_amount_{part}" for part in before) for before in summed]
    return ", ".join(f"{amount} AS {side}_sum_{part}" for part, amount in zip(parts, sums, strict=True))


def _quotients() -> str:
    """Return SQL: how many whole pico-USD are in each exact amount."""
    amounts = [(f"rate_sum_{part}", "rate_tokens") for part in PARTS] + [("list_sum_other", "list_tokens")]
    return ", ".join(f"{amount} // {per} AS q_{amount}" for amount, per in amounts)


def _wholes() -> str:
    fits = "input_count >= 0 AND output_count >= 0"
    wholes = ", ".join(f"{_rounded(f'rate_sum_{part}', 'rate_tokens')} AS whole_{part}" for part in PARTS)
    listed = f"CASE WHEN has_list AND {fits} THEN TRY_CAST({_rounded('list_sum_other', 'list_tokens')} AS BIGINT) END"
    return f"""
    SELECT *, {wholes},
        CASE WHEN is_refused THEN 0 WHEN {fits} THEN TRY_CAST(whole_other AS BIGINT) END AS cost,
        CASE WHEN is_refused THEN 0 ELSE {listed} END AS list_cost
    FROM quotients"""  # noqa: S608 -- own names


def _rounded(amount: str, per: str) -> str:
    """Return SQL: an amount rounded half to even; up by one where twice the rest, less what is even, is beyond."""
    return f"(q_{amount} + CAST(2 * ({amount} - q_{amount} * {per}) + q_{amount} % 2 > {per} AS HUGEINT))"


def _steps() -> str:
    """Return SQL: what each part cost, the step of the rounded running sum."""
    columns, before = [], ""
    for part in PARTS:
        step = f"CAST(whole_{part}{before} AS BIGINT)"
        columns.append(f"CASE WHEN is_refused THEN 0 WHEN cost IS NOT NULL THEN {step} END AS {part}_pusd")
        before = f" - whole_{part}"
    return ", ".join(columns)
