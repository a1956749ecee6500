"""A node: the real HAProxy, agent and follower, in front of release servers that only say who they are."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import httpx
import uvicorn
from pydantic import SecretStr
from sample_release import release_of

from tasks.release.lifecycle import Event
from tasks.release.model import Release
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.nodes.agent import LocalDriver, create_agent
from tasks.traffic.nodes.following import Follower
from tasks.traffic.plan import BUCKETS, Plan
from tasks.traffic.servers import Server, free_port, read_servers

TOKEN = SecretStr("a-token-that-nobody-guesses")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 30.0
A, B = release_of(1), release_of(2)


def plan_of(revision: int, *releases: Release) -> Plan:
    """Return a plan that gives every release as many buckets."""
    buckets = tuple(releases[bucket * len(releases) // BUCKETS].digest for bucket in range(BUCKETS))
    return Plan(
        application="faq", revision=revision, salt="faq", buckets=buckets, author="test", reason="a test", time=NOW
    )


def on_record(ledger: Ledger, plan: Plan, *known: Release) -> None:
    """Put releases and a plan on record."""
    for one in known:
        ledger.remember(one)
    lease = ledger.acquire(plan.application, "test", datetime.now(UTC))
    ledger.write_plan(plan, lease)
    ledger.release_lease(lease)


def condemned(ledger: Ledger, bad: Release) -> None:
    """Put a release into quarantine."""
    ledger.remember(bad)
    lease = ledger.acquire(bad.application, "test", datetime.now(UTC))
    rollout = ledger.begin_rollout(lease, bad.digest, "before", datetime.now(UTC))
    ledger.fail(lease, rollout.rollout_id, "it got worse", datetime.now(UTC), quarantined=True)
    ledger.release_lease(lease)


def promoted(ledger: Ledger, good: Release) -> None:
    """Put a promotion on record."""
    ledger.remember(good)
    lease = ledger.acquire(good.application, "test", datetime.now(UTC))
    rollout = ledger.begin_rollout(lease, good.digest, "before", datetime.now(UTC))
    for event in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT, Event.PROMOTE):
        ledger.advance(lease, rollout.rollout_id, event, "before", datetime.now(UTC))
    ledger.release_lease(lease)


def until(happened: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < limit, f"it did not happen: {what}"
        time.sleep(0.02)


class _Says(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    digest = ""

    def do_GET(self) -> None:
        self._send(f'{{"digest": "{self.digest}"}}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send('{"choices": [{"message": {"content": "yes"}}]}')

    def _send(self, text: str) -> None:
        self.send_response(200)
        self.send_header("X-Release", self.digest)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: HAProxy ends its checks by a reset."""


class Node:
    """One machine, in a folder of its own; each of its parts can be ended and started again."""

    def __init__(self, folder: Path, ledger_url: str) -> None:
        self.driver = HaproxyDriver(folder / "haproxy", folder / "servers", f"http://127.0.0.1:{free_port()}")
        self.said: list[str] = []
        self.follower = Follower(self.driver, Ledger(ledger_url), self.said.append)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.started: set[str] = set()
        self._haproxy: subprocess.Popen[bytes] | None = None
        self._agent: tuple[uvicorn.Server, threading.Thread] | None = None
        self._servers: dict[Server, _Quiet] = {}
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise)

    @contextmanager
    def serving(self) -> Iterator[Self]:
        self._supervisor.start()
        try:
            self.start_haproxy()
            self.start_agent()
            yield self
        finally:
            self.stop_agent()
            self.kill_haproxy()
            self._stop.set()
            self._supervisor.join()
            self.follower.ledger.close()

    def start_haproxy(self) -> None:
        """Start HAProxy as a node does: the plans on record first."""
        self.follower.prepare()
        self._haproxy = subprocess.Popen(
            self.driver.prepare(), cwd=self.driver.folder, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(self.is_up, "HAProxy listens")

    def is_up(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.driver.url}/health", trust_env=False).is_success
        return False

    def kill_haproxy(self) -> None:
        if self._haproxy is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._haproxy.pid, signal.SIGKILL)
            self._haproxy.wait()
        self._haproxy = None

    def start_agent(self) -> None:
        app = create_agent(LocalDriver(self.follower), TOKEN.get_secret_value(), self.driver.url)
        server = uvicorn.Server(
            uvicorn.Config(app, port=self.port, log_level="debug", access_log=False, lifespan="off")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        self._agent = server, thread
        until(lambda: server.started, "the agent listens")

    def stop_agent(self) -> None:
        if self._agent is not None:
            server, thread = self._agent
            server.should_exit = True
            thread.join()
        self._agent = None

    def asked(self, unit: str = "u") -> str:
        """Ask as a user, and return the digest of the release that answers, or the status."""
        body = {"messages": [{"role": "user", "content": "Who?"}]}
        url = f"{self.driver.url}/faq/v1/chat/completions"
        answer = httpx.post(url, json=body, headers={"X-User-Id": unit}, trust_env=False)
        return str(answer.headers.get("X-Release", answer.status_code))

    def _supervise(self) -> None:
        while not self._stop.wait(0.02):
            wished = set(read_servers(self.driver.servers))
            for gone in set(self._servers) - wished:
                self._end(gone)
            for server in wished - set(self._servers):
                handler = type("Says", (_Says,), {"digest": server.digest})
                self._servers[server] = _Quiet(("127.0.0.1", server.port), handler)
                self.started.add(server.digest)
                threading.Thread(target=self._servers[server].serve_forever, args=(0.02,), daemon=True).start()
        for server in tuple(self._servers):
            self._end(server)

    def _end(self, server: Server) -> None:
        ended = self._servers.pop(server)
        ended.shutdown()
        ended.server_close()
