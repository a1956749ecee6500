"""Real users of the demo: they ask through the data path while releases come and go.

Every question that was asked is recorded, also one that got no answer.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self

import httpx
from pydantic import BaseModel, ValidationError

from deployments.demo.questions import Question

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_OK = 200
_NAP_S = 0.05


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question.

    Attributes:
        user: Who asked.
        row_id: The row of the corpus that was meant.
        asked: When, UTC.
        latency_ms: Until the last byte, or until the failure.
        status: HTTP status; None where there was no answer.
        release: ``X-Release`` of the answer; None where it does not say.
        is_right: Whether the answer is the right one; None where there is none to judge.
        error: What went wrong on the way, as a class name; None where nothing did.
    """

    user: str
    row_id: str
    asked: datetime
    latency_ms: float
    status: int | None
    release: str | None
    is_right: bool | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The replies to all questions that were asked, in the order they came."""

    replies: tuple[Reply, ...]

    @property
    def failed(self) -> int:
        """How many questions got no answer with status 200."""
        return sum(reply.status != _OK or reply.error is not None for reply in self.replies)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers among those that were given; None without any."""
        judged = [reply.is_right for reply in self.replies if reply.is_right is not None]
        return sum(judged) / len(judged) if judged else None

    def of(self, release: str) -> Asked:
        """Return the replies that one release gave.

        Args:
            release: Its digest, 64 hexadecimal digits.
        """
        return Asked(tuple(reply for reply in self.replies if reply.release == release))

    def since(self, moment: datetime) -> Asked:
        """Return the replies to questions asked at or after a moment."""
        return Asked(tuple(reply for reply in self.replies if reply.asked >= moment))


async def ask(
    base_url: str,
    application: str,
    questions: Iterable[Question],
    *,
    users: int = 200,
    concurrency: int = 8,
    rate_per_s: float | None = None,
    seed: int = 0,
    stop: threading.Event | None = None,
    replies: list[Reply] | None = None,
) -> Asked:
    """Ask questions through the data path, as many users, until they are all asked or told to stop.

    Args:
        base_url: The data path, without the application.
        application: What is called: ``{base_url}/{application}/v1/chat/completions``.
        questions: What to ask; may be endless if ``stop`` is given.
        users: How many people ask; each question is one user's (``X-User-Id: user-17``).
        concurrency: Most questions that wait for their answer at once.
        rate_per_s: Most questions begun in a second; None for as many as are answered.
        seed: Decides which user asks which question.
        stop: Once set, no further question is begun; those begun are still recorded.
        replies: A list that is filled meanwhile, for somebody who watches.

    Returns:
        The replies; as many as questions were taken.
    """
    kept = [] if replies is None else replies
    round_ = _Round(iter(questions), users, random.Random(seed), rate_per_s, stop or threading.Event(), kept)
    url = f"{base_url.rstrip('/')}/{application}/v1/chat/completions"
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(_worker(client, url, round_) for _ in range(concurrency)))
    return Asked(tuple(kept))


class Crowd:
    """Users who ask in the background until they are stopped.

    ``with Crowd(url, "faq", questions, rate_per_s=50) as crowd: …; asked = crowd.stop()``

    Args:
        base_url: The data path, without the application.
        application: What is called.
        questions: What to ask, usually endless.
        users: How many people ask.
        concurrency: Most questions that wait for their answer at once.
        rate_per_s: Most questions begun in a second.
        seed: Decides which user asks which question.
    """

    def __init__(
        self,
        base_url: str,
        application: str,
        questions: Iterable[Question],
        *,
        users: int = 200,
        concurrency: int = 8,
        rate_per_s: float | None = 50.0,
        seed: int = 0,
    ) -> None:
        self._stop = threading.Event()
        self._replies: list[Reply] = []
        self._done: Future[Asked] = Future()
        self._ask = partial(
            ask,
            base_url,
            application,
            questions,
            users=users,
            concurrency=concurrency,
            rate_per_s=rate_per_s,
            seed=seed,
            stop=self._stop,
            replies=self._replies,
        )
        self._thread = threading.Thread(target=self._run, name=f"users of {application}", daemon=True)

    def start(self) -> Self:
        """Begin to ask."""
        self._thread.start()
        return self

    def so_far(self) -> Asked:
        """Return the replies that came until now."""
        return Asked(tuple(self._replies))

    def stop(self) -> Asked:
        """Begin no further question, wait for those begun, and return all replies; stopping twice is no error.

        Raises:
            Exception: Whatever ended the asking before its time.
        """
        self._stop.set()
        self._thread.join()
        return self._done.result()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._done.result()

    def _run(self) -> None:
        try:
            self._done.set_result(asyncio.run(self._ask()))
        except BaseException as error:  # noqa: BLE001 - handed to whoever stops the crowd
            self._done.set_exception(error)


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: tuple[_Choice, ...]


@dataclass(slots=True)
class _Round:
    questions: Iterator[Question]
    users: int
    source: random.Random
    rate_per_s: float | None
    stop: threading.Event
    replies: list[Reply]
    next_at: float = 0.0

    async def take(self) -> tuple[str, Question] | None:
        """Wait for the next turn and return a user with a question; None when there is nothing left to ask."""
        if self.rate_per_s is not None:
            turn = max(self.next_at, time.monotonic())
            self.next_at = turn + 1 / self.rate_per_s
            while (wait := turn - time.monotonic()) > 0 and not self.stop.is_set():  # noqa: ASYNC110 - set by a thread
                await asyncio.sleep(min(wait, _NAP_S))
        if self.stop.is_set():
            return None
        question = next(self.questions, None)
        return None if question is None else (f"user-{self.source.randrange(self.users)}", question)


async def _worker(client: httpx.AsyncClient, url: str, round_: _Round) -> None:
    while (taken := await round_.take()) is not None:
        round_.replies.append(await _ask_one(client, url, *taken))


async def _ask_one(client: httpx.AsyncClient, url: str, user: str, question: Question) -> Reply:
    asked, start = datetime.now(UTC), time.perf_counter()
    body = {"messages": [{"role": "user", "content": question.text}]}
    status, release, is_right, error = None, None, None, None
    try:
        response = await client.post(url, json=body, headers={"X-User-Id": user})
        status, release = response.status_code, response.headers.get("x-release")
        if status == _OK:
            answer = _Completion.model_validate_json(response.content).choices[0].message.content
            is_right = question.is_answered_by(answer)
    except (httpx.HTTPError, ValidationError, IndexError) as caught:
        error = type(caught).__name__
    latency_ms = (time.perf_counter() - start) * 1000
    return Reply(user, question.row_id, asked, latency_ms, status, release, is_right, error)
