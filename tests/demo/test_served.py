"""The demo's releases on a real MLflow, each served by the real server process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deployments.demo.bot import MODEL, RELEASE_DIR, Variant, register_models
from deployments.demo.corpus import corpus
from tasks.interactions.schema import Interaction, parse_line
from tasks.release.model import Release, ReleaseSpec, read_release_file
from tasks.stores.registry import Registry
from tasks.traffic.servers import REFUSED

pytestmark = pytest.mark.stack

START_S = 60
ROWS = {row.question: row for row in corpus()[:20]}


@dataclass(frozen=True)
class Server:
    release: Release
    url: str
    process: subprocess.Popen[bytes]
    errors: Path

    def ask(self, question: str, **headers: str) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": question}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def registry(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


@pytest.fixture(scope="module")
def releases(registry: Registry) -> dict[Variant, Release]:
    addresses = register_models(registry)
    specs = {variant: read_release_file(RELEASE_DIR / f"{variant}.yaml") for variant in Variant}
    assert addresses == {variant.value: specs[variant].endpoint for variant in Variant}
    return {variant: registry.register(spec)[0] for variant, spec in specs.items()}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def start(mlflow_url: str, state: Path) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def begin(release: Release, *options: str, **environment: str) -> Server:
            port = unused_port()
            errors = state / f"{port}.log"
            where = {"DELIVERY_STATE_DIR": str(state), "DELIVERY_MLFLOW_URL": mlflow_url}
            log = stack.enter_context(errors.open("wb"))
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tasks.serving", "--application", release.application),
                    *("--version", str(release.registry_version), "--port", str(port), *options),
                ],
                env={**os.environ, **where, **environment},
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Server(release, f"http://127.0.0.1:{port}", process, errors)

        yield begin


@pytest.fixture(scope="module")
def servers(releases: dict[Variant, Release], start: Callable[..., Server]) -> dict[Variant, Server]:
    options = {Variant.CHARACTERS: (), Variant.SHUFFLED: (), Variant.UNFITTED: ("--no-content",)}
    started = {variant: start(releases[variant], *flags) for variant, flags in options.items()}
    for server in started.values():
        wait_until_healthy(server)
    return started


def wait_until_healthy(server: Server) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"no health: {server.errors.read_text()}")


def unused_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines_of(state: Path, server: Server, wanted: int = 0) -> list[Interaction]:
    """Return what a server logged; a line may come a moment after its answer, so wait until as many as wanted came."""
    until = time.monotonic() + START_S
    while True:
        paths = state.glob(f"interactions/faq/*/{server.release.short}-{server.process.pid}-*.jsonl")
        parsed = [parse_line(line) for path in paths for line in path.read_bytes().splitlines()]
        if len(parsed) >= wanted or time.monotonic() > until:
            break
        time.sleep(0.01)
    assert all(isinstance(line, Interaction) for line in parsed), parsed
    return [line for line in parsed if isinstance(line, Interaction)]


def test_registering_twice_changes_nothing(registry: Registry, releases: dict[Variant, Release]):
    assert register_models(registry) == {f"v{number}": f"models:/{MODEL}/{number}" for number in range(1, 5)}
    for variant, release in releases.items():
        again, is_new = registry.register(read_release_file(RELEASE_DIR / f"{variant}.yaml"))
        assert (again.digest, is_new) == (release.digest, False)


def test_a_good_release_answers_right_and_says_who_it_is(servers: dict[Variant, Server], state: Path):
    server = servers[Variant.CHARACTERS]

    described = httpx.get(f"{server.url}/release", trust_env=False).json()
    for question, row in ROWS.items():
        response = server.ask(question, **{"X-Unit": "user-1", "X-Unit-Kind": "user", "X-Bucket": "7"})
        assert response.json()["choices"][0]["message"]["content"] == row.answer
        assert response.headers["x-release"] == described["digest"] == server.release.digest
    server.ask("probe", **{"X-Purpose": "smoke"})

    lines = lines_of(state, server, len(ROWS))
    assert [(line.input_text, line.output_text) for line in lines] == [(q, row.answer) for q, row in ROWS.items()]
    assert {line.context_text for line in lines} == {row.context for row in ROWS.values()}
    assert {(line.unit, line.bucket, line.status) for line in lines} == {("user-1", 7, 200)}
    assert max(line.latency_ms or 0 for line in lines) < 1000


def test_the_shuffled_release_is_fluent_and_wrong(servers: dict[Variant, Server], state: Path):
    server = servers[Variant.SHUFFLED]

    answers = [server.ask(question) for question in ROWS]

    assert {response.status_code for response in answers} == {200}
    lines = lines_of(state, server, len(ROWS))
    assert [line.context_text for line in lines] == [row.context for row in ROWS.values()]
    assert not any(line.output_text == row.answer for line, row in zip(lines, ROWS.values(), strict=True))
    supported = [(line.output_text or "").lower() in (line.context_text or "").lower() for line in lines]
    assert sum(supported) < 0.3 * len(supported)


def test_the_unfitted_release_is_healthy_and_fails_every_question(servers: dict[Variant, Server], state: Path):
    server = servers[Variant.UNFITTED]

    answers = [server.ask(question) for question in list(ROWS)[:3]]

    assert [response.status_code for response in answers] == [500] * 3
    assert {response.json()["error"]["type"] for response in answers} == {"NotFittedError"}
    lines = lines_of(state, server, 3)
    assert [(line.status, line.error_type) for line in lines] == [(500, "NotFittedError")] * 3
    assert {line.input_text for line in lines} == {None}  # started with --no-content
    assert server.errors.read_text() == ""


def test_sigterm_ends_a_server_and_loses_no_line(servers: dict[Variant, Server], state: Path):
    server = servers[Variant.SHUFFLED]
    before = len(lines_of(state, server))
    server.ask("one more")

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(timeout=10) in {0, -signal.SIGTERM}
    assert len(lines_of(state, server)) == before + 1
    assert server.errors.read_text() == ""


def test_what_cannot_be_served_ends_at_once_with_one_line(
    registry: Registry, releases: dict[Variant, Release], start: Callable[..., Server]
):
    spec = releases[Variant.WORDS].spec.model_dump(mode="json")
    spec |= {"application": "keyed", "endpoint": "http://127.0.0.1:1/v1", "endpoint_key_env": "NO_SUCH_KEY"}
    keyed, _ = registry.register(ReleaseSpec.model_validate(spec))
    missing = releases[Variant.WORDS].model_copy(update={"registry_version": 99})

    servers = [start(keyed), start(missing)]

    for server, words in zip(servers, ("NO_SUCH_KEY is not set", "faq has no release 99"), strict=True):
        assert server.process.wait(timeout=START_S) == REFUSED
        text = server.errors.read_text()
        assert text.startswith("error: ")
        assert words in text
        assert text.count("\n") == 1
