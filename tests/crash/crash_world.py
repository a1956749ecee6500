"""The world around the data path, in one process: release servers that say who they are, and users who ask them.

It plays the supervisor too: a server listens while its wish is in the folder. Commands come as JSON lines, one a
line: ``{"ask": application}``, ``{"rest": application}``, ``{"report": application}``, ``{"answers": application}``;
``{"die": digest}`` ends the server of a release and keeps it down until ``{"revive": digest}``, twelve digits each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import xxhash

from tasks.release.model import Release
from tasks.serving.backends import Capture
from tasks.serving.log import Call, Caller, InteractionLog
from tasks.traffic.plan import BUCKETS, bucket_of
from tasks.traffic.servers import Server, read_servers

SLOTS, USERS_A_SLOT = 20, 3
SLOW_S = 0.15
GIVE_UP_S = 20.0
POLL_S = 0.02
NO_FLOOD_S = 1.0
"""After a stop of this process, what would have been asked longer ago than this is left out."""


def users(application: str) -> list[str]:
    """Return users of whom every share of a ramp that divides by 5 % gets exactly its part, in any few of a row."""
    order = sorted(range(BUCKETS), key=lambda b: (xxhash.xxh32_intdigest(f"{application}:{b}".encode()), b))
    slot_of = {bucket: at * SLOTS // BUCKETS for at, bucket in enumerate(order)}
    found: dict[int, list[str]] = {slot: [] for slot in range(SLOTS)}
    number = 0
    while any(len(names) < USERS_A_SLOT for names in found.values()):
        names = found[slot_of[bucket_of(application, f"u{number}")]]
        if len(names) < USERS_A_SLOT:
            names.append(f"u{number}")
        number += 1
    return [found[slot * 7 % SLOTS][turn] for turn in range(USERS_A_SLOT) for slot in range(SLOTS)]


class Serving(asyncio.Protocol):
    """One connection to a release server."""

    def __init__(self, server: ReleaseServer) -> None:
        self.server, self.data = server, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server.open.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.server.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            first, *rest = bytes(self.data[:end]).decode("latin-1").split("\r\n")
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in rest)}
            total = end + 4 + int(headers.get("content-length", 0))
            if len(self.data) < total:
                return
            del self.data[:total]
            self._serve(first, headers)

    def _serve(self, first: str, headers: dict[str, str]) -> None:
        server, caller = self.server, Caller.of(headers)
        if first.startswith("GET /release"):
            self._send({"digest": server.release.digest})
        elif first.startswith("GET"):
            self._send({"status": "ok"})
        else:
            slow = server.behaviour == "slow" and not caller.is_smoke
            arrived = datetime.now(UTC)
            if slow:
                asyncio.get_running_loop().call_later(SLOW_S, self._answer, caller, arrived)
            else:
                self._answer(caller, arrived)

    def _answer(self, caller: Caller, arrived: datetime) -> None:
        text = self.server.say(caller)
        took = (datetime.now(UTC) - arrived).total_seconds() * 1000
        call = Call(
            caller=caller,
            time=arrived,
            question="?",
            capture=Capture(pieces=[text]),
            latency_ms=took,
            status=200,
        )
        self.server.log.write(call)
        self._send({"choices": [{"message": {"content": text}}]})

    def _send(self, document: object) -> None:
        body, release = json.dumps(document).encode(), self.server.release
        head = f"X-Release: {release.digest}\r\nX-Prompt-Sha256: {release.prompt.sha256}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(b"HTTP/1.1 200 OK\r\n" + head.encode() + body)


@dataclass
class ReleaseServer:
    """One release that answers, as long as its wish exists."""

    release: Release
    behaviour: str
    log: InteractionLog
    listener: asyncio.Server | None = None
    open: set[asyncio.BaseTransport] = field(default_factory=set)
    was_tested: bool = False

    def say(self, caller: Caller) -> str:
        """Return an answer: none where it is mute, or shy and smoke-tested for the first time."""
        is_shy = self.behaviour == "shy" and caller.is_smoke and not self.was_tested
        self.was_tested |= caller.is_smoke
        return "" if is_shy or self.behaviour == "mute" else "Paris"

    def close(self) -> None:
        if self.listener is not None:
            self.listener.close()
        for transport in tuple(self.open):
            transport.close()


async def supervise(folder: Path, dead: set[str]) -> None:
    """Run the servers that are wished for and not dead."""
    running: dict[Server, ReleaseServer] = {}
    loop = asyncio.get_running_loop()
    while True:
        wanted = {server for server in read_servers(folder / "servers") if server.short not in dead}
        for gone in running.keys() - wanted:
            running.pop(gone).close()
        for new in wanted - running.keys():
            known = json.loads((folder / "releases" / f"{new.short}.json").read_text())
            release = Release.model_validate(known["release"])
            log = InteractionLog(folder / "interactions", release, datetime.now(UTC))
            server = ReleaseServer(release, known["behaviour"], log)
            with contextlib.suppress(OSError):  # the port is somebody's for a moment: next round
                made = await loop.create_server(lambda server=server: Serving(server), "127.0.0.1", new.port)
                server.listener, running[new] = made, server
        await asyncio.sleep(POLL_S)


class StaleError(ConnectionError):
    """A connection that was kept alive was closed while the next request was on its way."""


@dataclass(frozen=True)
class Answered:
    """What a user is told: by which release, and under which name the call is on the log."""

    status: int
    release: str
    name: str


class Asking(asyncio.Protocol):
    """One connection of the users to the data path, kept alive."""

    def __init__(self, users_side: Users) -> None:
        self.users_side, self.data = users_side, bytearray()
        self.waiting: asyncio.Future[Answered] | None = None
        self.uses = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *rest = bytes(self.data[:end]).decode("latin-1").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in rest)}
        total = end + 4 + int(headers.get("content-length", 0))
        if len(self.data) < total:
            return
        del self.data[:total]
        waiting, self.waiting = self.waiting, None
        if headers.get("connection", "").lower() == "close":
            self.transport.close()
        else:
            self.users_side.idle.append(self)
        if waiting is not None and not waiting.done():
            name = headers.get("x-request-id", "")
            waiting.set_result(Answered(int(first.split()[1]), headers.get("x-release", ""), name))

    def connection_lost(self, error: Exception | None) -> None:
        with contextlib.suppress(ValueError):
            self.users_side.idle.remove(self)
        if self.waiting is not None and not self.waiting.done():
            seen = f"{len(self.data)} bytes seen, request {self.uses} of its connection"
            kind = StaleError if self.uses > 1 and not self.data else ConnectionError
            self.waiting.set_exception(kind(f"closed without an answer ({seen}): {error!r}"))


@dataclass
class Asked:
    """What the users of one application saw."""

    names: list[str]
    turn: int = 0
    due: int = 0
    ok: int = 0
    stale: int = 0
    under_way: int = 0
    failures: list[str] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    names_answered: list[str] = field(default_factory=list)
    releases: Counter[str] = field(default_factory=Counter)

    def fail(self, why: str) -> None:
        self.failures.append(f"{datetime.now(UTC):%H:%M:%S.%f} {why}")
        self.failed_at.append(time.monotonic())

    async def at_rest(self) -> None:
        """Wait until every question has its answer."""
        while self.under_way:  # noqa: ASYNC110 - simpler than an event
            await asyncio.sleep(0.01)


@dataclass
class Users:
    """All users: a steady rate of requests, shared out over the applications that are asked."""

    port: int
    rate: float
    asked: dict[str, Asked] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    idle: deque[Asking] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)

    async def run(self) -> None:
        due, at = time.monotonic(), 0
        while True:
            now = time.monotonic()
            while due <= now:
                due += 1 / self.rate
                if self.active:
                    at = (at + 1) % len(self.active)
                    asked = self.asked[self.active[at]]
                    asked.due += 1
                    if due < now - NO_FLOOD_S:
                        continue
                    task = asyncio.create_task(self._ask(self.active[at], asked))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(0.004)

    async def _ask(self, application: str, asked: Asked) -> None:
        user = asked.names[asked.turn % len(asked.names)]
        asked.turn += 1
        asked.under_way += 1
        try:
            try:
                answer = await asyncio.wait_for(self._request(application, user), GIVE_UP_S)
            except StaleError:
                asked.stale += 1
                answer = await asyncio.wait_for(self._request(application, user, fresh=True), GIVE_UP_S)
            asked.releases[answer.release] += 1
            if answer.status == 200:
                asked.ok += 1
                asked.names_answered.append(answer.name)
            else:
                asked.fail(f"{user}: status {answer.status}")
        except (OSError, TimeoutError) as error:
            asked.fail(f"{user}: {error!r}")
        finally:
            asked.under_way -= 1

    async def _request(self, application: str, user: str, *, fresh: bool = False) -> Answered:
        loop = asyncio.get_running_loop()
        while self.idle and not fresh:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                break
        else:
            _, connection = await loop.create_connection(lambda: Asking(self), "127.0.0.1", self.port)
        body = b'{"model":"m","messages":[{"role":"user","content":"?"}]}'
        head = f"POST /{application}/v1/chat/completions HTTP/1.1\r\nHost: data\r\nX-User-Id: {user}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.waiting = loop.create_future()
        connection.uses += 1
        connection.transport.write(head.encode() + body)
        return await connection.waiting

    async def command(self, words: dict[str, str]) -> object:
        if name := words.get("ask"):
            self.asked.setdefault(name, Asked(users(name)))
            self.active.append(name)
        elif name := words.get("rest"):
            self.active.remove(name)
            await self.asked[name].at_rest()
            while self.idle and not self.active:  # a reload waits for those who keep a connection and ask nothing
                self.idle.pop().transport.close()
        elif name := words.get("report"):
            asked = self.asked[name]
            counts = {"ok": asked.ok, "stale": asked.stale, "due": asked.due}
            return {**counts, "failures": asked.failures, "releases": asked.releases}
        elif name := words.get("answers"):
            return {"names": self.asked[name].names_answered, "failed_at": self.asked[name].failed_at}
        elif name := words.get("die"):
            self.dead.add(name)
        elif name := words.get("revive"):
            self.dead.discard(name)
        return {}


async def main(folder: Path, port: int, rate: float) -> None:
    users_side = Users(port, rate)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    background = [asyncio.create_task(supervise(folder, users_side.dead)), asyncio.create_task(users_side.run())]
    print("{}", flush=True)  # noqa: T201 - the answers of this process
    while line := await reader.readline():
        for task in background:
            if task.done():
                task.result()
        print(json.dumps(await users_side.command(json.loads(line))), flush=True)  # noqa: T201
    os._exit(0)  # connections are nobody's any more


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
