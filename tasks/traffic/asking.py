"""Ask an OpenAI-shaped server one question, as a probe does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from tasks.traffic.driver import Answer


def ask(url: str, question: str, timeout_s: float, headers: Mapping[str, str]) -> Answer:
    """Post one question to a chat completions URL.

    Returns:
        What came back; a failure to connect is an answer with status 0, never an exception.
    """
    body: dict[str, Any] = {"model": "probe", "messages": [{"role": "user", "content": question}]}
    started = time.perf_counter()
    try:
        response = httpx.post(url, json=body, headers=dict(headers), timeout=timeout_s, trust_env=False)
    except httpx.HTTPError as error:
        return Answer(
            status=0,
            release_digest="",
            prompt_sha256="",
            text="",
            latency_ms=_since(started),
            error=f"{type(error).__name__}: {error}".rstrip(": "),
        )
    text, error_text = _content(response)
    return Answer(
        status=response.status_code,
        release_digest=response.headers.get("X-Release", ""),
        prompt_sha256=response.headers.get("X-Prompt-Sha256", ""),
        text=text,
        latency_ms=_since(started),
        error=error_text,
    )


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _content(response: httpx.Response) -> tuple[str, str]:
    try:
        document = response.json()
        if response.is_success:
            return str(document["choices"][0]["message"]["content"]), ""
        return "", str(document["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return "", f"HTTP {response.status_code} without a chat completion"
