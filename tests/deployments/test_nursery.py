"""Flow runs as copies of a warm process: what a copy is handed, and how the ends of copy, asker and nursery meet.

The copies here run small functions instead of Prefect's engine; nothing of Prefect is imported.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deployments.stack.engine import SOCKET

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
NURSERY = """
import json, os, signal, sys, time
from pathlib import Path
from deployments.stack.engine import SOCKET
from deployments.stack.nursery import Nursery

def run(order):
    task = os.environ["TASK"]
    if task == "tell":
        opened = sorted(os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                        if os.path.exists(f"/proc/self/fd/{number}"))
        told = {"pid": os.getpid(), "parent": os.getppid(), "folder": os.getcwd(), "input": sys.stdin.read(),
                "environment": dict(os.environ), "sockets": sum(name.startswith("socket:") for name in opened),
                "masked": [signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD)]}
        print(json.dumps(told), flush=True)
        print("a complaint", file=sys.stderr, flush=True)
        return int(os.environ["CODE"])
    if task == "fail":
        raise RuntimeError("out of the blue")
    if task == "careful":
        def end(*_):
            print("asked to end", flush=True)
            os._exit(7)
        signal.signal(signal.SIGTERM, end)
    print(os.getpid(), flush=True)
    time.sleep(600)
    return 0

Nursery(Path(os.environ["DELIVERY_STATE_DIR"]) / SOCKET, run).serve()
"""
ENGINE = """
import sys
from deployments.stack import engine
engine._FALLBACK = ("-c", "print('a process of its own')")
sys.exit(engine.main())
"""


class Home:
    """A nursery, and the programs that ask it."""

    def __init__(self, state: Path) -> None:
        self.state, self.asked = state, list[subprocess.Popen[str]]()
        self.nursery = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        (self.state / SOCKET).unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", NURSERY], cwd=ROOT, env=self.environment())
        await_true(self.listens)
        return process

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            return channel.connect_ex(str(self.state / SOCKET)) == 0

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {**os.environ, "DELIVERY_STATE_DIR": str(self.state), "PYTHONPATH": path, **more}

    def ask(self, task: str, folder: Path = ROOT, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", ENGINE],
            cwd=folder,
            env=self.environment(TASK=task, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.asked.append(process)
        return process

    def begin(self, task: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        """Ask for a copy that stays, and return it too."""
        asker = self.ask(task)
        assert asker.stdout is not None
        return asker, psutil.Process(int(asker.stdout.readline()))

    def close(self) -> None:
        for asker in self.asked:
            asker.kill()
            asker.communicate()
        self.nursery.kill()
        self.nursery.wait()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def await_true(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.parametrize("code", [0, 3])
def test_a_copy_has_the_environment_the_folder_and_the_streams_of_who_asked(
    home: Home, tmp_path: Path, code: int
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    asker = home.ask("tell", folder, CODE=str(code), ODD="a\nb=\udcff", PREFECT__FLOW_RUN_ID="1")
    out, err = asker.communicate("hello", timeout=PATIENCE_S)
    told = json.loads(out)
    assert asker.returncode == code
    assert (told["folder"], told["input"], err) == (str(folder), "hello", "a complaint\n")
    environment = told["environment"]
    assert (environment["ODD"], environment["PREFECT__FLOW_RUN_ID"]) == ("a\nb=\udcff", "1")
    assert environment["DELIVERY_STATE_DIR"] == str(tmp_path)
    assert told["parent"] == home.nursery.pid
    assert told["pid"] not in {home.nursery.pid, asker.pid}
    assert told["masked"] == [True, True]


def test_a_copy_keeps_no_end_of_the_sockets_of_others(home: Home) -> None:
    for _ in range(3):
        home.begin("stay")
    out, _ = home.ask("tell", CODE="0").communicate("", timeout=PATIENCE_S)
    # The pair that wakes the nursery at the end of a copy; neither the listener nor any asker's channel.
    assert json.loads(out)["sockets"] == 2


def test_an_error_that_nobody_catches_is_exit_code_1(home: Home) -> None:
    asker = home.ask("fail")
    _, err = asker.communicate(timeout=PATIENCE_S)
    assert asker.returncode == 1
    assert "out of the blue" in err


def test_a_signal_reaches_the_copy_and_its_answer_the_asker(home: Home) -> None:
    asker, copy = home.begin("careful")
    asker.send_signal(signal.SIGTERM)
    out, _ = asker.communicate(timeout=PATIENCE_S)
    assert (out, asker.returncode) == ("asked to end\n", 7)
    assert is_gone(copy)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_asked_ends_by_the_signal_the_copy_ended_by(home: Home, number: signal.Signals) -> None:
    asker, copy = home.begin("stay")
    copy.send_signal(number)
    assert asker.wait(timeout=PATIENCE_S) == -number


def test_a_copy_ends_with_who_asked_and_the_nursery_goes_on(home: Home) -> None:
    (asker, copy), (_, other) = home.begin("stay"), home.begin("stay")
    asker.kill()
    await_true(lambda: is_gone(copy))
    assert not is_gone(other)
    assert home.ask("tell", CODE="0").communicate("", timeout=PATIENCE_S)[0]


def test_copy_and_asker_that_end_at_once_take_nobody_with_them(home: Home) -> None:
    pairs = [home.begin("stay") for _ in range(4)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(home.state / SOCKET))
        socket.send_fds(
            slow, [(1).to_bytes(8, "big")], [0, 1, 2]
        )  # it waits for the rest, and then hears of all at once
        for asker, copy in pairs:
            copy.kill()
            await_true(lambda copy=copy: is_gone(copy))  # type: ignore[misc]
            asker.kill()
            asker.wait()
    assert home.ask("tell", CODE="0").communicate("", timeout=PATIENCE_S)[0]
    assert home.nursery.poll() is None
    await_true(lambda: psutil.Process(home.nursery.pid).children() == [])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_copies_end_with_the_nursery_and_the_next_one_serves(home: Home, number: signal.Signals) -> None:
    pairs = [home.begin("careful") for _ in range(2)]
    home.nursery.send_signal(number)
    assert home.nursery.wait(timeout=PATIENCE_S) == (-number if number == signal.SIGKILL else 0)
    for asker, copy in pairs:
        assert asker.wait(timeout=PATIENCE_S) == -signal.SIGKILL  # as a flow run whose process was killed
        await_true(lambda copy=copy: is_gone(copy))  # type: ignore[misc]
    alone = home.ask("tell", CODE="0")
    assert alone.communicate(timeout=PATIENCE_S)[0] == "a process of its own\n"
    home.nursery = home.start()
    assert "environment" in home.ask("tell", CODE="0").communicate("", timeout=PATIENCE_S)[0]


def test_without_a_nursery_it_becomes_the_engine_itself(home: Home, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    asker = home.ask("tell", DELIVERY_STATE_DIR=str(empty))
    assert asker.communicate(timeout=PATIENCE_S)[0] == "a process of its own\n"
    assert asker.returncode == 0


@pytest.mark.parametrize("order", [b"", b"{", b"[]", b'"x"'])
def test_what_is_no_order_is_hung_up_on_and_leaves_nothing_open(home: Home, order: bytes) -> None:
    home.ask("tell", CODE="0").communicate("", timeout=PATIENCE_S)  # so that it has ended with who came before
    opened = psutil.Process(home.nursery.pid).num_fds()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(PATIENCE_S)
        channel.connect(str(home.state / SOCKET))
        socket.send_fds(channel, [len(order).to_bytes(8, "big")], [0, 1, 2])
        if order:
            channel.sendall(order)
        assert channel.recv(10) == b""
    await_true(lambda: psutil.Process(home.nursery.pid).num_fds() == opened)
    assert psutil.Process(home.nursery.pid).children() == []


def test_only_the_owner_may_ask(home: Home) -> None:
    assert (home.state / SOCKET).stat().st_mode & 0o777 == 0o600
