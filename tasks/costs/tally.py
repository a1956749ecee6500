"""Calls added up before they are priced: one pass over the log, and no price a row.

A rate of whole pico-USD a token times the sum of the tokens is the sum of the costs, to the last digit. So the calls of
one price are added up first, and a few hundred sums are priced. Calls where that does not hold are priced one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import pairwise
from typing import Any, Final

import duckdb

from tasks.costs.line import LineKey
from tasks.costs.usage import CONSISTENT, MAX_PLAIN_TOKENS, REFUSED, SECOND, SUCCEEDED, UsageKey

DIMENSIONS: Final = (
    *("day", "application", "release_digest", "prompt_name", "prompt_version", "provider", "model", "team"),
    "service_tier",
)
"""What a line of a rollup is about; ``day`` is that of the time zone."""
KNOWN, EMPTY, REFUSED_CALL, UNKNOWN, ALONE = range(5)
"""What may become of a call: priced, free for it used nothing, refused, without all its numbers, or priced alone."""
TOKENS: Final = (
    *("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("reasoning_tokens", "audio_input_tokens", "cached_audio_input_tokens", "audio_output_tokens"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that one price decides on, added up.

    Attributes:
        line: The line they belong to, without its price.
        date_utc: Whose prices hold.
        size: The smallest request size of their range, tokens; None where the size is unknown.
        second: The first second of the part of the UTC day they are in.
        kind: One of the five above.
        is_estimated: Whether somebody else than the provider counted their tokens.
        requests, succeeded: How many calls, and how many of them ended well.
        tokens: Sums of ``TOKENS``; None where nothing is known.
    """

    line: LineKey
    date_utc: date
    size: int | None
    second: int
    kind: int
    is_estimated: bool
    requests: int
    succeeded: int
    tokens: tuple[int | None, ...]

    @property
    def key(self) -> UsageKey:
        """What decides on the price."""
        of = self.line
        return UsageKey(
            self.date_utc, of.application, of.release_digest, of.provider, of.model, of.team, of.service_tier
        )


@cache
def usual_sizes() -> tuple[int, ...]:
    """Return where the prices of the catalogue change with the size of a request, input tokens, ascending."""
    from genai_prices.data_snapshot import get_snapshot

    parts = [
        part
        for provider in get_snapshot().providers
        for model in provider.models
        for entry in (model.prices if isinstance(model.prices, list) else [model])
        for part in vars(getattr(entry, "prices", entry)).values()
    ]
    return tuple(sorted({tier.start + 1 for part in parts for tier in getattr(part, "tiers", ())}))


def tally(
    connection: duckdb.DuckDBPyConnection, day: str, sizes: Sequence[int], seconds: Sequence[int] = ()
) -> list[Group]:
    """Add up the view ``calls`` of a connection.

    Args:
        connection: Holds the view.
        day: SQL of the day a call belongs to.
        sizes: Request sizes at which a price may change, input tokens.
        seconds: Seconds of the UTC day at which a price may change.

    Returns:
        In no order.
    """
    sums = ", ".join(f"sum({name})" for name in TOKENS)
    dimensions = ", ".join(DIMENSIONS[1:])
    ranges = f"{_range('input_tokens', sizes)} AS size, {_range(SECOND, seconds)} AS second"
    found = connection.sql(
        f"SELECT {day} AS day, {dimensions}, date_utc, {ranges}, {KIND} AS kind, "  # noqa: S608 -- own names
        f"coalesce(tokens_estimated, false) AS is_estimated, count(*), count_if({SUCCEEDED}), {sums} "
        f"FROM calls GROUP BY day, {dimensions}, date_utc, size, second, kind, is_estimated"
    )
    return [_group(row) for row in found.fetchall()]


def _group(row: tuple[Any, ...]) -> Group:
    n = len(DIMENSIONS)
    date_utc, size, second, kind, is_estimated, requests, succeeded = row[n : n + 7]
    return Group(LineKey(*row[:n]), date_utc, size, second, kind, is_estimated, requests, succeeded, row[n + 7 :])


def part_counts(group: Group) -> tuple[int, ...]:
    """Return how much of each of ``PARTS`` calls used whose numbers are all known."""
    numbers = (0 if value is None else value for value in group.tokens)
    inputs, outputs, cached, written, written_1h, reasoning, audio, cached_audio, audio_out = numbers
    return (
        inputs - cached - written - audio + cached_audio,
        cached - cached_audio,
        written - written_1h,
        written_1h,
        audio - cached_audio,
        cached_audio,
        outputs - reasoning - audio_out,
        reasoning,
        audio_out,
        group.requests,
        0,
    )


def _range(value: str, starts: Sequence[int]) -> str:
    """Return SQL: the last of the starts that a value has reached; NULL stays NULL."""
    ends = sorted({0, *starts})
    steps = [f"WHEN {value} < {end} THEN {start}" for start, end in pairwise(ends)]
    return f"CASE WHEN {value} IS NULL THEN NULL {' '.join(steps)} ELSE {ends[-1]} END" if steps else "0"


_RARE: Final = (
    *("cache_write_tokens", "cache_write_1h_tokens", "audio_input_tokens", "cached_audio_input_tokens"),
    *("audio_output_tokens", "other_usage"),
)
# Most calls used nothing rare, which is quickly seen; the other cases would be a third of the work.
KIND: Final = f"""CASE
    WHEN {" AND ".join(f"{name} IS NULL" for name in _RARE)}
        AND input_tokens BETWEEN greatest(cached_input_tokens, 1) AND {MAX_PLAIN_TOKENS}
        AND output_tokens BETWEEN coalesce(reasoning_tokens, 0) AND {MAX_PLAIN_TOKENS} THEN {KNOWN}
    WHEN other_usage IS NOT NULL OR input_tokens > {MAX_PLAIN_TOKENS} OR output_tokens > {MAX_PLAIN_TOKENS} THEN {ALONE}
    WHEN input_tokens IS NULL OR output_tokens IS NULL THEN CASE WHEN {REFUSED} THEN {REFUSED_CALL} ELSE {UNKNOWN} END
    WHEN NOT {CONSISTENT} THEN {UNKNOWN}
    WHEN input_tokens + output_tokens = 0 THEN {EMPTY} ELSE {KNOWN}
END"""
"""SQL: what may become of a call."""
