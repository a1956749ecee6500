"""What was asked and what was answered, out of the shapes in which sources keep messages.

A shape nobody knows gives None: a text that cannot be found is no reason to lose a call.
"""

from __future__ import annotations

import json
from typing import Any

_DEEPEST = 8


def plain_text(content: Any, depth: int = 0) -> str | None:
    """Return the text of a message's content: a text, a list of parts, or an object that holds one of these."""
    if isinstance(content, str):
        return content or None
    if depth == _DEEPEST:
        return None
    if isinstance(content, list):
        return "\n".join(filter(None, (plain_text(part, depth + 1) for part in content))) or None
    if isinstance(content, dict):
        kind = content.get("type")
        if isinstance(kind, str) and ("tool" in kind or "function" in kind or kind in {"thinking", "reasoning"}):
            return None
        held = (content.get(name) for name in ("text", "content", "parts"))
        return next(filter(None, (plain_text(part, depth + 1) for part in held)), None)
    return None


def last_question(messages: Any) -> str | None:
    """Return the text of the last message of a user; a text instead of messages is the question."""
    if isinstance(messages, str):
        return messages or None
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role", "user") in ("user", "human"):
            return plain_text({key: message[key] for key in ("content", "parts", "text") if key in message})
    return None


def parsed(value: Any) -> Any:
    """Return what a text holds as JSON, or the value as it is."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def question(value: Any) -> str | None:
    """Return the question out of messages, of a request that holds them, or of their JSON."""
    value = parsed(value)
    if isinstance(value, dict):
        return last_question(next((value[name] for name in ("messages", "input", "contents") if name in value), None))
    return last_question(value)


def answer(value: Any) -> str | None:
    """Return the answer out of a response of a provider, of messages, or of their JSON."""
    value = parsed(value)
    if isinstance(value, list):
        return plain_text(value)
    if not isinstance(value, dict):
        return value or None if isinstance(value, str) else None
    for name in ("choices", "candidates"):
        choices = value.get(name)
        if isinstance(choices, list):
            first = choices[0] if choices and isinstance(choices[0], dict) else {}
            return plain_text(first.get("message") or first.get("content") or first.get("text"))
    output = value.get("output")
    if isinstance(output, dict):
        output = output.get("message")
    return plain_text(output if output is not None else value)
