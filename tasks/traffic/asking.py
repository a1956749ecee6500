"""Ask an OpenAI-shaped server one question, or go on with a conversation, as a probe does."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

from tasks.traffic.driver import Answer, Question

_NO_WORD = re.compile(r"[^A-Za-z0-9_.:-]+")
_MAX_KIND = 80


def ask(url: str, question: Question, timeout_s: float, headers: Mapping[str, str]) -> Answer:
    """Post one question to a chat completions URL.

    Args:
        url: Of the chat completions.
        question: A user's message, or all messages of a conversation.
        timeout_s: How long the server may be silent, seconds.
        headers: Of the request.

    Returns:
        What came back; a failure to connect is an answer with status 0, never an exception. The error is a
        machine's word only: the endpoint's own message may repeat the question or a key.
    """
    body: dict[str, Any] = {"model": "probe", "messages": _messages(question)}
    started = time.perf_counter()
    try:
        response = httpx.post(
            url, json=body, headers=dict(headers), timeout=timeout_s, trust_env=False, verify=_verifies(url)
        )
    except httpx.HTTPError as error:
        return Answer(
            status=0,
            release_digest="",
            prompt_sha256="",
            text="",
            latency_ms=_since(started),
            error=type(error).__name__,
        )
    document = _document(response)
    text, error_text = _content(response, document)
    return Answer(
        status=response.status_code,
        release_digest=response.headers.get("X-Release", ""),
        prompt_sha256=response.headers.get("X-Prompt-Sha256", ""),
        text=text,
        latency_ms=_since(started),
        error=error_text,
        input_tokens=_tokens(document, "prompt_tokens"),
        output_tokens=_tokens(document, "completion_tokens"),
        context=_context(document) if response.is_success else None,
    )


def answers_as(url: str, digest: str, timeout_s: float = 2.0) -> bool:
    """Return whether the release of a digest answers on a base URL; somebody else, or nobody, is no."""
    try:
        found = httpx.get(f"{url}/release", timeout=timeout_s, trust_env=False, verify=_verifies(url)).json()
    except (httpx.HTTPError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("digest") == digest


def _verifies(url: str) -> bool:
    """Return whether certificates are needed; to load them for every plain request would cost 20 ms each."""
    return not url.startswith("http://")


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _messages(question: Question) -> list[dict[str, str]]:
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    return [{"role": message.role, "content": message.content} for message in question]


def _document(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _tokens(document: Any, name: str) -> int | None:
    """Return a count of the answer's ``usage``; what is no count is unknown."""
    usage = document.get("usage") if isinstance(document, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _context(document: Any) -> str | None:
    """Return the passage that a release tells probes it answered from; what is no text is unknown."""
    context = document.get("context") if isinstance(document, dict) else None
    return context if isinstance(context, str) else None


def _content(response: httpx.Response, document: Any) -> tuple[str, str]:
    """Return the text of an answer, and the type of its error; one of them is empty."""
    plain = f"HTTP {response.status_code} without a chat completion"
    try:
        found = document["choices"][0]["message"]["content"] if response.is_success else document["error"]["type"]
    except (LookupError, TypeError):
        return "", plain
    if response.is_success:
        return (found, "") if isinstance(found, str) else ("", plain)
    kind = _NO_WORD.sub("_", found)[:_MAX_KIND] if isinstance(found, str) else ""
    return "", kind or plain
