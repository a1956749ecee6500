"""The interaction log: one row a call, as applications write it and as every source is normalised to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.interactions.columns import SCHEMA, SCHEMA_VERSION

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Half-open range of times; each date in it may become a partition, so a broken clock is kept out."""

CALLER_ERRORS = ("invalid_request_error", "request_too_large", "ClientDisconnect")
"""Types of errors that are the caller's own: a refused body, one that is too large, a caller who left."""
CALLER_STATUSES = (400, 404, 405, 413, 415, 422, 499)
"""Statuses that are the caller's own where nothing else is known.

A release server says with ``error_type`` whose fault it was; what its endpoint refused begins with ``endpoint.`` and
is the release's. Logs from elsewhere often have a status only. Then 401, 403, 408, 429 and whatever else is 400 or
more is the release's: its key, its quota, its time.
"""

Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Milliseconds = Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)]
Ordinal = Annotated[int, Field(ge=1, le=2**53)]


def printable(text: str, limit: int = 200) -> str:
    """Return a word as ``Name`` accepts it: cut to a limit, with ``_`` for what does not print; empty stays empty.

    >>> printable("rate" + chr(9) + "limit")
    'rate_limit'
    """
    return "".join(letter if letter.isprintable() else "_" for letter in text[:limit])


class Interaction(BaseModel):
    """One logged call, as an application writes it: one JSON object a line.

    Each field is the column of the same name (``columns.COLUMNS``), except ``time``, which is ``time_utc`` in any time
    zone. ``error_type`` is a machine's word; ``CALLER_ERRORS`` are the caller's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    interaction_id: Name
    application: Name
    release_digest: Digest | None = None
    time: Annotated[AwareDatetime, Field(ge=EARLIEST, lt=LATEST)]
    unit: Name | None = None
    unit_kind: Literal["user", "session", "request"] | None = None
    bucket: Annotated[int, Field(ge=0, le=999)] | None = None
    plan_revision: Ordinal | None = None
    provider: Name | None = None
    model: Name | None = None
    prompt_name: Name | None = None
    prompt_version: Ordinal | None = None
    input_text: str | None = None
    context_text: str | None = None
    output_text: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_input_tokens: Count | None = None
    latency_ms: Milliseconds | None = None
    status: Annotated[int, Field(ge=100, le=599)]
    error_type: Name | None = None
    finish_reason: Name | None = None
    source: Name | None = None
    trace_id: Name | None = None
    session_id: Name | None = None
    user_hash: Digest | None = None
    team: Name | None = None
    route: Name | None = None
    environment: Name | None = None
    language: Name | None = None
    tags: Annotated[tuple[Name, ...], Field(max_length=100)] | None = None
    request_model: Name | None = None
    response_id: Name | None = None
    service_tier: Name | None = None
    cache_write_tokens: Count | None = None
    cache_write_1h_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    audio_input_tokens: Count | None = None
    cached_audio_input_tokens: Count | None = None
    audio_output_tokens: Count | None = None
    other_usage: Annotated[dict[Name, Count], Field(max_length=100)] | None = None
    tokens_estimated: bool | None = None
    ttft_ms: Milliseconds | None = None
    reported_cost_pusd: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    input_sha256: Digest | None = None
    output_sha256: Digest | None = None

    @field_validator("tags")
    @classmethod
    def _sorted(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return tuple(sorted(set(value))) if value else None

    def row(self) -> dict[str, Any]:
        """Return the values of the stored columns."""
        time = self.time.astimezone(UTC)
        derived = {"time_utc": time, "date_utc": time.date(), "schema_version": SCHEMA_VERSION}
        derived |= {"tags": list(self.tags) if self.tags else None, "other_usage": _canonical(self.other_usage)}
        return {name: derived[name] if name in derived else getattr(self, name) for name in SCHEMA.names}


def _canonical(usage: dict[str, int] | None) -> str | None:
    return json.dumps(usage, sort_keys=True, separators=(",", ":")) if usage else None


REJECTED_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("line", pa.binary(), nullable=False),
        pa.field("seen_utc", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""Lines that could not be read: set aside with their place and the reason, never lost."""


_SHOWN = frozenset(Interaction.model_fields) - {"input_text", "context_text", "output_text", "unit"}


def parse_line(line: bytes) -> Interaction | str:
    """Read one line of a log.

    Args:
        line: One JSON object in UTF-8. Numbers are JSON numbers and times are ISO 8601 texts with a zone.

    Returns:
        The interaction, or the reason why it is none, naming the field and, outside of texts, the value.
    """
    try:
        return Interaction.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"]) or "line"
        # A text, an unknown field or a whole line may hold what a user wrote: it is not repeated in the reason.
        shown = place in _SHOWN and not isinstance(first["input"], dict | list)
        return f"{place}: {first['msg'][:300]}" + (f" (was {str(first['input'])[:80]!r})" if shown else "")


def as_table(interactions: Sequence[Interaction]) -> pa.Table:
    """Return the interactions as an Arrow table of ``SCHEMA``."""
    # Without their zone, which Arrow then takes as UTC: it converts these a hundred times as fast.
    times = [interaction.time.astimezone(UTC).replace(tzinfo=None) for interaction in interactions]
    derived: dict[str, list[Any]] = {
        "time_utc": times,
        "date_utc": [time.date() for time in times],
        "schema_version": [SCHEMA_VERSION] * len(times),
        "other_usage": [_canonical(interaction.other_usage) for interaction in interactions],
    }
    columns = [
        pa.array(
            derived[field.name] if field.name in derived else [getattr(row, field.name) for row in interactions],
            field.type,
        )
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def rejected_table(source: str, rejects: Sequence[tuple[int, str, bytes]], seen: datetime) -> pa.Table:
    """Return the rejected lines of one source as an Arrow table of ``REJECTED_SCHEMA``."""
    rows = [
        {"source": source, "line_number": number, "reason": reason, "line": line, "seen_utc": seen}
        for number, reason, line in rejects
    ]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)
