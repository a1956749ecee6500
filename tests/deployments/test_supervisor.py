"""The local stack: servers that start, stay and end together, shown on small servers of our own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.stack import supervisor as supervisor_module
from deployments.stack.services import Layout, Ports, Service
from deployments.stack.supervisor import Supervisor
from deployments.stack.sweep import MARK, marked
from tasks.errors import StackError
from tasks.traffic.servers import Server, delete_server, forget_refusal, free_port, read_refusal, write_server

PATIENCE_S = 60.0
# Says 503 as often as it is told to, then 200; names itself and counts its requests.
WEB = """
import http.server, os, sys
port, refusals, asked = int(sys.argv[1]), int(sys.argv[2]), 0
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response(503 if asked <= refusals else 200)
        self.send_header("X-Pid", str(os.getpid()))
        self.send_header("X-Asked", str(asked))
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Web).serve_forever()
"""
FAMILY = """
import subprocess, sys, time
sleep = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
between = f"import subprocess, time; subprocess.Popen({sleep!r}, start_new_session=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-I", "-S", "-c", between], start_new_session=True)
time.sleep(600)
"""
# What holds the supervisor when it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from deployments.stack.services import Layout, Ports, Service
from deployments.stack.supervisor import Supervisor
state, mark, code = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
layout = Layout(state=state, ports=Ports.free(), mark=mark)
supervisor = Supervisor(layout=layout, servers=state / "servers", say=lambda _: None)
family = Service(name="family", command=(sys.executable, "-I", "-S", "-c", code), folder=state)
supervisor.start([family])
supervisor.watch()
print("up", flush=True)
time.sleep(600)
"""


class Stack:
    """A supervisor, and what it said."""

    def __init__(self, state: Path) -> None:
        self.lines: list[str] = []
        self.layout = Layout(state=state, ports=Ports.free(), mark=uuid.uuid4().hex)
        self.supervisor = Supervisor(layout=self.layout, servers=state / "servers", say=self.lines.append)

    @property
    def marked(self) -> list[psutil.Process]:
        return marked(self.layout.mark)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    made.supervisor.stop()
    assert made.marked == []


def web(folder: Path, name: str = "web", port: int = 0, refusals: int = 0) -> Service:
    port = port or free_port()
    command = (sys.executable, "-I", "-S", "-c", WEB, str(port), str(refusals))
    return Service(name=name, command=command, folder=folder, health_url=f"http://127.0.0.1:{port}/health")


def program(folder: Path, code: str, name: str = "program") -> Service:
    return Service(name=name, command=(sys.executable, "-I", "-S", "-c", code), folder=folder)


def ask(service: Service) -> dict[str, int]:
    """Return who answers and how often it was asked; nothing where nobody answers."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(str(service.health_url), timeout=5, trust_env=False)
        return {name: int(answer.headers[f"x-{name}"]) for name in ("pid", "asked")}
    return {}


def eventually(happened: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > limit:
            pytest.fail(f"it did not happen: {what}")
        time.sleep(0.02)


# --- starting ---


@pytest.mark.stack
def test_start_returns_once_every_service_answers(stack: Stack, tmp_path: Path) -> None:
    services = [web(tmp_path, "one", refusals=3), web(tmp_path, "two"), program(tmp_path, FAMILY)]
    stack.supervisor.start(services)
    assert stack.lines == [*(f"{s.name} is ready at {s.health_url}" for s in services[:2]), "program is ready"]
    assert ask(services[0])["asked"] == 5


@pytest.mark.stack
def test_a_service_gets_the_environment_of_the_stack(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERY_STATE_DIR", "elsewhere")
    shows = "import json, os; json.dump(dict(os.environ), open('seen', 'w')); os.rename('seen', 'environment')"
    stack.supervisor.start([program(tmp_path, f"{shows}; import time; time.sleep(600)")])
    eventually((tmp_path / "environment").exists, "the service shows its environment")
    seen = json.loads((tmp_path / "environment").read_text(encoding="utf-8"))
    assert {name: seen[name] for name in stack.layout.variables()} == stack.layout.variables()
    assert seen["DELIVERY_STATE_DIR"] == str(tmp_path)
    assert (seen["DO_NOT_TRACK"], seen["MLFLOW_DISABLE_TELEMETRY"]) == ("1", "true")
    assert seen["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert seen[MARK] == stack.layout.mark


@pytest.mark.stack
def test_a_service_that_ends_at_once_is_shown_with_the_end_of_its_log(stack: Stack, tmp_path: Path) -> None:
    code = "import sys; print('\\n'.join(f'line {n}' for n in range(40)), flush=True); sys.exit('no such table: wörk')"
    command = (sys.executable, "-I", "-S", "-X", "utf8", "-c", code)
    broken = replace(web(tmp_path, "broken"), command=command)
    with pytest.raises(StackError) as caught:
        stack.supervisor.start([broken])
    said = str(caught.value).splitlines()
    assert said[0] == "broken ended with code 1:"
    assert said[1:-2] == [f"  line {n}" for n in range(29, 40)]
    assert said[-2:] == ["  no such table: wörk", f"  (the whole log: {stack.layout.logs / 'broken.log'})"]


@pytest.mark.stack
def test_a_service_that_never_gets_ready_is_given_up_on(stack: Stack, tmp_path: Path) -> None:
    slow = web(tmp_path, "slow", refusals=10**6)
    impatient = replace(slow, start_s=0.3)
    with pytest.raises(StackError, match=r"slow is not ready after 0 s:\n  \(the whole log: .*slow\.log\)"):
        stack.supervisor.start([impatient])


@pytest.mark.parametrize(
    ("name", "variable"),
    [("prefect", "DELIVERY_PREFECT_PORT"), ("mlflow", "DELIVERY_MLFLOW_PORT"), ("haproxy", "DELIVERY_DATA_PORT")],
)
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_named_with_the_variable_that_changes_it(
    stack: Stack, tmp_path: Path, name: str, variable: str, address: str
) -> None:
    with socket.socket() as taken:
        taken.bind((address, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            StackError, match=rf"^port {port} for {name} cannot be used \(Address.* in use\).*{variable}$"
        ):
            stack.supervisor.start([web(tmp_path, "free"), web(tmp_path, name, port)])
    assert stack.marked == []
    assert stack.lines == []


# --- watching ---


@pytest.mark.stack
def test_a_killed_service_is_started_again(stack: Stack, tmp_path: Path) -> None:
    one, two = web(tmp_path, "one"), web(tmp_path, "two")
    stack.supervisor.start([one, two])
    stack.supervisor.watch()
    killed, untouched = ask(one)["pid"], ask(two)["pid"]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: ask(one).get("pid", killed) != killed, "the service answers again")
    assert "one ended with code -9; again in 0.2 s" in stack.lines
    assert ask(two)["pid"] == untouched


@pytest.mark.stack
def test_a_service_that_keeps_ending_is_started_less_and_less_often(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_S", (0.0, 0.05, 0.1))
    monkeypatch.setattr(supervisor_module, "_TICK_S", 0.01)
    stack.supervisor.start([program(tmp_path, "raise SystemExit(7)")])
    stack.supervisor.watch()
    eventually(lambda: sum("ended with code" in line for line in stack.lines) >= 5, "it ended five times")
    waits = [line.removeprefix("program ended with code 7; again in ") for line in stack.lines[1:6]]
    assert waits == ["0 s", "0.05 s", "0.1 s", "0.1 s", "0.1 s"]


@pytest.mark.stack
def test_a_service_that_ran_well_before_it_ended_is_started_again_at_once(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_S", (0.0, 30.0))
    monkeypatch.setattr(supervisor_module, "_TICK_S", 0.01)
    monkeypatch.setattr(supervisor_module, "_STEADY_S", 0.2)
    stack.supervisor.start([program(tmp_path, "import time; time.sleep(0.3); raise SystemExit(7)")])
    stack.supervisor.watch()
    eventually(lambda: sum("ended with code" in line for line in stack.lines) >= 3, "it ended three times")
    assert stack.lines[1:4] == ["program ended with code 7; again in 0 s"] * 3


@pytest.mark.stack
def test_release_servers_follow_the_wishes_and_a_spoiled_wish_stops_nothing(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(application="faq", registry_version=1, digest="a" * 64, port=free_port())
    served, other = web(tmp_path, f"release-{server.short}-1", server.port), web(tmp_path, "other")
    monkeypatch.setattr(supervisor_module, "release_service", lambda *_: served)
    stack.supervisor.start([other])
    stack.supervisor.watch()
    write_server(tmp_path / "servers", server)
    eventually(lambda: ask(served), "what is wished for runs")
    (tmp_path / "servers" / "spoiled.json").write_text("{", encoding="utf-8")
    first = ask(other)["pid"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: ask(other).get("pid", first) != first, "the others are still watched")
    (tmp_path / "servers" / "spoiled.json").unlink()
    delete_server(tmp_path / "servers", server.digest)
    eventually(lambda: not ask(served), "what is no longer wished for ends")
    assert ask(other)


@pytest.mark.stack
def test_a_release_that_refuses_to_run_says_why_and_is_started_again_once_somebody_asks(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(application="faq", registry_version=1, digest="a" * 64, port=free_port())
    name, servers = f"release-{server.short}-1", tmp_path / "servers"
    code = "import sys; sys.stderr.write('loading\\nerror: variable KEY is not set\\n'); sys.exit(78)"
    refusing = Service(name=name, command=(sys.executable, "-I", "-S", "-c", code), folder=tmp_path, health_url=None)
    monkeypatch.setattr(supervisor_module, "release_service", lambda *_: refusing)
    monkeypatch.setattr(supervisor_module, "_BACKOFF_S", (0.0,))
    stack.supervisor.watch()
    write_server(servers, server)
    eventually(lambda: read_refusal(servers, server.digest), "it is said why")
    assert read_refusal(servers, server.digest) == "variable KEY is not set"
    log = stack.layout.logs / f"{name}.log"
    time.sleep(1.0)  # five looks of the supervisor
    assert log.read_text().count("KEY") == 1
    forget_refusal(servers, server.digest)
    eventually(lambda: log.read_text().count("KEY") == 2, "it was started again")
    assert stack.lines[:1] == [f"{name} is not started again: variable KEY is not set"]
    eventually(lambda: read_refusal(servers, server.digest), "it is said again")
    delete_server(servers, server.digest)
    assert read_refusal(servers, server.digest) == ""


@pytest.mark.stack
def test_every_replica_that_is_wished_for_runs_is_started_again_and_ends_with_its_wish(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replica(_: Layout, server: Server, number: int) -> Service:
        return web(tmp_path, f"release-{server.short}-{number}", server.ports[number - 1])

    monkeypatch.setattr(supervisor_module, "release_service", replica)
    monkeypatch.setattr(supervisor_module, "_SCALE_S", 0.05)
    ports = (free_port(), free_port(), free_port())
    wish = Server(
        application="faq", registry_version=1, digest="a" * 64, port=ports[0], more_ports=ports[1:], replicas=3
    )
    services = [replica(stack.layout, wish, number) for number in (1, 2, 3)]
    looks = list[int]()

    def scale() -> None:
        looks.append(len(looks))
        if len(looks) % 2:
            raise StackError("nobody answers")

    stack.supervisor.watch(scale)
    write_server(tmp_path / "servers", wish)
    eventually(lambda: all(ask(service) for service in services), "three replicas run")
    pids = [ask(service)["pid"] for service in services]
    os.kill(pids[1], signal.SIGKILL)
    eventually(lambda: ask(services[1]).get("pid", pids[1]) != pids[1], "the second is started again")
    assert f"{services[1].name} ended with code -9; again in 0.2 s" in stack.lines
    moved = replace(wish, replicas=2, port=free_port())
    write_server(tmp_path / "servers", moved)
    eventually(lambda: ask(replica(stack.layout, moved, 1)), "the first has another port")
    eventually(lambda: not ask(services[2]), "the third has ended")
    assert not ask(services[0])
    assert ask(services[1])["pid"] != pids[1]
    assert (stack.layout.logs / f"release-{wish.short}-3.log").exists()
    eventually(lambda: len(looks) > 3, "the load is looked at again and again, whatever came of it")
    assert "autoscaling: nobody answers" in stack.lines


@pytest.mark.stack
def test_releases_of_an_earlier_stack_are_waited_for_and_one_that_is_gone_is_only_reported(
    stack: Stack, tmp_path: Path
) -> None:
    here, gone = (Server(application="faq", registry_version=1, digest=digit * 64, port=free_port()) for digit in "ab")
    for server in (here, gone):
        write_server(tmp_path / "servers", server)
    stack.supervisor.start([web(tmp_path, "here", here.port, refusals=2)])
    stack.supervisor.await_releases(patience_s=1)
    assert stack.lines[1] == "release aaaaaaaaaaaa of faq answers again"
    assert stack.lines[2] == f"release bbbbbbbbbbbb of faq does not answer; see its log in {stack.layout.logs}"


# --- ending ---


@pytest.mark.stack
def test_stop_leaves_nothing_not_even_grandchildren_in_sessions_of_their_own(stack: Stack, tmp_path: Path) -> None:
    stack.supervisor.start([program(tmp_path, FAMILY), web(tmp_path)])
    stack.supervisor.watch()
    eventually(lambda: len(stack.marked) == 4, "a family of three and a server")
    stack.supervisor.stop()
    assert stack.marked == []
    assert stack.lines[-1] == "ended 2 processes the servers had left"
    stack.supervisor.stop()  # again changes nothing
    assert guards(stack.layout.mark) == []


@pytest.mark.stack
def test_an_orderly_end_leaves_nothing_to_sweep(stack: Stack, tmp_path: Path) -> None:
    service = web(tmp_path)
    stack.supervisor.start([service])
    assert len(guards(stack.layout.mark)) == 1
    stack.supervisor.stop()
    assert stack.lines == [f"web is ready at {service.health_url}"]
    assert guards(stack.layout.mark) == []


@pytest.mark.stack
def test_after_kill_9_of_its_holder_the_guard_ends_everything(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), mark, FAMILY], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "up\n"
        eventually(lambda: len(marked(mark)) == 3, "a family of three runs")
        assert len(guards(mark)) == 1
        holder.kill()
        holder.wait()
        eventually(lambda: not marked(mark), "the guard ended the family")
        eventually(lambda: not guards(mark), "and then itself")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        for left in [*marked(mark), *guards(mark)]:
            left.kill()


def guards(mark: str) -> list[psutil.Process]:
    """Return the living guards of a stack."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[-2:] == ["deployments.stack.sweep", mark]:
                found.append(process)
    return found
