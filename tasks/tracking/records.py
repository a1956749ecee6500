"""What an application says of a call, as one line of the log, and what is kept of its texts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from tasks.errors import InputError
from tasks.interactions.content import POLICIES, Policy, apply
from tasks.interactions.feedback import Feedback, keep_comment
from tasks.interactions.lines import MAX_LINE_BYTES
from tasks.interactions.redaction import Hook, Redactor
from tasks.interactions.schema import Interaction
from tasks.tracking.breaches import Breach
from tasks.tracking.spool import Kind, Line

REJECTED: Final = "rejected_because"
"""Stands first in a line of a call that cannot be accepted. It is no column, so ingestion sets the line aside."""
NO_APPLICATION: Final = "unnamed"
_TEXTS: Final = ("input_text", "context_text", "output_text")
_NAMES: Final = ("feedback_id", "interaction_id", "application", "time", "status", "provider", "model")
"""The words of a refused line that are kept where its texts are not."""
_PERSONAL: Final = (*_TEXTS, "comment", "unit", "session_id", "user_hash")
_ABOVE_TEXT: Final = 4096
"""How many bytes of a line its other columns may need beside the texts."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of texts.

    Attributes:
        content: ``full``, ``hash`` (only their SHA-256) or ``off``.
        redactor: What is taken out before anything is hashed or kept; by default nothing.
    """

    content: Policy = "full"
    redactor: Redactor = field(default_factory=lambda: Redactor(()))

    @classmethod
    def of(cls, policy: str, redact: Redactor | Hook | None) -> Kept:
        """Return what is kept by a policy and a redactor, or a function from text to text.

        Raises:
            InputError: There is no such policy.
        """
        if policy not in POLICIES:
            raise InputError.of("content", policy, POLICIES)
        if redact is None or isinstance(redact, Redactor):
            return cls(policy, redact or Redactor(()))
        return cls(policy, Redactor((), (("redact", redact),)))

    def text(self, value: str) -> str | None:
        """Return a text as it may be kept; of one that the redactor fails on nothing is."""
        if self.content != "full":
            return None
        return self.redacted(value)

    def interaction(self, call: Interaction) -> Interaction:
        """Return a call as it may be kept; where the redactor fails, without its texts."""
        if self.content == "full" and not self.redactor.rules and not self.redactor.hooks:
            return call
        try:
            return apply(call, self.content, self.redactor)
        except InputError:
            hidden = dict.fromkeys((*_TEXTS, "tags", "route", "finish_reason"))
            return call.model_copy(update={**hidden, "unit": call.unit and sha256(call.unit.encode()).hexdigest()})

    def feedback(self, said: Feedback) -> Feedback:
        """Return feedback with its comment as it may be kept."""
        redacted = None if said.comment is None else self.redacted(said.comment)
        return keep_comment(said.model_copy(update={"comment": redacted}), self.content)

    def redacted(self, value: str) -> str | None:
        """Return a text without what is personal or secret; of one that the redactor fails on nothing is left."""
        try:
            return self.redactor.redact(value).text
        except InputError:
            return None


@dataclass(frozen=True, slots=True)
class Refused:
    """A call, or feedback, that cannot be accepted.

    Attributes:
        reason: Names the field and not what stood there.
        values: What was said.
    """

    kind: Kind
    reason: str
    values: Mapping[str, Any]


Record = Interaction | Feedback | Refused | Breach


def new_id(now: datetime) -> str:
    """Return an id that sorts by time and is nobody else's: a UUID of version 7 in hex digits."""
    value = int(now.timestamp() * 1000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return f"{value & ~(0x3 << 62) | 0x2 << 62:032x}"


def interaction_of(values: dict[str, Any], now: datetime) -> Interaction | Refused:
    """Return a call from what an application says, or why it is none.

    Args:
        values: Columns of the log, and ``user``, ``session`` and ``tags`` as applications have them; None is unknown.
        now: Stands for the time where none is said: the call arrived ``latency_ms`` before it.
    """
    found = {name: value for name, value in values.items() if value is not None}
    try:
        _fill(found, now)
        return Interaction.model_validate(found)
    except ValidationError as error:
        return Refused("interactions", _reason(error, Interaction), found)
    except Exception as error:  # noqa: BLE001 - whatever the application's own objects raise
        return Refused("interactions", f"tags, user or session: {type(error).__name__}", found)


def feedback_of(values: dict[str, Any], now: datetime) -> Feedback | Refused:
    """Return feedback from what an application says, or why it is none."""
    found = {name: value for name, value in values.items() if value is not None}
    found.setdefault("time", now)
    value = found.get("value")
    if isinstance(value, bool | int):
        found["value"] = float(value)  # thumbs up and down
    try:
        return Feedback.model_validate(found)
    except ValidationError as error:
        return Refused("feedback", _reason(error, Feedback), found)
    except Exception as error:  # noqa: BLE001 - as above
        return Refused("feedback", f"feedback: {type(error).__name__}", found)


def _fill(found: dict[str, Any], now: datetime) -> None:
    if (user := found.pop("user", None)) is not None:
        name = str(user)
        found.setdefault("unit", name)
        found.setdefault("unit_kind", "user")
        found.setdefault("user_hash", sha256(name.encode()).hexdigest())
    if (session := found.pop("session", None)) is not None:
        found.setdefault("session_id", str(session))
    tags = found.get("tags")
    if isinstance(tags, Mapping):
        tags = [f"{name}={value}" for name, value in tags.items()]
    if tags is not None and not isinstance(tags, str):
        found["tags"] = tuple(tags)
    found.setdefault("status", 200 if found.get("error_type") is None else 500)
    latency = found.get("latency_ms")
    if isinstance(latency, int) and not isinstance(latency, bool):
        found["latency_ms"] = latency = float(latency)
    known = isinstance(latency, float) and math.isfinite(latency) and 0 <= latency <= 86_400_000  # noqa: PLR2004 - a day
    found.setdefault("time", now - timedelta(milliseconds=latency) if known and latency else now)


def _reason(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the reason without the value, and without a name that is no column: both may be what a user wrote."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = str(first["loc"][0]) if first["loc"] else "call"
    if place not in model.model_fields:
        return "call: holds a field that is no column of the log"
    return f"{place}: {first['msg'][:200]}"


def raise_refused(record: Record) -> None:
    """Raise what was refused.

    Raises:
        InputError: It was.
    """
    if isinstance(record, Refused):
        kept = Feedback if record.kind == "feedback" else Interaction
        unknown = sorted(str(name) for name in record.values if name not in kept.model_fields)
        allowed = f"; not among the columns: {', '.join(unknown)}; see docs/interactions.md" if unknown else ""
        raise InputError(f"{'track_feedback' if kept is Feedback else 'track_interaction'}: {record.reason}{allowed}")


def as_line(record: Record, kept: Kept) -> Line:
    """Return the line of a call or of feedback; what makes no line becomes one that ingestion sets aside."""
    if isinstance(record, Breach):
        return Line("breaches", record.application, record.model_dump_json(exclude_none=True).encode())
    try:
        if isinstance(record, Refused):
            return _refused_line(record, kept)
        if isinstance(record, Feedback):
            said = kept.feedback(record)
            return Line("feedback", said.application, said.model_dump_json(exclude_none=True).encode())
        call = kept.interaction(record)
        line = call.model_dump_json(exclude_none=True).encode()
        if len(line) > MAX_LINE_BYTES - _ABOVE_TEXT:
            # Its cost counts even where its text is too long for a line.
            line = Kept("hash", kept.redactor).interaction(call).model_dump_json(exclude_none=True).encode()
        return Line("interactions", call.application, line)
    except ValueError as error:  # a text that has no UTF-8
        if isinstance(record, Refused):
            return Line(record.kind, NO_APPLICATION, json.dumps({REJECTED: record.reason}).encode())
        kind: Kind = "feedback" if isinstance(record, Feedback) else "interactions"
        return as_line(Refused(kind, f"call: {type(error).__name__}", record.model_dump()), kept)


def _refused_line(refused: Refused, kept: Kept) -> Line:
    model = Feedback if refused.kind == "feedback" else Interaction
    failed = refused.reason.partition(":")[0]
    plain = {str(name): _plain(value) for name, value in refused.values.items() if value is not None}
    if kept.content != "full":
        # Of a field that was refused, or is no column, nobody knows whether it holds what a user wrote.
        named = (name for name in plain if name in model.model_fields and name != failed and name not in _PERSONAL)
        plain = {name: plain[name] for name in named if name in _NAMES or not isinstance(plain[name], str)}
    plain = {name: kept.redacted(value) if isinstance(value, str) else value for name, value in plain.items()}
    application = refused.values.get("application")
    content = json.dumps({REJECTED: refused.reason, **plain}).encode()
    if len(content) > MAX_LINE_BYTES - _ABOVE_TEXT:
        content = json.dumps({REJECTED: refused.reason, "interaction_id": plain.get("interaction_id")}).encode()
    is_name = isinstance(application, str) and bool(application) and application.isprintable()
    return Line(refused.kind, str(application) if is_name else NO_APPLICATION, content)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; of what JSON does not know its type is kept, whose text may be anything."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple | Mapping):
        return f"<{type(value).__name__} of {len(value)}>"
    return f"<{type(value).__name__}>"
