"""Replicas of a release behind the real HAProxy: they come, go and fail, and no caller notices."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import httpx
import pytest
from sample_release import release_of

from tasks.errors import ServingError
from tasks.release.model import Autoscaling, Release
from tasks.traffic import replicas
from tasks.traffic.autoscaling import Load
from tasks.traffic.driver import Answer
from tasks.traffic.haproxy import config as haproxy_config
from tasks.traffic.haproxy import socket as haproxy_socket
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.plan import BUCKETS, Plan
from tasks.traffic.replicas import await_answers
from tasks.traffic.scaler import Scaler
from tasks.traffic.servers import Server, free_port, read_servers, refuse_server, write_server

ANSWER_S = 0.04
PATIENCE_S = 30.0
QUICK = Autoscaling(max_replicas=3, target_ongoing_requests=2, upscale_delay_s=2, downscale_delay_s=3)
A, B = release_of(1, autoscaling=QUICK), release_of(2, autoscaling=QUICK)


class _Answers(BaseHTTPRequestHandler):
    """Says which release it is; takes its time for a question."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Replica

    def do_GET(self) -> None:
        self._send({"digest": self.server.digest})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.answering():
            time.sleep(ANSWER_S)
            self._send({"choices": [{"message": {"content": str(self.server.server_address[1])}}]})

    def _send(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("X-Release", self.server.digest)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Replica(ThreadingHTTPServer):
    """One process of a release, in a thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, digest: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answers)
        self.digest, self.calls, self._counting = digest, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @contextmanager
    def answering(self) -> Iterator[None]:
        with self._counting:
            self.calls += 1
        try:
            yield
        finally:
            with self._counting:
                self.calls -= 1

    def close(self) -> int:
        """Stop listening and return how many calls had no answer yet."""
        self.shutdown()
        self.server_close()
        return self.calls

    def handle_error(self, *_: object) -> None:
        pass


class World:
    """A driver, its HAProxy, and somebody who runs what is wished for."""

    def __init__(self, folder: Path) -> None:
        self.driver = HaproxyDriver(folder / "haproxy", folder / "servers", f"http://127.0.0.1:{free_port()}")
        self.process: subprocess.Popen[bytes] | None = None
        self.replicas: dict[int, Replica] = {}
        self.interrupted = 0
        self.lines = list[str]()
        self.now_s = 0.0
        self.scaler = Scaler(self.driver, self.lines.append, lambda: self.now_s)
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise)
        self._supervisor.start()

    def _supervise(self) -> None:
        while not self._stop.wait(0.02):
            wished = {
                port: server.digest
                for server in read_servers(self.driver.servers)
                for port in server.ports[: server.replicas]
            }
            for port in self.replicas.keys() - wished.keys():
                self.interrupted += self.replicas.pop(port).close()
            for port, digest in wished.items():
                if port not in self.replicas:
                    with suppress(OSError):
                        self.replicas[port] = Replica(digest, port)

    def start_haproxy(self) -> None:
        self.process = subprocess.Popen(self.driver.prepare(), cwd=self.driver.folder, stderr=subprocess.DEVNULL)
        self.until(lambda: httpx.get(f"{self.driver.url}/health", trust_env=False).is_success, "HAProxy answers")

    def stop_haproxy(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=10)
            self.process = None

    def close(self) -> None:
        self._stop.set()
        self._supervisor.join()
        self.stop_haproxy()
        for replica in self.replicas.values():
            replica.close()

    def serve(self, release: Release) -> None:
        """Deploy a release and give it every user."""
        self.driver.scale(release, release.spec.autoscaling)
        self.driver.ensure(release)
        plan = Plan(
            application="faq",
            revision=1,
            salt="s",
            buckets=(release.digest,) * BUCKETS,
            author="t",
            reason="r",
            time=datetime.now(UTC),
        )
        self.driver.apply(plan)

    def wish(self, release: Release = A) -> Server:
        return next(server for server in read_servers(self.driver.servers) if server.digest == release.digest)

    def look(self) -> None:
        self.now_s += 1
        self.scaler.look()

    def until(self, happened: Callable[[], object], what: str) -> None:
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit:
            with suppress(httpx.HTTPError, ServingError):
                if happened():
                    return
            time.sleep(0.02)
        raise AssertionError(f"it did not happen: {what}")

    def scaled_to(self, count: int) -> None:
        def is_scaled() -> bool:
            self.look()
            wish, backend = self.wish(), self.driver.backends()[A.short]
            return (wish.replicas, wish.serving, sum(slot.is_on for slot in backend.slots)) == (count,) * 3

        self.until(is_scaled, f"{count} replicas")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.start_haproxy()
        yield made
    finally:
        made.close()


class Users:
    """So many people who ask without a pause."""

    def __init__(self, world: World, count: int) -> None:
        self.answers = list[tuple[int, str]]()
        self._stop = threading.Event()
        self._url = f"{world.driver.url}/faq/v1/chat/completions"
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not self._stop.is_set():
                answer = client.post(self._url, json={})
                port = answer.json()["choices"][0]["message"]["content"] if answer.is_success else ""
                self.answers.append((answer.status_code, port))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


# --- under load ---


@pytest.mark.stack
def test_one_to_three_to_one_under_load_loses_no_request(world: World) -> None:
    world.serve(A)
    before = world.driver.routed(A.digest)
    with Users(world, 1) as patient:
        with Users(world, 5) as rush:
            world.scaled_to(3)
            ports = {str(port) for port in world.wish().ports}
            seen = len(rush.answers)
            world.until(lambda: {port for _, port in rush.answers[seen:]} == ports, "all three answer")
        world.scaled_to(1)
        world.until(lambda: len(world.replicas) == 1, "two have ended")
        seen = len(patient.answers)
        world.until(lambda: len(patient.answers) > seen + 3, "the first goes on alone")
        assert {port for _, port in patient.answers[seen + 1 :]} == {str(world.wish().port)}
    assert {status for status, _ in patient.answers + rush.answers} == {200}
    assert world.interrupted == 0
    routed = world.driver.routed(A.digest).since(before)
    assert routed.requests == len(patient.answers) + len(rush.answers)  # those of replicas that are gone still count
    assert (routed.failed, routed.unanswered, routed.waiting, routed.is_up) == (0, 0, 0, True)
    assert world.lines[0].startswith(f"release {A.short} of faq: 1 -> ")
    assert world.lines[-1].startswith(f"release {A.short} of faq: ")
    assert re.search(r" -> 1 replicas \(\d calls and 0 in the queue, 2 a replica wanted\)$", world.lines[-1])


@pytest.mark.stack
def test_a_reload_while_replicas_come_and_go_loses_no_request_either(world: World) -> None:
    world.serve(A)
    with Users(world, 1) as patient:
        with Users(world, 5) as rush:
            world.scaled_to(3)
            world.driver.ensure(B)  # reloads: a backend more
            assert [slot.is_on for slot in world.driver.backends()[A.short].slots] == [True, True, True]
        while world.wish().serving > 1:
            world.look()
        assert world.wish().replicas > 1
        world.driver.retire("faq", B.digest)  # reloads
        assert [slot.is_on for slot in world.driver.backends()[A.short].slots] == [True, False, False]
        world.scaled_to(1)
    assert {status for status, _ in patient.answers + rush.answers} == {200}
    assert world.interrupted == 0


@pytest.mark.stack
def test_a_replica_that_falls_costs_the_next_callers_no_answer(world: World) -> None:
    world.serve(release := release_of(3, autoscaling=QUICK.model_copy(update={"min_replicas": 2})))
    fallen = world.replicas[world.wish(release).ports[1]]
    fallen.shutdown()
    fallen.socket.close()  # the supervisor does not notice: nobody listens there any more
    with httpx.Client(trust_env=False) as client:
        answers = [client.post(f"{world.driver.url}/faq/v1/x", json={}) for _ in range(6)]
    assert Counter(answer.status_code for answer in answers) == {200: 6}
    assert world.driver.routed(release.digest).is_up
    assert world.driver.probe(release, "?", 5).status == 200


@pytest.mark.stack
def test_what_one_replica_cannot_take_at_once_waits_in_the_queue(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_config, "MAX_CALLS", 1)
    world.serve(A)
    answers, loads, waiting = list[Answer](), list[Load](), list[int]()
    threads = [threading.Thread(target=lambda: answers.append(world.driver.ask("faq", "u", "?", 20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(answers) < len(threads):
        loads.append(world.driver.backends()[A.short].load)
        waiting.append(world.driver.routed(A.digest).waiting)
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {200}
    assert max(load.ongoing for load in loads) <= 4
    assert 2 <= max(waiting) <= 4
    assert max(load.sessions for load in loads) == 1
    assert max(load.queued for load in loads) >= 2
    assert world.driver.routed(A.digest).requests == 4


# --- the wish ---


@pytest.mark.stack
def test_limits_and_deployment_come_in_either_order_and_twice(world: World) -> None:
    world.driver.scale(A, QUICK)
    world.driver.ensure(A)
    wish = world.wish()
    assert (len(wish.ports), wish.replicas, wish.serving, wish.autoscaling) == (3, 1, 1, QUICK)
    world.driver.ensure(A)
    world.driver.scale(A, QUICK)
    assert world.wish() == wish
    world.driver.scale(A, QUICK.model_copy(update={"min_replicas": 2}))
    world.driver.ensure(A)
    assert world.wish().ports == wish.ports
    assert [slot.is_on for slot in world.driver.backends()[A.short].slots] == [True, True, False]
    world.driver.scale(A, QUICK.model_copy(update={"max_replicas": 4, "min_replicas": 2}))
    assert (world.wish().ports[:3], len(world.wish().ports), world.wish().replicas) == (wish.ports, 4, 2)
    world.driver.ensure(A)
    assert [slot.is_on for slot in world.driver.backends()[A.short].slots] == [True, True, False, False]
    world.driver.scale(A, Autoscaling())  # fewer: nobody's port is taken away, the scaler ends what is too much
    assert (world.wish().ports[:3], world.wish().replicas) == (wish.ports, 2)
    world.scaled_to(1)
    world.driver.ensure(B)  # without a word about limits: those of the release
    assert world.wish(B).autoscaling == QUICK
    assert not set(world.wish(B).ports) & set(world.wish(A).ports)


@pytest.mark.stack
def test_a_release_is_deployed_once_every_replica_answers_as_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_START_S", 0.5)
    two = QUICK.model_copy(update={"min_replicas": 2})
    with Replica(B.digest) as stranger:
        ports = (free_port(), stranger.server_address[1], free_port())
        wish = Server(
            application="faq",
            registry_version=1,
            digest=A.digest,
            port=ports[0],
            more_ports=ports[1:],
            replicas=2,
            serving=2,
            autoscaling=two,
        )
        write_server(world.driver.servers, wish)
        said = f"^replica 2 of release {A.short} does not answer on http://127.0.0.1:{ports[1]} after 0 s; "
        with pytest.raises(ServingError, match=rf"{said}see the log release-{A.short}-2$"):
            world.driver.ensure(A)
        refuse_server(world.driver.servers, A.digest, "environment variable KEY is not set")
        with pytest.raises(ServingError, match=f"^release {A.short} cannot be served: environment variable KEY is not"):
            await_answers(world.driver.servers, A.digest)
        with pytest.raises(ServingError, match=said):
            world.driver.ensure(A)  # it is tried again: what was missing may be there by now
        stranger.shutdown()


# --- starting again ---


@pytest.mark.stack
def test_a_port_that_somebody_else_took_meanwhile_is_replaced(world: World) -> None:
    world.serve(A)
    with Users(world, 6):
        world.scaled_to(3)
    world.stop_haproxy()
    taken, kept = world.wish().ports[1], world.wish().ports
    world._stop.set()
    world._supervisor.join()
    for port in (kept[1], kept[2]):
        world.replicas.pop(port).close()
    stranger = Replica("somebody else", taken)
    try:
        world.start_haproxy()
    finally:
        stranger.close()
    after = world.wish()
    assert (after.ports[0], after.ports[2]) == (kept[0], kept[2])  # the first is the release's own
    assert after.ports[1] not in kept
    assert (after.replicas, after.serving) == (1, 1)
    written = (world.driver.folder / "haproxy.cfg").read_text(encoding="utf-8")
    assert f"server s2 127.0.0.1:{after.ports[1]} check disabled\n" in written
    assert f":{taken} " not in written
    world.until(lambda: world.driver.ask("faq", "u", "?", 5).status == 200, "it answers again")


# --- the scaler ---


@pytest.mark.stack
def test_while_the_data_path_is_away_everything_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_socket, "_MASTER_S", 0.1)
    world.serve(A)
    with Users(world, 6):
        world.scaled_to(3)
    wish = world.wish()
    world.stop_haproxy()
    with pytest.raises(ServingError, match=r"HAProxy does not answer on (master|admin)\.sock"):
        world.look()
    assert world.wish() == wish
    assert len(world.replicas) == 3


@pytest.mark.stack
def test_a_wish_that_changed_meanwhile_is_not_written_over(world: World) -> None:
    world.serve(A)
    before = world.wish()
    world.driver.scale(A, QUICK.model_copy(update={"upscale_delay_s": 7}))
    assert not world.driver.rescale(before, replace(before, replicas=2))
    assert world.wish().replicas == 1
    world.driver.rescale(world.wish(), world.wish())
    world.driver._say(f"set server r-{A.short}/s3 state ready")  # somebody switched it on by hand
    world.look()
    assert [slot.is_on for slot in world.driver.backends()[A.short].slots] == [True, False, False]
