"""Start processes, keep them running, end them all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from deployments.stack.processes import ask_to_end, end, end_session
from deployments.stack.services import Layout, Service, release_service
from deployments.stack.sweep import sweep
from tasks.errors import DeliveryError, StackError
from tasks.traffic.servers import REFUSED, Server, read_refusal, read_servers, refuse_server, why_taken

_TICK_S = 0.2
_BACKOFF_S = (0.2, 1.0, 3.0, 10.0)
_STEADY_S = 60.0
_TAIL_LINES = 12
_CHECK_S = 5.0
_HUNG_S = 45.0
_SCALE_S = 1.0
_RELEASE = "release-"
_ADDRESS = {"haproxy": "DELIVERY_DATA_PORT", "agent": "DELIVERY_NODE_LISTEN"}


@dataclass(slots=True)
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    restarts: int = 0
    not_before: float = 0.0
    ended: bool = False
    refused: bool = False
    next_check: float = 0.0
    healthy_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """The processes of one stack.

    Args:
        layout: Where they keep their state and listen.
        servers: Folder of wishes for release servers; what is wished for runs, the rest is stopped.
        say: Prints one line of progress.
    """

    layout: Layout
    servers: Path
    say: Callable[[str], None]
    _running: dict[str, _Running] = field(default_factory=dict)
    _guard: subprocess.Popen[bytes] | None = None
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _troubles: dict[str, str] = field(default_factory=dict)

    def start(self, services: list[Service]) -> None:
        """Start services side by side and wait until every one is ready.

        Raises:
            StackError: A port is taken, or a service ends or does not become ready; the end of its log is shown.
        """
        for service in services:
            _refuse_taken_port(service)
        if self._guard is None:
            self._start_guard()
        for service in services:
            with self._lock:
                self._running[service.name] = _Running(service=service, process=self._spawn(service))
        for service in services:
            self._await_ready(service)
            self.say(f"{service.name} is ready" + (f" at {service.health_url}" if service.health_url else ""))

    def watch(self, scale: Callable[[], None] | None = None) -> None:
        """Keep everything running in the background: restart what ended, follow the wishes for release servers.

        Args:
            scale: Looks once at the load of the releases and changes the wishes; called every second.
        """
        loops: list[Callable[[], None]] = (
            [self._loop] if scale is None else [self._loop, partial(self._scale_loop, scale)]
        )
        self._threads = [threading.Thread(target=loop, name="supervisor", daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def await_releases(self, patience_s: float = 60.0) -> None:
        """Wait until the releases an earlier stack served answer again; one that does not is only reported."""
        for server in read_servers(self.servers):
            deadline = time.monotonic() + patience_s
            while not (ready := _all_healthy(server)) and time.monotonic() < deadline:
                time.sleep(0.2)
            name = f"release {server.short} of {server.application}"
            self.say(f"{name} answers again" if ready else f"{name} does not answer; see its log in {self.layout.logs}")

    def stop(self) -> None:
        """End every process of the stack, the newest first, and whatever they started."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)
        with self._lock:
            for running in self._running.values():
                if running.service.name.startswith(_RELEASE):
                    ask_to_end(running.process)  # all at once: each may have callers to answer
            for running in reversed(self._running.values()):
                end(running.process)
        sweep_count = sweep(self.layout.mark)
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.close()
            self._guard.wait(timeout=20)
        if sweep_count:
            self.say(f"ended {sweep_count} processes the servers had left")

    def _loop(self) -> None:
        while not self._stopping.wait(_TICK_S):
            with self._lock:
                # Each on its own: a spoiled wish must not leave the others unwatched.
                self._try("wishes", self._follow_wishes)
                for name, running in self._running.items():
                    self._try(name, partial(self._keep, running))

    def _scale_loop(self, scale: Callable[[], None]) -> None:
        while not self._stopping.wait(_SCALE_S):
            self._try("autoscaling", scale)

    def _try(self, name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except (DeliveryError, OSError) as error:
            if self._troubles.get(name) != str(error):  # once, not five times a second
                self.say(f"{name}: {error}")
            self._troubles[name] = str(error)
        else:
            self._troubles.pop(name, None)

    def _keep(self, running: _Running) -> None:
        self._revive(running)
        self._end_if_hung(running)

    def _follow_wishes(self) -> None:
        wished = [
            release_service(self.layout, server, number)
            for server in read_servers(self.servers)
            for number in range(1, server.replicas + 1)
        ]
        kept = {service.name: service for service in wished}
        gone = [
            name
            for name, running in self._running.items()
            if name.startswith(_RELEASE) and running.service != kept.get(name)
        ]
        for name in gone:
            ask_to_end(self._running[name].process)
        for name in gone:
            end(self._running.pop(name).process)
        for service in wished:
            if service.name not in self._running:
                self._running[service.name] = _Running(service=service, process=self._spawn(service))

    def _revive(self, running: _Running) -> None:
        if running.process.poll() is None or self._stopping.is_set():
            return
        now = time.monotonic()
        if not running.ended:
            running.ended = True
            if now - running.began > _STEADY_S:
                running.restarts = 0  # it ran well: what ended it has nothing to do with what did before
            # What it started may outlive it and keep its port.
            end_session(running.process)
            if running.process.returncode == REFUSED and running.service.name.startswith(_RELEASE):
                self._refuse(running)
                return
            wait_s = _BACKOFF_S[min(running.restarts, len(_BACKOFF_S) - 1)]
            running.not_before = now + wait_s
            self.say(f"{running.service.name} ended with code {running.process.returncode}; again in {wait_s:g} s")
        elif now >= running.not_before and not (running.refused and read_refusal(self.servers, _short(running))):
            running.process, running.began = self._spawn(running.service), now
            running.restarts += 1
            running.ended = running.refused = False

    def _refuse(self, running: _Running) -> None:
        """Put on record why a release cannot be served; it is tried again once that is forgotten."""
        last = self._log_of(running.service).splitlines()[-1:]
        reason = (last[0] if last else "see its log").removeprefix("error: ")
        refuse_server(self.servers, _short(running), reason)
        running.refused = True
        self.say(f"{running.service.name} is not started again: {reason}")

    def _end_if_hung(self, running: _Running) -> None:
        """End a server that is alive and does not answer; being ended, it is started again."""
        url, now = running.service.health_url, time.monotonic()
        if url is None or running.ended or now < running.next_check:
            return
        running.next_check = now + _CHECK_S
        if _is_healthy(url, timeout_s=1.0):
            running.healthy_at = now
        elif running.healthy_at and now - running.healthy_at > _HUNG_S:
            self.say(f"{running.service.name} has not answered for {_HUNG_S:.0f} s and is started again")
            running.healthy_at = 0.0
            end_session(running.process)

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        with self._log_path(service).open("ab") as log:
            return subprocess.Popen(
                service.command,
                cwd=service.folder,
                env=self.layout.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _start_guard(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "deployments.stack.sweep", self.layout.mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _await_ready(self, service: Service) -> None:
        deadline = time.monotonic() + service.start_s
        process = self._running[service.name].process
        while time.monotonic() < deadline and not self._stopping.is_set():
            if process.poll() is not None:
                raise StackError(f"{service.name} ended with code {process.returncode}:\n{self._tail(service)}")
            if service.health_url is None or _is_healthy(service.health_url):
                return
            time.sleep(0.1)
        raise StackError(f"{service.name} is not ready after {service.start_s:.0f} s:\n{self._tail(service)}")

    def _tail(self, service: Service) -> str:
        lines = self._log_of(service).splitlines()[-_TAIL_LINES:]
        return "\n".join([*(f"  {line}" for line in lines), f"  (the whole log: {self._log_path(service)})"])

    def _log_of(self, service: Service) -> str:
        return self._log_path(service).read_text(encoding="utf-8", errors="replace")

    def _log_path(self, service: Service) -> Path:
        return self.layout.logs / f"{service.name}.log"


def _short(running: _Running) -> str:
    return running.service.name.removeprefix(_RELEASE).partition("-")[0]


def _all_healthy(server: Server) -> bool:
    return all(_is_healthy(f"{url}/health") for url in server.urls)


def _is_healthy(url: str, timeout_s: float = 2.0) -> bool:
    try:
        # Plain HTTP on loopback: no certificates to load, which would take 20 ms each time.
        return httpx.get(url, timeout=timeout_s, trust_env=False, verify=False).is_success  # noqa: S501
    except httpx.HTTPError:
        return False


def _refuse_taken_port(service: Service) -> None:
    if service.health_url is None:
        return
    port = urlsplit(service.health_url).port or 0
    reason = why_taken(port)
    if reason:
        raise StackError(
            f"port {port} for {service.name} cannot be used ({reason}); end what uses it, or choose "
            f"another one: {_ADDRESS.get(service.name, f'DELIVERY_{service.name.upper()}_PORT')}"
        )
