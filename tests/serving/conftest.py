from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from tasks.interactions.schema import Interaction, parse_line
from tasks.release.model import Prompt, Release, ReleaseSpec, text_sha256
from tasks.serving.backends import Backend
from tasks.serving.log import InteractionLog
from tasks.serving.server import create_app

QUESTION = {"messages": [{"role": "user", "content": "Who is it?"}]}


class Oracle:
    """A model that knows one answer, and can fail."""

    def __init__(self, answer: str = "It is Bob.", error: Exception | None = None) -> None:
        self.answer = answer
        self.error = error
        self.asked: list[str] = []

    def predict(self, questions: list[str]) -> list[str]:
        self.asked += questions
        if self.error is not None:
            raise self.error
        return [json.dumps({"answer": self.answer, "context": "Bob lives here."})]


def a_release(prompt: str = "{{ answer }}", **changes: Any) -> Release:
    fields = {
        "application": "faq",
        "model_id": "faq-bot",
        "version": "1",
        "endpoint": "models:/faq-bot/1",
        "prompt": {"name": "faq-answer", "text": prompt},
    }
    spec = ReleaseSpec.model_validate({**fields, **changes})
    pinned = Prompt(name=spec.prompt.name, version=7, text=prompt, sha256=text_sha256(prompt))
    return Release(spec=spec, prompt=pinned, registry_version=3)


class Served:
    """A release server in this process, without a network."""

    def __init__(self, release: Release, backend: Backend, folder: Path, *, log_content: bool = True) -> None:
        self.release = release
        self.folder = folder
        self.log = InteractionLog(folder, release, datetime.now(UTC), log_content=log_content)
        self.app = create_app(release, backend, self.log)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://release") as client:
                return await client.request(method, path, **options)

        return asyncio.run(once())

    def ask(self, body: object = None, **options: Any) -> httpx.Response:
        return self.call("POST", "/v1/chat/completions", json=QUESTION if body is None else body, **options)

    def lines(self) -> list[Interaction]:
        return read_log(self.folder)


def read_log(folder: Path) -> list[Interaction]:
    lines = [line for path in sorted(folder.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    parsed = [parse_line(line) for line in lines]
    assert all(isinstance(one, Interaction) for one in parsed), parsed
    return [one for one in parsed if isinstance(one, Interaction)]


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve an app on a free port of loopback."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(backend: Backend, release: Release, *, log_content: bool = True) -> Served:
        made.append(Served(release, backend, tmp_path, log_content=log_content))
        return made[-1]

    yield make
    for served in made:
        served.log.close()


@pytest.fixture
def release_of() -> Callable[..., Release]:
    return a_release


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture
def on_loopback() -> Callable[[ASGIApp], Any]:
    return listening


@pytest.fixture
def log_lines() -> Callable[[Path], list[Interaction]]:
    return read_log


@pytest.fixture
def events_of() -> Callable[[bytes], list[Any]]:
    def read(body: bytes) -> list[Any]:
        datas = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
        assert datas[-1] == b"[DONE]"
        return [json.loads(data) for data in datas[:-1]]

    return read
