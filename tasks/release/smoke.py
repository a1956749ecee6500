"""Smoke expectations: what a release must answer before any user sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import Field

from tasks.documents import read_document
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import Record, Release
from tasks.traffic.driver import Answer


class SmokeCase(Record):
    """One request and what its answer must be like."""

    name: str = Field(min_length=1, max_length=100)
    question: str = Field(min_length=1, max_length=20_000)
    contains: tuple[str, ...] = Field(default=(), description="Texts the answer must contain; case does not count.")
    max_latency_ms: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Limit of this case; empty: the release's latency limit."
    )


_DEFAULT_CASES = (
    SmokeCase(name="greeting", question="Hello, can you help me?"),
    SmokeCase(name="question", question="What is the capital of France?"),
    SmokeCase(name="unicode", question="¿Qué hora es en 東京? 🙂"),
)


class SmokeSuite(Record):
    """The requests of a smoke test; the default asks three harmless ones."""

    cases: tuple[SmokeCase, ...] = Field(default=_DEFAULT_CASES, min_length=1, max_length=1000)


def read_smoke_file(path: Path) -> SmokeSuite:
    """Read a suite file (YAML or JSON).

    Raises:
        InputError: It cannot be read, or a value is not allowed.
    """
    return read_document(path, SmokeSuite)


def judge_smoke(
    release: Release,
    answers: Sequence[tuple[SmokeCase, Answer]],
    window_start: datetime,
    window_end: datetime,
) -> Verdict:
    """Hold the answers against the expectations: one check a case, every failing one kept."""
    checks = tuple(_check(release, case, answer) for case, answer in answers)
    return Verdict(
        application=release.application,
        release_digest=release.digest,
        window_start=window_start,
        window_end=window_end,
        checks=checks,
    )


def _check(release: Release, case: SmokeCase, answer: Answer) -> Check:
    limit_ms = case.max_latency_ms or release.spec.monitors.latency_ms
    problem = _problem(release, case, answer, limit_ms)
    statement = f"{case.name}: {problem}" if problem else f"{case.name}: {answer.latency_ms:.0f} ms <= {limit_ms:g} ms"
    return Check(
        monitor="smoke",
        outcome=Outcome.FAIL if problem else Outcome.PASS,
        statement=statement,
        value=answer.latency_ms,
        limit=limit_ms,
        n=1,
    )


def _problem(release: Release, case: SmokeCase, answer: Answer, limit_ms: float) -> str:
    """Return what is wrong with an answer, empty where nothing is; the answer's text itself is never shown."""
    if answer.status != 200:  # noqa: PLR2004 - HTTP OK
        return f"status {answer.status or 'none'} != 200 ({answer.error})"
    if answer.release_digest != release.digest:
        return f"answered by release {answer.release_digest[:12] or 'unknown'} != {release.short}"
    if answer.prompt_sha256 != release.prompt.sha256:
        return f"prompt {answer.prompt_sha256[:12] or 'unknown'} != {release.prompt.sha256[:12]}"
    if not answer.text.strip():
        return "the answer is empty"
    missing = [text for text in case.contains if text.casefold() not in answer.text.casefold()]
    if missing:
        return f"the answer does not contain {missing[0]!r}"
    if answer.latency_ms > limit_ms:
        return f"latency {answer.latency_ms:.0f} ms > limit {limit_ms:g} ms"
    return ""
