"""The release that most tests speak of; what a test is about is given by name."""

from __future__ import annotations

from typing import Any

from tasks.release.model import Prompt, PromptRef, Release, ReleaseSpec, text_sha256

URL = "http://127.0.0.1:9/v1"
"""An endpoint that nobody answers at."""


def spec_of(version: int | str = 1, *, text: str = "hello", **changes: Any) -> ReleaseSpec:
    """Return a release as a team writes it down; ``text`` is that of its prompt."""
    usual = {"application": "faq", "model_id": "bot", "endpoint": "models:/bot/1"}
    return ReleaseSpec(**{**usual, "prompt": PromptRef(name="p", text=text), **changes, "version": str(version)})


def release_of(version: int | str = 1, *, text: str = "hello", **changes: Any) -> Release:
    """Return a registered release; its number in the registry is its version, or 1 where that is none."""
    spec = spec_of(version, text=text, **changes)
    text = spec.prompt.text or text
    prompt = Prompt(name=spec.prompt.name, version=1, text=text, sha256=text_sha256(text))
    number = int(version) if str(version).isdigit() else 0
    return Release(spec=spec, prompt=prompt, registry_version=number or 1)
