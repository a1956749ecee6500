"""HAProxy as data path: the real program, in front of servers that say who they are."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from sample_release import release_of

from tasks.errors import ConflictError, ServingError, StackError
from tasks.traffic.driver import Answer, Routed
from tasks.traffic.haproxy import socket as haproxy_socket
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.folder import locked
from tasks.traffic.plan import BUCKETS, Plan, bucket_of, reassign
from tasks.traffic.servers import Server, free_port, write_server

pytestmark = pytest.mark.stack
A, B = release_of(1), release_of(2)
SLOW = "take your time"


class _Says(BaseHTTPRequestHandler):
    """Answers with the release it serves and repeats the headers it got."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    digest = ""

    def do_GET(self) -> None:
        self._send({"digest": self.digest})

    def do_POST(self) -> None:
        if SLOW.encode() in self.rfile.read(int(self.headers["Content-Length"])):
            time.sleep(1)
        got = json.dumps({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        self._send({"choices": [{"message": {"content": got}}]})

    def _send(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("X-Release", self.digest)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, int]]:
    servers = {}
    for digest in (A.digest, B.digest):
        handler = type("Says", (_Says,), {"digest": digest})
        servers[digest] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=servers[digest].serve_forever, daemon=True).start()
    yield {digest: server.server_address[1] for digest, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


class DataPath:
    """A driver and the HAProxy it drives."""

    def __init__(self, folder: Path) -> None:
        self.driver = HaproxyDriver(folder / "haproxy", folder / "servers", f"http://127.0.0.1:{free_port()}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = self.driver.prepare()
        self.process = subprocess.Popen(command, cwd=self.driver.folder, stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                if httpx.get(f"{self.driver.url}/health", trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("HAProxy did not start")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=10)


@pytest.fixture
def path(tmp_path: Path, upstreams: dict[str, int]) -> Iterator[DataPath]:
    data_path = DataPath(tmp_path)
    for number, (digest, port) in enumerate(upstreams.items(), start=1):
        server = Server(application="faq", registry_version=number, digest=digest, port=port)
        write_server(data_path.driver.servers, server)
    data_path.start()
    yield data_path
    data_path.stop()


def plan(revision: int, buckets: tuple[str, ...]) -> Plan:
    return Plan(
        application="faq",
        revision=revision,
        salt="s",
        buckets=buckets,
        author="t",
        reason="r",
        time=datetime.now(UTC),
    )


SPLIT = reassign((A.digest,) * BUCKETS, {A.digest: 700, B.digest: 300}, "s")


def test_every_user_gets_the_release_the_plan_says(path: DataPath) -> None:
    path.driver.apply(plan(1, SPLIT))
    assert path.driver.observe("faq") == SPLIT
    with httpx.Client(trust_env=False) as client:
        for number in range(500):
            user = f"user-{number}"
            answer = client.post(f"{path.driver.url}/faq/v1/chat/completions", json={}, headers={"X-User-Id": user})
            assert answer.headers["X-Bucket"] == str(bucket_of("faq", user))
            assert answer.headers["X-Release"] == SPLIT[bucket_of("faq", user)]


def test_a_switch_is_atomic_and_loses_no_request(path: DataPath) -> None:
    path.driver.apply(plan(1, (A.digest,) * BUCKETS))
    stop, seen = threading.Event(), list[tuple[int, str, str]]()

    def ask() -> None:
        with httpx.Client(trust_env=False) as client:
            while not stop.is_set():
                r = client.post(f"{path.driver.url}/faq/v1/chat/completions", json={}, headers={"X-User-Id": "u"})
                seen.append((r.status_code, r.headers["X-Plan-Revision"], r.headers["X-Release"]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for revision in range(2, 12):
        while len(seen) < 20 * revision:
            time.sleep(0.01)
        path.driver.apply(plan(revision, ((B if revision % 2 == 0 else A).digest,) * BUCKETS))
    stop.set()
    for thread in threads:
        thread.join()
    assert Counter(status for status, _, _ in seen) == {200: len(seen)}
    assert len({revision for _, revision, _ in seen}) > 5
    for _, revision, digest in seen:
        assert digest == (B if int(revision) % 2 == 0 else A).digest


def test_the_plan_survives_a_restart(path: DataPath) -> None:
    path.driver.apply(plan(1, (A.digest,) * BUCKETS))
    path.driver.apply(plan(2, SPLIT))
    path.stop()
    path.start()
    assert path.driver.observe("faq") == SPLIT


def test_a_new_release_joins_and_leaves_without_a_lost_request(path: DataPath, upstreams: dict[str, int]) -> None:
    path.driver.apply(plan(1, (A.digest,) * BUCKETS))
    with pytest.raises(ServingError, match="still has traffic"):
        path.driver.retire("faq", A.digest)
    stop, statuses = threading.Event(), list[int]()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(path.driver.ask("faq", "u", "?", 5).status)

    thread = threading.Thread(target=ask)
    thread.start()
    path.driver.retire("faq", B.digest)
    with pytest.raises(ServingError, match="has no server; deploy it first"):
        path.driver.apply(plan(2, SPLIT))
    write_server(
        path.driver.servers,
        Server(application="faq", registry_version=2, digest=B.digest, port=upstreams[B.digest]),
    )
    path.driver.ensure(B)
    path.driver.apply(plan(2, SPLIT))
    stop.set()
    thread.join()
    assert set(statuses) == {200}
    assert path.driver.observe("faq") == SPLIT


@pytest.mark.parametrize(
    ("headers", "kind", "unit"),
    [
        ({"X-User-Id": "ada", "X-Session-Id": "s1"}, "user", "ada"),
        ({"X-Session-Id": "s1"}, "session", "s1"),
        ({}, "request", None),
    ],
)
def test_the_unit_falls_back_from_user_to_session_to_request(
    path: DataPath, headers: dict[str, str], kind: str, unit: str | None
) -> None:
    path.driver.apply(plan(1, SPLIT))
    response = httpx.post(f"{path.driver.url}/faq/v1/chat/completions", json={}, headers=headers, trust_env=False)
    got = json.loads(response.json()["choices"][0]["message"]["content"])
    assert got["path"] == "/v1/chat/completions"
    assert got["x-unit-kind"] == kind
    assert got["x-unit"] == (unit or got["x-request-id"])
    assert got["x-bucket"] == str(bucket_of("faq", got["x-unit"]))
    assert response.headers["X-Request-Id"] == got["x-request-id"]


@pytest.mark.parametrize(("name", "kind"), [("Smith, John", "user"), ("", "request"), ("ü" * 50, "user")])
def test_odd_names_of_users_are_taken_whole(path: DataPath, name: str, kind: str) -> None:
    path.driver.apply(plan(1, SPLIT))
    headers = {"X-User-Id": name.encode()}
    response = httpx.post(f"{path.driver.url}/faq/v1/chat/completions", json={}, headers=headers, trust_env=False)
    got = json.loads(response.json()["choices"][0]["message"]["content"])
    assert got["x-unit-kind"] == kind
    if kind == "user":
        assert got["x-bucket"] == str(bucket_of("faq", name))


def test_a_name_that_is_too_long_is_refused_in_words(path: DataPath) -> None:
    path.driver.apply(plan(1, SPLIT))
    for header in ("X-User-Id", "X-Session-Id"):
        answer = httpx.post(f"{path.driver.url}/faq/v1/x", json={}, headers={header: "a" * 201}, trust_env=False)
        assert answer.status_code == 400
        assert "have at most 200 bytes" in answer.json()["error"]["message"]


def test_a_plan_that_was_overtaken_is_not_applied(path: DataPath) -> None:
    path.driver.apply(plan(3, (A.digest,) * BUCKETS))
    with pytest.raises(ConflictError, match="revision 3 of the plan of faq is in effect, revision 2 came too late"):
        path.driver.apply(plan(2, SPLIT))
    assert path.driver.observe("faq") == (A.digest,) * BUCKETS
    path.driver.apply(plan(3, (A.digest,) * BUCKETS))  # the same once more is no older one


def test_what_the_data_path_saw_is_counted_even_if_nobody_answers(path: DataPath) -> None:
    path.driver.apply(plan(1, (A.digest,) * BUCKETS))
    before = path.driver.routed(A.digest)
    for _ in range(5):
        assert path.driver.ask("faq", "u", "?", 5).status == 200
    assert path.driver.routed(A.digest).since(before) == Routed(
        requests=5, failed=0, unanswered=0, waiting=0, is_up=True
    )
    dead = Server(application="faq", registry_version=1, digest=A.digest, port=free_port())
    write_server(path.driver.servers, dead)
    path.driver.retire("faq", B.digest)  # reloads: now nobody listens for the release
    before = path.driver.routed(A.digest)
    for _ in range(4):
        assert path.driver.ask("faq", "u", "?", 5).status == 503
    seen = path.driver.routed(A.digest).since(before)
    assert (seen.requests, seen.failed) == (4, 4)
    with pytest.raises(ServingError, match="does not know release"):
        path.driver.routed(B.digest)


def test_a_release_is_deployed_once_the_data_path_itself_finds_that_it_answers(path: DataPath) -> None:
    handler = type("Says", (_Says,), {"digest": A.digest})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.server_bind()  # the port is taken, and nobody listens there yet
    port = server.server_port
    write_server(path.driver.servers, Server(application="faq", registry_version=1, digest=A.digest, port=port))
    path.driver.retire("faq", B.digest)  # reloads
    until = time.monotonic() + 20
    while path.driver.routed(A.digest).is_up:
        assert time.monotonic() < until
        time.sleep(0.05)
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        path.driver.ensure(A)
        assert path.driver.routed(A.digest).is_up
        path.driver.apply(plan(1, (A.digest,) * BUCKETS))
        assert path.driver.ask("faq", "u", "?", 5).status == 200
    finally:
        server.shutdown()
        server.server_close()


def test_a_reload_does_not_fail_for_a_caller_who_takes_his_time(
    path: DataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy_socket, "_SETTLE_S", 0.5)
    path.driver.apply(plan(1, (B.digest,) * BUCKETS))
    answers = list[Answer]()
    asking = threading.Thread(target=lambda: answers.append(path.driver.ask("faq", "u", SLOW, 10)))
    asking.start()
    while not path.driver.backends()[B.short].load.ongoing:
        time.sleep(0.01)
    with locked(path.driver.folder):
        path.driver._reload()
    assert answers == []
    kept = path.driver.backends()[B.short]
    assert (kept.load.ongoing, kept.is_settled) == (1, False)  # the worker before still answers it
    asking.join()
    assert [answer.status for answer in answers] == [200]


def test_after_a_reload_nobody_is_answered_by_the_old_configuration(path: DataPath) -> None:
    path.driver.apply(plan(1, (A.digest,) * BUCKETS))
    with httpx.Client(trust_env=False) as client:
        url = f"{path.driver.url}/faq/v1/chat/completions"
        assert client.post(url, json={}).headers["X-Plan-Revision"] == "1"
        idle = threading.Timer(0.3, lambda: client.post(url, json={}))  # the last answer on its connection
        idle.start()
        with locked(path.driver.folder):
            path.driver._reload()
        assert path.driver.backends()[A.short].is_settled
        idle.join()
        path.driver.apply(plan(2, SPLIT))
        assert client.post(url, json={}).headers["X-Plan-Revision"] == "2"


def test_a_release_is_retired_only_after_its_last_answer(path: DataPath) -> None:
    path.driver.apply(plan(1, (B.digest,) * BUCKETS))
    answers = list[Answer]()
    asking = threading.Thread(target=lambda: answers.append(path.driver.ask("faq", "u", SLOW, 10)))
    asking.start()
    while path.driver.routed(B.digest).waiting == 0:
        time.sleep(0.01)
    path.driver.apply(plan(2, (A.digest,) * BUCKETS))
    path.driver.retire("faq", B.digest)
    assert [(answer.status, answer.release_digest) for answer in answers] == [(200, B.digest)]
    asking.join()
    assert path.driver.running("faq") == (A.digest,)


def test_a_release_that_is_given_users_while_its_last_calls_end_is_kept(path: DataPath) -> None:
    path.driver.apply(plan(1, (B.digest,) * BUCKETS))
    asking = threading.Thread(target=lambda: path.driver.ask("faq", "u", SLOW, 10))
    asking.start()
    while path.driver.routed(B.digest).waiting == 0:
        time.sleep(0.01)
    path.driver.apply(plan(2, (A.digest,) * BUCKETS))
    with ThreadPoolExecutor(1) as pool:
        retiring = pool.submit(path.driver.retire, "faq", B.digest)
        time.sleep(0.1)  # it has seen that nobody is given to B, and waits for the answer
        path.driver.apply(plan(3, SPLIT))
        with pytest.raises(ServingError, match=f"{B.short} was given traffic while its last calls ended; it is kept"):
            retiring.result()
    asking.join()
    assert path.driver.running("faq") == (A.digest, B.digest)
    unit = next(f"u-{number}" for number in range(BUCKETS) if SPLIT[bucket_of("faq", f"u-{number}")] == B.digest)
    answer = path.driver.ask("faq", unit, "?", 5)
    assert (answer.status, answer.release_digest) == (200, B.digest)


def test_what_a_client_claims_about_itself_is_thrown_away(path: DataPath) -> None:
    path.driver.apply(plan(1, SPLIT))
    lies = dict.fromkeys(("X-Bucket", "X-Unit", "X-Unit-Kind", "X-Plan-Revision", "X-Request-Id"), "lie")
    lies |= {"X-Purpose": "smoke", "X-Probe-Token": "guess", "X-User-Id": "ada"}
    response = httpx.post(f"{path.driver.url}/faq/v1/chat/completions", json={}, headers=lies, trust_env=False)
    got = json.loads(response.json()["choices"][0]["message"]["content"])
    assert "lie" not in got.values()
    assert "x-purpose" not in got
    assert "x-probe-token" not in got
    probe = json.loads(path.driver.ask("faq", "ada", "?", 5).text)
    assert probe["x-purpose"] == "smoke"
    assert "x-probe-token" not in probe


def test_an_application_nobody_serves_is_a_clear_404(path: DataPath) -> None:
    assert path.driver.observe("nope") is None
    response = httpx.post(f"{path.driver.url}/nope/v1/chat/completions", json={}, trust_env=False)
    assert response.status_code == 404
    assert "no application of this name" in response.json()["error"]["message"]


def test_what_cannot_be_done_is_said(path: DataPath, tmp_path: Path) -> None:
    deep = HaproxyDriver(tmp_path / ("deep" * 30), tmp_path / "servers", "http://127.0.0.1:1")
    with pytest.raises(StackError, match="too long for a socket; set DELIVERY_STATE_DIR"):
        deep.prepare()
    dead = HaproxyDriver(tmp_path / "none", path.driver.servers, "http://127.0.0.1:1")
    with pytest.raises(ServingError, match=r"HAProxy does not answer on admin\.sock"):
        dead.observe("faq")
