"""The interaction log: one row a call, with the columns every source is normalised to.

NULL is unknown and never 0. ``input_tokens`` include cached tokens, whatever the source counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

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
Count = Annotated[int, Field(ge=0, le=2**53)]
Ordinal = Annotated[int, Field(ge=1, le=2**53)]


def printable(text: str, limit: int = 200) -> str:
    """Return a word as ``Name`` accepts it: cut to a limit, with ``_`` for what does not print; empty stays empty.

    >>> printable("rate" + chr(9) + "limit")
    'rate_limit'
    """
    return "".join(letter if letter.isprintable() else "_" for letter in text[:limit])


class Interaction(BaseModel):
    """One logged call, as an application writes it: one JSON object a line.

    Attributes:
        interaction_id: Unique; a second row of the same id is a duplicate and not stored.
        application: What the user called.
        release_digest: Which release answered; NULL where the source does not know.
        time: When the request arrived.
        unit: What the bucket was drawn from; ``unit_kind`` says whether it sticks to a person.
        bucket: 0 to 999, as the data path computed it.
        plan_revision: The traffic plan in force when the data path sent the request.
        latency_ms: From request to last byte, measured by the application.
        status: The HTTP status that was answered.
        error_type: What went wrong, a machine's word; ``CALLER_ERRORS`` are the caller's own.
        input_text, context_text, output_text: The question, what was retrieved for it, the answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    interaction_id: Name
    application: Name
    release_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
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
    latency_ms: Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)] | None = None
    status: Annotated[int, Field(ge=100, le=599)]
    error_type: Name | None = None
    finish_reason: Name | None = None

    def row(self) -> dict[str, Any]:
        """Return the values of the stored columns."""
        values = self.model_dump()
        time = values.pop("time").astimezone(UTC)
        return {**values, "time_utc": time, "date_utc": time.date()}


SCHEMA = pa.schema(
    [
        pa.field("interaction_id", pa.string(), nullable=False),
        pa.field("application", pa.string(), nullable=False),
        pa.field("release_digest", pa.string()),
        pa.field("time_utc", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("date_utc", pa.date32(), nullable=False),
        pa.field("unit", pa.string()),
        pa.field("unit_kind", pa.string()),
        pa.field("bucket", pa.int32()),
        pa.field("plan_revision", pa.int64()),
        pa.field("provider", pa.string()),
        pa.field("model", pa.string()),
        pa.field("prompt_name", pa.string()),
        pa.field("prompt_version", pa.int64()),
        pa.field("input_text", pa.string()),
        pa.field("context_text", pa.string()),
        pa.field("output_text", pa.string()),
        pa.field("input_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        pa.field("cached_input_tokens", pa.int64()),
        pa.field("latency_ms", pa.float64()),
        pa.field("status", pa.int32(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("finish_reason", pa.string()),
    ]
)
"""The columns of the stored table; it is partitioned by ``date_utc``."""

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
    derived = {"time_utc": times, "date_utc": [time.date() for time in times]}
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
