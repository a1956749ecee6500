"""The faults of the plain stage, each with a beginning and an end; all are real but the registry's.

``HAProxy killed`` is ``kill -9`` and a new start by the same command; ``ledger locked`` a second writer that holds the
lock; ``disk full`` a file system of its own, filled to its last byte; ``clock set back`` what a preloaded library
tells flows and release servers; ``target dead`` a server that is closed and kept down.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psutil
import sqlalchemy
from crash_stage import Case, Run, Scenario, Stage
from fault_run import AWAY, HANGS
from postgres_server import PostgresServer

DISK_BYTES = 96 * 2**20
BACK_S = 3
"""Seven lives of a lease on this stage; a lease of the product lives 30 s."""
TABLES = "leases, plans, rollouts"
_NUMBERS = count(1)


@cache
def build_clock() -> Path | None:
    """Return a library that sets the clock of a process back, None where no C compiler is installed."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="clock-")) / "set_back.so"
    atexit.register(shutil.rmtree, library.parent, ignore_errors=True)
    source = Path(__file__).with_name("set_back.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return library


@contextmanager
def small_disk(folder: Path, size: int = DISK_BYTES) -> Iterator[Path | None]:
    """Mount a small file system while the block runs; None where this user may not."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700,uid={os.getuid()}", "tmpfs", str(folder)]
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mounted = subprocess.run([*sudo, *words], capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run([*sudo, "umount", "--lazy", str(folder)], check=True)


class FaultStage(Stage):
    """A stage whose data path, ledger and log lie on a small disk of their own, and whose clock can be set back.

    Args:
        folder: Of everything; ``disk`` in it is where the small disk is mounted, if it is.
        server: Where the ledger is; None: SQLite on the small disk.
    """

    script = "fault_run.py"

    def __init__(self, folder: Path, *, server: PostgresServer | None = None, rate: float = 50.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.server = server
        self.clock, library = folder / "clock", build_clock()
        self.set_back(0)
        if library is not None:
            self.env = {"LD_PRELOAD": str(library), "DELIVERY_CLOCK": str(self.clock)}
        (folder / "cases").mkdir()
        disk = folder / "disk"
        disk.mkdir(exist_ok=True)
        (disk / "stage").mkdir()
        self.disk = disk
        url = server.make(f"faults_{next(_NUMBERS)}") if server is not None else None
        super().__init__(disk / "stage", runners=2, rate=rate, ledger_url=url)
        # What a case says of itself must not be lost with what is tried.
        (self.folder / "cases").rmdir()
        (self.folder / "cases").symlink_to(folder / "cases")

    def set_back(self, seconds: int) -> None:
        """Set the clock of all processes of the stage back from the true time."""
        part = self.clock.with_suffix(".part")
        part.write_text(str(seconds))
        part.replace(self.clock)

    def cast(self, scenarios: dict[str, Scenario]) -> list[Case]:
        cases = super().cast(scenarios)
        for case in cases:
            lake = self.folder / "lakes" / case.application
            lake.mkdir(parents=True)
            (case.folder / "lake").symlink_to(lake)
        return cases


class Fault(Protocol):
    """Something that breaks, and is whole again.

    Attributes:
        name: As in the table.
        harms: Whether users may be refused while it lasts.
    """

    name: str
    harms: bool

    def begin(self, case: Case, run: Run) -> None: ...

    def end(self, case: Case) -> None: ...


class Kept:
    """A fault that users do not feel."""

    harms = False

    def end(self, case: Case) -> None:
        del case


class RunnerKilled(Kept):
    """The process that runs the flow is killed; the flow is run again at once, while what else is broken is so."""

    name = "runner killed"

    def begin(self, case: Case, run: Run) -> None:
        del case
        os.kill(run.pid, signal.SIGKILL)


class HaproxyKilled:
    """HAProxy and its workers are killed, and started again as the supervisor does."""

    name, harms = "HAProxy killed", True

    def begin(self, case: Case, run: Run) -> None:
        del run
        process = psutil.Process(case.stage.haproxy.pid)
        workers = process.children(recursive=True)
        for one in (process, *workers):
            one.kill()
        case.stage.haproxy.wait()
        while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
            time.sleep(0.005)

    def end(self, case: Case) -> None:
        case.stage.haproxy = case.stage.start_again()


class RegistryAway(Kept):
    """MLflow refuses every connection."""

    name, flag = "MLflow down", AWAY

    def begin(self, case: Case, run: Run) -> None:
        del run
        (case.folder / self.flag).touch()

    def end(self, case: Case) -> None:
        (case.folder / self.flag).unlink()


class RegistryHangs(RegistryAway):
    """MLflow takes connections and answers nothing."""

    name, flag = "MLflow hangs", HANGS


class LedgerLocked(Kept):
    """Another writer holds the lock of the ledger, longer than one waits for it on SQLite."""

    name = "ledger locked"

    def begin(self, case: Case, run: Run) -> None:
        del run
        url = case.stage.ledger.url
        self.holder: Any
        if url.startswith("sqlite:///"):
            self.holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=20)
            self.holder.execute("BEGIN EXCLUSIVE")
        else:
            self.holder = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect()
            self.holder.execute(sqlalchemy.text(f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE"))

    def end(self, case: Case) -> None:
        del case
        self.holder.rollback()
        self.holder.close()


class LedgerAway(Kept):
    """PostgreSQL is killed, and started again."""

    name = "ledger away"

    def begin(self, case: Case, run: Run) -> None:
        del run
        server_of(case).kill()

    def end(self, case: Case) -> None:
        server_of(case).start()


class LedgerHangs(Kept):
    """PostgreSQL takes connections and answers nothing."""

    name = "ledger hangs"

    def begin(self, case: Case, run: Run) -> None:
        del run
        server_of(case).freeze()

    def end(self, case: Case) -> None:
        server_of(case).thaw()


class DiskFull(Kept):
    """The file system of ledger, lake, log and data path has no byte left."""

    name = "disk full"

    def begin(self, case: Case, run: Run) -> None:
        del run
        self.ballast = disk_of(case) / "ballast"
        fill(self.ballast)

    def end(self, case: Case) -> None:
        del case
        self.ballast.unlink()


class TargetDead:
    """The server of the release that shall get users is gone, or does not start."""

    name, harms = "target dead", True

    def begin(self, case: Case, run: Run) -> None:
        del run
        self.short = target_of(case)
        case.stage.world.say(die=self.short)

    def end(self, case: Case) -> None:
        case.stage.world.say(revive=self.short)


class ClockBack(Kept):
    """The clock of the machine is set back, and stays so until the case is over."""

    name = "clock set back"

    def begin(self, case: Case, run: Run) -> None:
        del run
        assert isinstance(case.stage, FaultStage)
        case.stage.set_back(BACK_S)


KINDS: tuple[type[Fault], ...] = (
    *(RunnerKilled, HaproxyKilled, RegistryAway, RegistryHangs, LedgerLocked, DiskFull, TargetDead, ClockBack),
)
SERVER_KINDS: tuple[type[Fault], ...] = (LedgerAway, LedgerHangs)
"""What can happen to a ledger besides that is a server."""


def target_of(case: Case) -> str:
    """Return twelve digits of the release that the flow of a case wants to give users to."""
    wanted = case.scenario.version if case.scenario.flow == "rollout" else case.scenario.version - 1
    return next(known.short for known in case.releases.values() if known.spec.version == str(wanted))


def server_of(case: Case) -> PostgresServer:
    """Return the server of the ledger."""
    assert isinstance(case.stage, FaultStage)
    assert case.stage.server is not None, "this ledger is SQLite"
    return case.stage.server


def disk_of(case: Case) -> Path:
    """Return the folder of the small disk."""
    assert isinstance(case.stage, FaultStage)
    return case.stage.disk


def fill(path: Path) -> None:
    """Fill the file system of a path to its last byte."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with suppress(OSError):
        free = os.fstatvfs(descriptor)
        os.posix_fallocate(descriptor, 0, max(1, free.f_bavail * free.f_bsize))
    os.lseek(descriptor, 0, os.SEEK_END)
    with suppress(OSError):
        while os.write(descriptor, bytes(4096)):
            pass
    os.close(descriptor)
