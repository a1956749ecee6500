"""Release servers that die and come back when a test says so, behind the real HAProxy, and users who ask."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from sample_release import release_of

from tasks.release.model import Autoscaling, Release
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.statistics import takes_calls
from tasks.traffic.plan import BUCKETS, Plan, reassign
from tasks.traffic.servers import Server, free_port, read_servers

PATIENCE_S = 30.0
SLOW = "take your time"
# One release server as a process of its own, so that it can be killed as a process is.
SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Says(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_GET(self): self.send({"digest": sys.argv[1]})
    def do_POST(self):
        if b"take your time" in self.rfile.read(int(self.headers["Content-Length"])): time.sleep(1)
        self.send({"choices": [{"message": {"content": self.headers["X-Bucket"]}}]})
    def send(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("X-Release", sys.argv[1])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
ThreadingHTTPServer.request_queue_size = 256
ThreadingHTTPServer.allow_reuse_address = True
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Says).serve_forever()
"""
OLD, STABLE, CANDIDATE = release_of(1), release_of(2), release_of(3)
TWO = release_of(4, autoscaling=Autoscaling(max_replicas=2))


class World:
    """A driver, its HAProxy, and release servers that die and come back when a test says so."""

    def __init__(self, folder: Path) -> None:
        self.driver = HaproxyDriver(folder / "haproxy", folder / "servers", f"http://127.0.0.1:{free_port()}")
        self.haproxy: subprocess.Popen[bytes] | None = None
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.client = httpx.Client(trust_env=False, timeout=20)

    def start_haproxy(self) -> None:
        self.haproxy = subprocess.Popen(self.driver.prepare(), cwd=self.driver.folder, stderr=subprocess.DEVNULL)
        self.until(lambda: httpx.get(f"{self.driver.url}/health", trust_env=False).is_success, "HAProxy answers")

    def stop_haproxy(self) -> None:
        if self.haproxy is not None:
            self.haproxy.terminate()
            self.haproxy.wait(timeout=10)
            self.haproxy = None

    def close(self) -> None:
        self.client.close()
        self.stop_haproxy()
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(timeout=10)

    def deploy(self, *releases: Release) -> None:
        """Deploy releases: their wishes with processes behind them, then what a rollout asks of the driver."""
        for release in releases:
            self.driver.scale(release, release.spec.autoscaling)
            self.start(release)
        for release in releases:
            self.driver.ensure(release)

    def wish(self, release: Release) -> Server:
        return next(server for server in read_servers(self.driver.servers) if server.digest == release.digest)

    def start(self, release: Release) -> None:
        wish = self.wish(release)
        for port in wish.ports[: wish.replicas]:
            if port not in self.processes:
                command = [sys.executable, "-S", "-E", "-c", SERVER, wish.digest, str(port)]
                self.processes[port] = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self, release: Release, replica: int = 1) -> None:
        """Kill a replica as an out-of-memory killer does, and return when it is gone."""
        process = self.processes.pop(self.wish(release).ports[replica - 1])
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    def give(self, revision: int, **shares: Release) -> Plan:
        """Give users to releases: ``all=`` one of them, or ``most=`` and ``few=``, who get 30 %."""
        only = shares.get("all")
        wanted = {only.digest: BUCKETS} if only else {shares["most"].digest: 700, shares["few"].digest: 300}
        plan = Plan(
            application="faq",
            revision=revision,
            salt="s",
            buckets=reassign((), wanted, "s"),
            author="t",
            reason="r",
            time=datetime.now(UTC),
        )
        self.driver.apply(plan)
        return plan

    def ask(self, unit: str = "u", question: str = "?") -> tuple[int, str]:
        answer = self.driver.ask("faq", unit, question, 20)
        return answer.status, answer.release_digest

    def ask_many(self) -> Counter[tuple[int, str]]:
        return Counter(self.ask(f"user-{number}") for number in range(40))

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if holds():
                    return
            time.sleep(0.02)
        raise AssertionError(f"never: {what}")

    def knows_it_is_gone(self, release: Release) -> None:
        self.until(lambda: not self.takes_calls(release), "HAProxy finds that it is gone")

    def takes_calls(self, release: Release) -> bool:
        return takes_calls(self.driver._say("show stat"), release.short)

    def worker(self) -> str:
        return next(line for line in self.driver._say("show info").splitlines() if line.startswith("Pid: "))

    def standbys(self, release: Release) -> list[int]:
        return [slot.port for slot in self.driver.backends()[release.short].standbys]


@contextmanager
def standing(folder: Path) -> Iterator[World]:
    """Have an HAProxy with nothing behind it."""
    made = World(folder)
    try:
        made.start_haproxy()
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Seen:
    """One request: when it began, and what came back."""

    began_s: float
    status: int
    digest: str
    took_s: float


@contextmanager
def users(world: World, count: int = 5, per_s: float = 20.0) -> Iterator[list[Seen]]:
    """Have users ask all the time, each some times a second; by default they are 100 requests a second."""
    stop, seen = threading.Event(), list[Seen]()

    def ask(number: int) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            turn = 0
            while not stop.wait(1 / per_s):
                turn += 1
                began, headers = time.monotonic(), {"X-User-Id": f"user-{number}-{turn}"}
                try:
                    r = client.post(f"{world.driver.url}/faq/v1/chat/completions", json={}, headers=headers)
                    status, digest = r.status_code, r.headers.get("X-Release", "")
                except httpx.HTTPError:
                    status, digest = 0, ""
                seen.append(Seen(began, status, digest, time.monotonic() - began))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def after(seen: Sequence[Seen], moment_s: float) -> list[Seen]:
    return [one for one in seen if one.began_s >= moment_s]
