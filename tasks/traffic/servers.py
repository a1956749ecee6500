"""Which release servers ought to run: one small file a release, written by a driver, read by whoever runs processes.

The files are the wish, the processes follow: a supervisor that starts later, or again after a crash, finds out
what to run by reading the folder.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tasks.errors import DeliveryError
from tasks.release.model import Autoscaling

REFUSED: Final = 78
"""The exit code of a release server that will not run before something else is put right (EX_CONFIG of BSD)."""
Port = Annotated[int, Field(gt=0, lt=65536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One release that answers on loopback, by one process a replica.

    Attributes:
        port: Of the first replica.
        more_ports: Of the others, one for each it may ever have; replicas that are not wanted now keep theirs.
        replicas: How many processes ought to run.
        serving: How many of these the data path may give calls to; fewer while one starts, or ends its last calls.
        autoscaling: What may change ``replicas``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    application: str
    registry_version: int
    digest: str
    port: Port
    more_ports: tuple[Port, ...] = ()
    replicas: int = 1
    serving: int = 1
    autoscaling: Autoscaling = field(default_factory=Autoscaling)

    def __post_init__(self) -> None:
        """Refuse numbers that contradict each other."""
        if not 1 <= self.serving <= self.replicas <= len(self.ports):
            raise ValueError(
                f"serving {self.serving}, replicas {self.replicas} and {len(self.ports)} ports must not decrease from 1"
            )

    @property
    def short(self) -> str:
        """The first twelve digits of the digest."""
        return self.digest[:12]

    @property
    def ports(self) -> tuple[int, ...]:
        """The port of every replica there may be."""
        return (self.port, *self.more_ports)

    @property
    def url(self) -> str:
        """Where the first replica listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the replicas listen that ought to run."""
        return tuple(f"http://127.0.0.1:{port}" for port in self.ports[: self.replicas])


_WISH = TypeAdapter(Server)


def read_servers(folder: Path) -> list[Server]:
    """Return the servers that ought to run, in order of digest.

    Raises:
        DeliveryError: A file of the folder is none of ours.
    """
    servers = []
    for path in sorted(folder.glob("*.json")):
        try:
            servers.append(_WISH.validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue  # retired between the listing and the reading
        except ValueError as error:
            raise DeliveryError(f"{path} is not the wish for a release server ({_said(error)}); delete it") from error
    return servers


def _said(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = (".".join(str(part) for part in item["loc"]) + f" {item['msg']}" for item in error.errors())
    return "; ".join(one.strip() for one in found)


def write_server(folder: Path, server: Server) -> None:
    """Ask for a server; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{server.short}.json", _WISH.dump_json(server, indent=1).decode())


def delete_server(folder: Path, digest: str) -> None:
    """Ask for a server no longer."""
    (folder / f"{digest[:12]}.json").unlink(missing_ok=True)
    forget_refusal(folder, digest)


def refuse_server(folder: Path, digest: str, reason: str) -> None:
    """Say why a release cannot be served as things are, so that nobody waits for it."""
    write_whole(_refusal(folder, digest), reason)


def read_refusal(folder: Path, digest: str) -> str:
    """Return why a release cannot be served, empty where nobody said so."""
    try:
        return _refusal(folder, digest).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def forget_refusal(folder: Path, digest: str) -> None:
    """Have it tried again: what was missing may be there by now."""
    _refusal(folder, digest).unlink(missing_ok=True)


def _refusal(folder: Path, digest: str) -> Path:
    return folder / f"{digest[:12]}.refused"


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


def why_taken(port: int) -> str:
    """Return why a server could not listen on a loopback port, empty where it could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or type(error).__name__
    return ""
