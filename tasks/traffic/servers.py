"""Which release servers ought to run: one small file each, written by a driver, read by whoever runs processes.

The files are the wish, the processes follow: a supervisor that starts later, or again after a crash, finds out
what to run by reading the folder.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import DeliveryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One process that answers for one release on loopback."""

    application: str
    registry_version: int
    digest: str
    port: int

    @property
    def short(self) -> str:
        """The first twelve digits of the digest."""
        return self.digest[:12]

    @property
    def url(self) -> str:
        """Where the process listens."""
        return f"http://127.0.0.1:{self.port}"


def read_servers(folder: Path) -> list[Server]:
    """Return the servers that ought to run, in order of digest.

    Raises:
        DeliveryError: A file of the folder is none of ours.
    """
    servers = []
    for path in sorted(folder.glob("*.json")):
        try:
            servers.append(Server(**json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            continue  # retired between the listing and the reading
        except (TypeError, ValueError) as error:
            raise DeliveryError(f"{path} is not the wish for a release server ({error}); delete it") from error
    return servers


def write_server(folder: Path, server: Server) -> None:
    """Ask for a server; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{server.short}.json", json.dumps(asdict(server), indent=1))


def delete_server(folder: Path, digest: str) -> None:
    """Ask for a server no longer."""
    (folder / f"{digest[:12]}.json").unlink(missing_ok=True)


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a crash, sees the old text or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def free_port(taken: Callable[[int], bool] = lambda _: False) -> int:
    """Return a loopback port nobody listens on and that is not ``taken``."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if not taken(port):
            return port
