from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.demo.questions import Question
from deployments.demo.users import Crowd, ask


def numbered() -> Iterator[Question]:
    return (Question(f"question {number}", str(number), f"answer {number}") for number in count())


class FakePath:
    """A data path that answers by the number of the question: every third wrong, every fifth with status 503."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.users: set[str] = set()

    async def answer(self, request: Request) -> Response:
        number = int((await request.json())["messages"][0]["content"].split()[-1])
        self.seen[str(number)] += 1
        self.users.add(request.headers["x-user-id"])
        if number % 5 == 4:
            return JSONResponse({"error": {}}, status_code=503)
        if number % 7 == 6:
            return Response("not json")
        text = "wrong" if number % 3 == 2 else f"Answer {number}"
        body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        return JSONResponse(body, headers={"X-Release": "a" * 64})


@pytest.fixture
def path() -> FakePath:
    return FakePath()


@pytest.fixture
def url(path: FakePath) -> Iterator[str]:
    app = Starlette(routes=[Route("/faq/v1/chat/completions", path.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_every_question_is_asked_once_and_judged_by_truth(url: str, path: FakePath):
    asked = asyncio.run(ask(url, "faq", islice(numbered(), 105), users=10, seed=4))

    assert path.seen == Counter(str(number) for number in range(105))
    assert sorted(int(reply.row_id) for reply in asked.replies) == list(range(105))
    for reply in asked.replies:
        number = int(reply.row_id)
        expected: tuple[int, bool | None, str | None]
        if number % 5 == 4:
            expected = (503, None, None)
        elif number % 7 == 6:
            expected = (200, None, "ValidationError")
        else:
            expected = (200, number % 3 != 2, None)
        assert (reply.status, reply.is_right, reply.error) == expected
    assert asked.failed == 21 + 12
    assert asked.accuracy == pytest.approx(2 / 3, abs=0.02)
    assert len(asked.of("a" * 64).replies) == 105 - asked.failed
    assert path.users <= {f"user-{number}" for number in range(10)}
    assert len(path.users) > 5


def test_nobody_there_is_recorded():
    asked = asyncio.run(ask("http://127.0.0.1:9", "faq", islice(numbered(), 5)))

    assert [(reply.status, reply.error) for reply in asked.replies] == [(None, "ConnectError")] * 5
    assert (asked.failed, asked.accuracy) == (5, None)


def test_a_crowd_asks_until_it_is_stopped_and_loses_nothing(url: str, path: FakePath):
    began = time.monotonic()
    with Crowd(url, "faq", numbered(), rate_per_s=200) as crowd:
        time.sleep(0.5)
        seen = crowd.so_far()
        middle = datetime.now(UTC)
        time.sleep(0.2)
        asked = crowd.stop()
        assert crowd.stop() == asked

    assert 0 < len(seen.replies) < len(asked.replies) <= (time.monotonic() - began) * 200 + 1
    assert Counter(reply.row_id for reply in asked.replies) == path.seen
    assert 0 < len(asked.since(middle).replies) < len(asked.replies)


def test_what_ends_the_asking_is_told_to_whoever_stops_it(url: str):
    def broken() -> Iterator[Question]:
        yield from islice(numbered(), 3)
        raise RuntimeError("no more paper")

    crowd = Crowd(url, "faq", broken(), concurrency=1, rate_per_s=None).start()

    crowd._thread.join()
    with pytest.raises(RuntimeError, match="no more paper"):
        crowd.stop()
    with pytest.raises(RuntimeError, match="no more paper"), Crowd(url, "faq", broken(), rate_per_s=None) as other:
        other._thread.join()
