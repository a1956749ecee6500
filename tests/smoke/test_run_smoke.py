"""Asking a suite: side by side, conversations too, and again only where there was no answer at all."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from sample_release import release_of

from tasks.monitors.verdict import Outcome
from tasks.release.acting import run_smoke
from tasks.release.model import Release
from tasks.smoke.suite import SmokeSuite
from tasks.traffic.driver import Answer, Driver, Message, Question

RELEASE = release_of(text="hi")


@dataclass
class Path:
    """A data path that answers with the given statuses, then with 200."""

    statuses: list[int] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    barrier: threading.Barrier | None = None

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        assert timeout_s > 0
        self.asked.append(question)
        if self.barrier is not None:
            self.barrier.wait(timeout=10)
        return Answer(
            status=self.statuses.pop(0) if self.statuses else 200,
            release_digest=release.digest,
            prompt_sha256=release.prompt.sha256,
            text="Hello.",
            latency_ms=1.0,
        )


def run(path: Path, **suite: Any) -> tuple[Outcome, str]:
    cases = {"cases": [{"name": "a", "question": "?"}]}
    verdict = run_smoke(cast("Driver", path), RELEASE, SmokeSuite.model_validate(cases | suite))
    return verdict.outcome, verdict.reason


def test_no_answer_is_asked_again_once() -> None:
    assert run(Path([0])) == (Outcome.PASS, "a: 1 ms <= 1000 ms (2 tries)")
    gone = Path([0, 0, 0])
    assert run(gone) == (Outcome.FAIL, "a: status none != 200 () after 2 tries")
    assert len(gone.asked) == 2


@pytest.mark.parametrize("status", [500, 429, 404])
def test_an_answer_is_never_asked_for_again(status: int) -> None:
    path = Path([status])
    assert run(path, retries=5) == (Outcome.FAIL, f"a: status {status} != 200 ()")
    assert len(path.asked) == 1


def test_retries_can_be_off_or_more() -> None:
    assert run(Path([0]), retries=0)[0] is Outcome.FAIL
    assert run(Path([0, 0, 0]), retries=3)[0] is Outcome.PASS


@pytest.mark.parametrize("at_once", [1, 6])
def test_as_many_are_asked_side_by_side_as_the_suite_says(at_once: int) -> None:
    path = Path(barrier=threading.Barrier(at_once))
    cases = [{"name": str(number), "question": "?"} for number in range(6)]
    assert run(path, cases=cases, concurrency=at_once)[0] is Outcome.PASS
    assert len(path.asked) == 6


def test_a_conversation_is_sent_whole_and_the_defaults_hold() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    path = Path()
    said = run(path, cases=[{"name": "m", "messages": turns}], defaults={"contains": ["bye"]})
    assert said == (Outcome.FAIL, "m: the answer does not contain 'bye'")
    assert path.asked == [tuple(Message.model_validate(turn) for turn in turns)]
