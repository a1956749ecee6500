"""A PostgreSQL server of one's own, which can be killed, stopped for a while and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy
from sqlalchemy.pool import NullPool

from tasks.traffic.servers import free_port

# PostgreSQL refuses to run as root; Debian's package brings a user for it.
_USER = "postgres" if os.geteuid() == 0 else None


@dataclass(frozen=True)
class PostgresServer:
    """A server on loopback whose data survive that its processes are killed.

    Args:
        programs: The folder of ``initdb`` and ``pg_ctl``.
        folder: Of its data, its socket and its log; it belongs to who runs it.
    """

    programs: Path
    folder: Path
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """Address without the name of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Make an empty server."""
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start it, also after it was killed, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End it."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    def kill(self) -> None:
        """Kill all of its processes (SIGKILL) and wait until they are gone."""
        processes = self._processes()
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(processes, timeout=20)

    def freeze(self) -> None:
        """Stop all of its processes: connections are taken by the system, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all of its processes go on."""
        self._signal(signal.SIGCONT)

    def has(self, name: str) -> bool:
        """Return whether there is a database of this name."""
        return bool(self._say(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))  # noqa: S608 - a name of ours

    def make(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self._say(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _processes(self) -> list[psutil.Process]:
        master = psutil.Process(int((self._data / "postmaster.pid").read_text(encoding="utf-8").split()[0]))
        return [master, *master.children(recursive=True)]

    def _signal(self, number: int) -> None:
        for one in self._processes():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def _say(self, words: str) -> list[Any]:
        engine = sqlalchemy.create_engine(f"{self.url}/postgres", isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as db:
            found = db.execute(sqlalchemy.text(words))
            return list(found) if found.returns_rows else []

    def _run(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), *words]
        done = subprocess.run(command, user=_USER, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_postgres() -> Iterator[PostgresServer | None]:
    """Have a server until the block ends; None where PostgreSQL is not installed."""
    programs = find_programs()
    if programs is None:
        yield None
        return
    # Not below pytest's own folder: every session that starts closes that to other users again.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if _USER:
        shutil.chown(folder, _USER)
    server = PostgresServer(programs, folder)
    server.prepare()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, None where it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
