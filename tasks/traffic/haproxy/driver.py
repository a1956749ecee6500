"""HAProxy as data path: sticky buckets, switched by a transaction on its map, no request lost.

The map file is written before the running process is told, so a restart at any moment comes up with the plan that
was about to be put into effect; the ledger's plan can then be applied again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import ServingError, StackError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.asking import ask
from tasks.traffic.driver import Answer, Question, Routed
from tasks.traffic.haproxy.config import map_name, map_rows, standbys_of
from tasks.traffic.haproxy.folder import locked, read_proven, read_token, refuse_older, write_config, write_proven
from tasks.traffic.haproxy.socket import (
    MASTER,
    ask_workers,
    await_up,
    find_haproxy,
    reload_workers,
    say,
    swap_map,
)
from tasks.traffic.haproxy.statistics import Backend, Slot, read_backends, read_routed
from tasks.traffic.plan import Plan
from tasks.traffic.replicas import await_answers, begun_anew, is_lost, limited, wish_for
from tasks.traffic.servers import (
    Server,
    delete_server,
    forget_refusal,
    read_servers,
    write_server,
    write_whole,
)

_SETTLE_S = 10.0
_DRAIN_S = 60.0
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
        """Have the fewest replicas run that the release may have, and a backend point at them; no traffic yet."""
        with locked(self.folder):
            if self._find(release.digest) is None:
                known = read_servers(self.servers)
                write_server(self.servers, wish_for(release, release.spec.autoscaling, known))
        forget_refusal(self.servers, release.digest)
        await_answers(self.servers, release.digest)
        with locked(self.folder):
            server = self._known(release.digest)
            awaited = max(server.serving, min(server.replicas, server.autoscaling.min_replicas))
            if awaited != server.serving:
                server = replace(server, serving=awaited)
                write_server(self.servers, server)
            backend = self.backends().get(server.short)
            if backend is None or backend.ports != server.ports:
                self._reload()
            else:
                self._switch(server, backend)
                self._follow(server.application)
        await_up(self._say, server.short)

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Put the limits on record with the wish for the release's servers; a ``Scaler`` follows them.

        Raises:
            UnsupportedError: More replicas are wanted than this machine is allowed to run.
        """
        with locked(self.folder):
            known, others = self._find(release.digest), read_servers(self.servers)
            wish = wish_for(release, spec, others)
            if known is None:
                write_server(self.servers, wish)
            elif known.autoscaling != spec:
                write_server(self.servers, limited(known, wish, others))

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Keep who may answer in place of a release whose own servers are gone, and have it in effect."""
        with locked(self.folder):
            write_proven(self.folder, application, proven)
            self._follow(application)

    def _follow(self, application: str) -> None:
        """Have those stand by who ought to: by switches where that will do, for a reload waits for calls to end."""
        self._write_config()
        servers, proven, known = read_servers(self.servers), read_proven(self.folder, application), self.backends()
        for server in servers:
            backend = known.get(server.short)
            if server.application != application or backend is None:
                continue  # one that is not deployed yet is reloaded for
            wanted = [port for one in standbys_of(server, servers, proven) for port in one.ports]
            if [slot.port for slot in backend.standbys if slot.port in wanted] != wanted:
                return self._reload()
            for slot in backend.standbys:
                self._set(server, slot, is_on=slot.port in wanted)
        return None

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask one of the release's own servers, past the traffic plan; the next one where nobody listens."""
        for url in self._known(release.digest).urls:
            answer = ask(f"{url}/v1/chat/completions", question, timeout_s, {"X-Purpose": "smoke"})
            if answer.error != "ConnectError":
                break
        return answer

    def apply(self, plan: Plan) -> None:
        """Write the map file, then swap the running map in one transaction, then read it back."""
        name, rows = map_name(plan.application), map_rows(plan)
        with locked(self.folder):
            refuse_older(self.folder, plan)  # first: the servers of a plan that was overtaken may be gone by right
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
        headers = {"X-User-Id": unit, "X-Purpose": "smoke", "X-Probe-Token": read_token(self.folder)}
        return ask(f"{self.url}/{application}/v1/chat/completions", question, timeout_s, headers)

    def routed(self, digest: str) -> Routed:
        """Read HAProxy's own counters of the backend; replicas that are gone still count."""
        return read_routed(self._say("show stat"), digest[:12])

    def running(self, application: str) -> tuple[str, ...]:
        """Read the wishes for release servers."""
        return tuple(server.digest for server in read_servers(self.servers) if server.application == application)

    def retire(self, application: str, digest: str) -> None:
        """Take the backend away and let the supervisor stop the server; one that is given users meanwhile is kept."""
        if digest in (self.observe(application) or ()):
            raise ServingError(f"release {digest[:12]} still has traffic; move it away before retiring it")
        with locked(self.folder):
            proven = read_proven(self.folder, application)
            if digest in proven:
                write_proven(self.folder, application, [other for other in proven if other != digest])
                self._follow(application)
        self._drain(digest)
        with locked(self.folder):
            if digest in (self.observe(application) or ()):  # the calls took their time, and nobody was kept out
                raise ServingError(f"release {digest[:12]} was given traffic while its last calls ended; it is kept")
            if self._find(digest) is not None:
                delete_server(self.servers, digest)
                self._reload()

    def _drain(self, digest: str) -> None:
        """Let those who were given to the release before it lost its traffic have their answers first."""
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            try:
                known = self.backends().get(digest[:12])
            except ServingError:
                return  # nobody is answered anyway
            if known is None or known.load.ongoing == 0:
                return
            time.sleep(0.1)

    # --- what a scaler asks for ---

    def backends(self) -> dict[str, Backend]:
        """Return what HAProxy knows of every release, by the first twelve digits of its digest.

        Raises:
            ServingError: It does not answer.
        """
        old = [self._say(f"@!{number} show stat", MASTER) for number in ask_workers(self._say).old]
        return read_backends(self._say("show stat"), old)

    def rescale(self, before: Server, after: Server) -> bool:
        """Replace a wish and switch the replicas of its backend on and off as it says.

        Returns:
            Whether it was done: not where the wish is another one than ``before`` by now.
        """
        with locked(self.folder):
            if self._find(before.digest) != before:
                return False
            if after != before:
                write_server(self.servers, after)
            known = self.backends().get(after.short)
            if known is not None:
                self._switch(after, known)
            return True

    def _switch(self, server: Server, known: Backend) -> None:
        for number, slot in enumerate(known.slots):
            if slot.is_on != (number < server.serving):
                self._set(server, slot, is_on=not slot.is_on)

    def _set(self, server: Server, slot: Slot, *, is_on: bool) -> None:
        said = self._say(f"set server r-{server.short}/{slot.name} state {'ready' if is_on else 'maint'}").strip()
        if said:
            raise ServingError(f"HAProxy does not switch replica {slot.name} of {server.short}: {said}")

    # --- what the stack asks for ---

    def prepare(self) -> list[str]:
        """Write the configuration for what ought to be served and return the command that runs HAProxy.

        Raises:
            StackError: There is no HAProxy, or the folder's path is too long for a socket.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        socket_path = (self.folder / "admin.sock").absolute()
        if len(str(socket_path).encode()) > _SOCKET_PATH_BYTES:
            raise StackError(f"{socket_path} is too long for a socket; set DELIVERY_STATE_DIR to a shorter path")
        with locked(self.folder):
            for server in read_servers(self.servers):
                anew = begun_anew(server, read_servers(self.servers), partial(is_lost, server.digest))
                if anew != server:
                    write_server(self.servers, anew)
            self._write_config()
        return [find_haproxy(), "-W", "-S", f"unix@{MASTER}", "-f", "haproxy.cfg"]

    def _write_config(self) -> None:
        write_config(self.folder, urlsplit(self.url).netloc, read_servers(self.servers))

    def _reload(self) -> None:
        self._write_config()
        reload_workers(self._say)

    def _swap(self, name: str, rows: list[str]) -> None:
        swap_map(self._say, name, rows)

    def _say(self, command: str, name: str = "admin.sock") -> str:
        return say(self.folder / name, command)

    def _find(self, digest: str) -> Server | None:
        return next((server for server in read_servers(self.servers) if server.digest == digest), None)

    def _known(self, digest: str) -> Server:
        server = self._find(digest)
        if server is None:
            raise ServingError(f"release {digest[:12]} has no server; deploy it first")
        return server
