"""The columns of the interaction log, each with its unit and with what NULL means in it.

NULL is unknown and never 0. ``input_tokens`` include cached tokens and ``output_tokens`` include reasoning, whatever
the source counts.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import pyarrow as pa

SCHEMA_VERSION: Final = 2
"""Written with every row. Version 1 had no column after ``finish_reason``; its rows read as NULL there."""


class Column(NamedTuple):
    """One column: its name, its type in Arrow, its unit, what NULL means (empty: never NULL), and what it holds."""

    name: str
    type: pa.DataType
    unit: str
    null: str
    meaning: str


_TEXT, _COUNT, _UNKNOWN = pa.string(), pa.int64(), "unknown"
COLUMNS: Final = (
    Column("interaction_id", _TEXT, "", "", "Names the call; a second row of the same id is a duplicate."),
    Column("application", _TEXT, "", "", "What the user called."),
    Column("release_digest", _TEXT, "64 hex digits", "the source does not know releases", "Which release answered."),
    Column("time_utc", pa.timestamp("us", tz="UTC"), "UTC, microseconds", "", "When the request arrived."),
    Column("date_utc", pa.date32(), "UTC day", "", "The day of `time_utc`; the table is partitioned by it."),
    Column("unit", _TEXT, "", _UNKNOWN, "What the bucket was drawn from: a user, a session or a request."),
    Column("unit_kind", _TEXT, "user, session, request", _UNKNOWN, "Whether `unit` sticks to a person."),
    Column("bucket", pa.int32(), "0 to 999", "not routed by a traffic plan", "As the data path computed it."),
    Column("plan_revision", _COUNT, "from 1", "not routed by a traffic plan", "The traffic plan that routed it."),
    Column("provider", _TEXT, "", _UNKNOWN, "Who is paid, as the price book names it."),
    Column("model", _TEXT, "", _UNKNOWN, "The model that answered, as the provider names it."),
    Column("prompt_name", _TEXT, "", "no registered prompt", "The prompt in the registry."),
    Column("prompt_version", _COUNT, "from 1", "no registered prompt", "Its version."),
    Column("input_text", _TEXT, "", "unknown or not kept", "What the user asked."),
    Column("context_text", _TEXT, "", "unknown, none or not kept", "What was retrieved for it."),
    Column("output_text", _TEXT, "", "unknown or not kept", "What was answered."),
    Column("input_tokens", _COUNT, "tokens", _UNKNOWN, "All input, with what was read from or written to a cache."),
    Column("output_tokens", _COUNT, "tokens", _UNKNOWN, "All output, with reasoning."),
    Column("cached_input_tokens", _COUNT, "tokens", _UNKNOWN, "Part of `input_tokens` read from a cache."),
    Column("latency_ms", pa.float64(), "milliseconds", _UNKNOWN, "From request to last byte."),
    Column("status", pa.int32(), "HTTP status", "", "What was answered; 200 where the source says success only."),
    Column("error_type", _TEXT, "", "no error", "What went wrong, a machine's word."),
    Column("finish_reason", _TEXT, "", _UNKNOWN, "Why the answer ended, as the provider says."),
    Column("schema_version", pa.int32(), "", "1", "The version of these columns the row was written with."),
    Column("source", _TEXT, "", "native", "The format the row was read from."),
    Column("trace_id", _TEXT, "", _UNKNOWN, "The trace the call belongs to."),
    Column("session_id", _TEXT, "", _UNKNOWN, "The conversation the call belongs to."),
    Column("user_hash", _TEXT, "64 hex digits", _UNKNOWN, "SHA-256 of the user's id; deletion goes by it."),
    Column("team", _TEXT, "", _UNKNOWN, "Who bears the cost."),
    Column("route", _TEXT, "", _UNKNOWN, "The endpoint or feature of the application."),
    Column("environment", _TEXT, "", _UNKNOWN, "For example production or staging."),
    Column("language", _TEXT, "BCP 47", _UNKNOWN, "The language of the question."),
    Column("tags", pa.list_(_TEXT), "`name=value`", "none", "Sorted, each once."),
    Column("request_model", _TEXT, "", _UNKNOWN, "The model that was asked for."),
    Column("response_id", _TEXT, "", _UNKNOWN, "The provider's id of the answer."),
    Column("service_tier", _TEXT, "standard, batch, flex, priority", _UNKNOWN, "What was bought of the provider."),
    Column("cache_write_tokens", _COUNT, "tokens", _UNKNOWN, "Part of `input_tokens` written to a cache."),
    Column("cache_write_1h_tokens", _COUNT, "tokens", _UNKNOWN, "Part of `cache_write_tokens` kept for an hour."),
    Column("reasoning_tokens", _COUNT, "tokens", _UNKNOWN, "Part of `output_tokens` that nobody reads."),
    Column("audio_input_tokens", _COUNT, "tokens", _UNKNOWN, "Part of `input_tokens`."),
    Column("cached_audio_input_tokens", _COUNT, "tokens", _UNKNOWN, "Part of the cached and of the audio input."),
    Column("audio_output_tokens", _COUNT, "tokens", _UNKNOWN, "Part of `output_tokens`."),
    Column("other_usage", _TEXT, "JSON, unit to count", "none", "What else is paid for, such as web searches."),
    Column("tokens_estimated", pa.bool_(), "", "no", "The tokens were counted by somebody else than the provider."),
    Column("ttft_ms", pa.float64(), "milliseconds", "unknown or not streamed", "From request to first token."),
    Column("reported_cost_pusd", _COUNT, "pico-USD", _UNKNOWN, "What the source says it cost; never billed by us."),
    Column("input_sha256", _TEXT, "64 hex digits", _UNKNOWN, "Of the question, where the text is not kept."),
    Column("output_sha256", _TEXT, "64 hex digits", _UNKNOWN, "Of the answer, where the text is not kept."),
)

SCHEMA: Final = pa.schema([pa.field(column.name, column.type, nullable=bool(column.null)) for column in COLUMNS])
"""The columns of the stored table."""


def as_markdown() -> str:
    """Return the columns as a table for people."""
    head = ["| column | type | unit | NULL means | what it holds |", "|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| `{column.name}` | {column.type} | {column.unit} | {column.null or 'never NULL'} | {column.meaning} |"
            for column in COLUMNS
        ]
    )
