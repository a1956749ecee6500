"""The wish for the replicas of a release: how it begins, and how it follows what autoscaling wants of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tasks.errors import InputError, ServingError, UnsupportedError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.asking import answers_as
from tasks.traffic.haproxy.statistics import Backend
from tasks.traffic.servers import Server, free_port, read_refusal, read_servers, why_taken

REPLICAS_PER_CPU = 4
"""A replica mostly waits for its endpoint; it takes about 100 MB."""
LIMIT_VARIABLE = "DELIVERY_MAX_REPLICAS"

_ASK_S = 1.0
_START_S = 60.0
_PAUSE_S = 0.1


def replica_limit() -> int:
    """Return the most replicas of one release that this machine is allowed to run.

    Raises:
        InputError: The environment says something else than a number from 1.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return REPLICAS_PER_CPU * (os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise InputError.of(LIMIT_VARIABLE, text, "a whole number from 1")
    return int(text)


def wish_for(release: Release, spec: Autoscaling, others: Sequence[Server]) -> Server:
    """Return the first wish for a release: its fewest replicas, and a port for each it may ever have.

    Args:
        release: Whose servers they are.
        spec: Its limits.
        others: Servers whose ports are not to be taken.

    Raises:
        UnsupportedError: It may have more replicas than the machine is allowed to run.
    """
    limit = replica_limit()
    if spec.max_replicas > limit:
        raise UnsupportedError(
            f"autoscaling of {release.label}: max_replicas {spec.max_replicas} > {limit}, the most replicas of one "
            f"release on this machine ({REPLICAS_PER_CPU} a CPU unless {LIMIT_VARIABLE} says otherwise); lower it, "
            f"or raise the limit"
        )
    first, *more = _free_ports(spec.max_replicas, others)
    return Server(
        application=release.application,
        registry_version=release.registry_version,
        digest=release.digest,
        port=first,
        more_ports=tuple(more),
        replicas=spec.min_replicas,
        serving=spec.min_replicas,
        autoscaling=spec,
    )


def limited(server: Server, wish: Server, others: Sequence[Server]) -> Server:
    """Return the wish for a release that runs, with the limits of a new one; nothing is switched off by it."""
    missing = len(wish.ports) - len(server.ports)
    spec = wish.autoscaling
    return replace(
        server,
        more_ports=(*server.more_ports, *_free_ports(missing, others)),
        replicas=max(server.replicas, spec.min_replicas),
        autoscaling=spec,
    )


def begun_anew(server: Server, others: Sequence[Server], is_lost: Callable[[int], bool]) -> Server:
    """Return the wish with which a stack starts again: the fewest replicas, other ports for those that are lost."""
    lost = [port for port in server.ports if is_lost(port)]
    instead = dict(zip(lost, _free_ports(len(lost), others), strict=True))
    first, *more = (instead.get(port, port) for port in server.ports)
    fewest = server.autoscaling.min_replicas
    return replace(server, port=first, more_ports=tuple(more), replicas=fewest, serving=fewest)


def is_lost(digest: str, port: int) -> bool:
    """Return whether somebody else than the release listens on a port."""
    return bool(why_taken(port)) and not answers_as(f"http://127.0.0.1:{port}", digest, _ASK_S)


def followed(server: Server, backend: Backend, wanted: int, answering: int) -> Server:
    """Return the next wish on the way to a number of replicas.

    A replica gets calls once it answers. One too many is switched off first; its process ends after its last call,
    and after every worker that does not know that it is switched off.

    Args:
        server: The wish as it is.
        backend: What the data path knows of the release.
        wanted: Replicas there ought to be.
        answering: So many of the first replicas answer, or serve already.
    """
    spare = backend.slots[wanted : server.replicas]
    is_idle = backend.is_settled and not any(slot.is_on or slot.sessions for slot in spare)
    replicas = wanted if wanted > server.replicas or is_idle else server.replicas
    return replace(server, replicas=replicas, serving=min(wanted, max(server.serving, answering)))


def _free_ports(count: int, others: Sequence[Server]) -> list[int]:
    taken = {port for server in others for port in server.ports}
    found = list[int]()
    while len(found) < count:
        found.append(free_port(lambda port: port in taken or port in found))
    return found


def await_answers(folder: Path, digest: str) -> None:
    """Wait until every replica that is wanted of a release answers as the release.

    Args:
        folder: Of the wishes for release servers.
        digest: The release.

    Raises:
        ServingError: One does not in time, or it is said why none can; or the release is wanted no longer.
    """
    deadline = time.monotonic() + _START_S
    while (server := next((one for one in read_servers(folder) if one.digest == digest), None)) is not None:
        wanted = server.urls[: max(server.serving, server.autoscaling.min_replicas)]
        silent = next((number for number, url in enumerate(wanted, 1) if not answers_as(url, digest)), None)
        if silent is None:
            return
        if why := read_refusal(folder, digest):
            raise ServingError(f"release {server.short} cannot be served: {why}")
        if time.monotonic() > deadline:
            raise ServingError(
                f"replica {silent} of release {server.short} does not answer on {server.urls[silent - 1]} "
                f"after {_START_S:.0f} s; see the log release-{server.short}-{silent}"
            )
        time.sleep(_PAUSE_S)
    raise ServingError(f"release {digest[:12]} was retired by somebody else while it started")
