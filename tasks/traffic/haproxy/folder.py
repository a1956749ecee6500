"""What stands in the folder of HAProxy: its configuration, the maps, who may stand in for whom, and a token."""

from __future__ import annotations

import fcntl
import json
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import DeliveryError, ServingError
from tasks.traffic.haproxy.config import map_name, render
from tasks.traffic.haproxy.socket import find_haproxy
from tasks.traffic.plan import Plan, overtaken
from tasks.traffic.servers import Server, write_whole

_CONFIG = "haproxy.cfg"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep everybody else from changing the folder of HAProxy while the block runs; it is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_config(folder: Path, bind: str, servers: Sequence[Server]) -> None:
    """Write the configuration for what is served, once HAProxy itself finds nothing wrong with it.

    Args:
        folder: Of HAProxy.
        bind: ``host:port`` the data path listens on.
        servers: The release servers to route to.

    Raises:
        ServingError: HAProxy refuses it; the one of before is kept.
    """
    maps = sorted(path.name.removeprefix("buckets-").removesuffix(".map") for path in folder.glob("buckets-*.map"))
    proven = {name: read_proven(folder, name) for name in sorted({server.application for server in servers})}
    text = render(bind, read_token(folder), maps, servers, proven)
    path, new = folder / _CONFIG, folder / f"{_CONFIG}.new"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    write_whole(new, text)
    command = [find_haproxy(), "-c", "-q", "-f", new.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServingError(f"HAProxy refuses its new configuration and keeps the old one: {done.stderr.strip()}")
    new.replace(path)


def write_proven(folder: Path, application: str, proven: Sequence[str]) -> None:
    """Keep which releases of an application may stand in for another one, the best first."""
    path, text = _proven_path(folder, application), json.dumps(list(proven)) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)


def read_proven(folder: Path, application: str) -> tuple[str, ...]:
    """Return which releases of an application may stand in for another one, the best first; none where none is known.

    Raises:
        DeliveryError: The file is none of ours.
    """
    path = _proven_path(folder, application)
    if not path.exists():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(digest, str) for digest in found):
        raise DeliveryError(f"{path} does not list the releases that may stand in for another one; delete it")
    return tuple(found)


def _proven_path(folder: Path, application: str) -> Path:
    return folder / f"proven-{application}.json"


def refuse_older(folder: Path, plan: Plan) -> None:
    """Keep a flow that was overtaken from putting its plan over the one that overtook it.

    Raises:
        ConflictError: A later revision is in effect.
    """
    path = folder / map_name(plan.application)
    if path.exists():
        newest = int(path.read_text(encoding="utf-8").splitlines()[0].rpartition(":")[2])
        if newest > plan.revision:
            raise overtaken(plan, newest)


def read_token(folder: Path) -> str:
    """Return what a probe must know so that its requests count as nobody's; made at the first call."""
    path = folder / "probe-token"
    if not path.exists():
        write_whole(path, secrets.token_hex(16))
    return path.read_text(encoding="utf-8")
