"""Feedback on answers: what users and reviewers say later of a call, joined to it by its id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.interactions.schema import EARLIEST, LATEST, Digest, Name

FEEDBACK_SCHEMA = pa.schema(
    [
        pa.field("feedback_id", pa.string(), nullable=False),
        pa.field("interaction_id", pa.string(), nullable=False),
        pa.field("application", pa.string(), nullable=False),
        pa.field("time_utc", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("label", pa.string()),
        pa.field("comment", pa.string()),
        pa.field("comment_sha256", pa.string()),
        pa.field("source", pa.string()),
    ]
)
"""The columns of the stored table; a NULL value is unknown, a NULL comment unknown or not kept."""
MARK = b'"feedback_id"'
"""Stands in every line of feedback; a line without it is an interaction."""
Redact = Callable[[str], str]


class Feedback(BaseModel):
    """One word on one answer, as an application writes it: one JSON object a line, ``kind`` says what of.

    Attributes:
        feedback_id: Names it; a second line of the same id is a duplicate.
        interaction_id: The call it is about; it may be stored before that call is.
        kind: ``feedback``, or what was judged, such as ``thumbs`` or ``resolved``.
        value: A number, such as 1 and 0 for thumbs up and down; None is unknown.
        label: A word instead of a number.
        comment: What a person wrote; kept as the content policy says.
        source: Who says so: a user, a reviewer, another system.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    feedback_id: Name
    interaction_id: Name
    application: Name
    time: Annotated[AwareDatetime, Field(ge=EARLIEST, lt=LATEST)]
    kind: Name = "feedback"
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    label: Name | None = None
    comment: str | None = None
    comment_sha256: Digest | None = None
    source: Name | None = None


def parse_feedback(line: bytes) -> Feedback | str:
    """Read one line of feedback; return the reason, without what anybody wrote, where it is none."""
    try:
        return Feedback.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"]) or "line"
        return f"{place}: {first['msg'][:300]}"


def keep_comment(feedback: Feedback, policy: Literal["off", "hash", "full"], redact: Redact | None = None) -> Feedback:
    """Return the feedback with its comment as the content policy has it: dropped, hashed, or redacted and kept."""
    if feedback.comment is None:
        return feedback
    digest = hashlib.sha256(feedback.comment.encode(errors="surrogatepass")).hexdigest()
    if policy == "off":
        return feedback.model_copy(update={"comment": None, "comment_sha256": None})
    if policy == "hash":
        return feedback.model_copy(update={"comment": None, "comment_sha256": digest})
    kept = redact(feedback.comment) if redact else feedback.comment
    return feedback.model_copy(update={"comment": kept, "comment_sha256": digest if kept != feedback.comment else None})


def feedback_table(rows: Sequence[Feedback]) -> pa.Table:
    """Return feedback as an Arrow table of ``FEEDBACK_SCHEMA``."""
    times = [row.time.astimezone(UTC) for row in rows]
    columns = [
        pa.array(times if field.name == "time_utc" else [getattr(row, field.name) for row in rows], field.type)
        for field in FEEDBACK_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=FEEDBACK_SCHEMA)
