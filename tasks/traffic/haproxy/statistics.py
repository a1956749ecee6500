"""What HAProxy's statistics say of releases: who answered whom, how many calls wait, who is switched on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import ServingError
from tasks.traffic.autoscaling import Load
from tasks.traffic.driver import Routed

GONE_S = 3
"""A release whose servers are all down for so long is gone; until then a restart may still be under way, seconds."""

_BACKEND = "BACKEND"
_ANSWERS = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")

Row = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of one replica in a backend: its own, or one it stands by for.

    Attributes:
        name: Of the server in HAProxy.
        port: Where the replica listens.
        sessions: Calls it has now, those that are queued for it alone included, and in its own place those of
            releases it stands in for.
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
        standbys: Of the replicas of other releases that answer once none of its own does, the best first.
        load: Calls its replicas have from all workers, those that end after a reload included; also calls they
            answer in place of other releases, but not those that others answer in its place.
        is_settled: No worker of before a reload lives; such a one does not learn what is switched on and off.
    """

    slots: tuple[Slot, ...]
    load: Load
    is_settled: bool
    standbys: tuple[Slot, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """Where the replicas listen, in their order."""
        return tuple(slot.port for slot in self.slots)


def read_routed(statistics: str, short: str) -> Routed:
    """Read HAProxy's counters of one release from ``show stat``.

    What a standby answered in its place has failed as the release: its users did not get it.

    Raises:
        ServingError: It does not know the release.
    """
    mine = [row for row in _rows(statistics) if row["pxname"] == f"r-{short}"]
    total = next((row for row in mine if row["svname"] == _BACKEND), None)
    if total is None:
        raise ServingError(f"the data path does not know release {short}; deploy it first")
    answered = _answered(total)
    waiting = _number(total, "scur")  # of a backend it counts those in the queue, too
    ended = _number(total, "stot") - waiting
    instead = sum(_answered(row) - _number(row, "hrsp_5xx") for row in mine if _is_standby(row))
    return Routed(
        requests=max(ended, answered),
        failed=_number(total, "hrsp_5xx") + instead,
        unanswered=max(0, ended - answered),
        waiting=waiting,
        is_up=any(_is_reached(row) for row in mine if _is_own(row)),
    )


def takes_calls(statistics: str, short: str) -> bool:
    """Return whether HAProxy gives calls of a release to one of its own servers at this moment."""
    own = (row for row in _rows(statistics) if row["pxname"] == f"r-{short}" and _is_own(row))
    return any(_is_up(row) for row in own)


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
    here = [row for row in rows if row["pxname"] == name]
    slots = tuple(_slot(row, every) for row in here if _is_own(row))
    own = [row for row in every if row["pxname"] == name and not _is_standby(row)]
    ports = {slot.port for slot in slots}
    instead = [row for row in every if _is_standby(row) and _port(row) in ports]
    return Backend(
        slots=slots,
        load=Load(
            sessions=sum(_number(row, "scur") for row in (*own, *instead) if row["svname"] != _BACKEND),
            queued=sum(_number(row, "qcur") for row in (*own, *instead)),
        ),
        is_settled=is_settled,
        standbys=tuple(_slot(row, every) for row in here if _is_standby(row)),
    )


def _slot(row: Row, every: list[Row]) -> Slot:
    same = [one for one in every if (one["pxname"], one["svname"]) == (row["pxname"], row["svname"])]
    instead = [one for one in every if _is_own(row) and _is_standby(one) and _port(one) == _port(row)]
    return Slot(
        name=row["svname"],
        port=_port(row),
        sessions=sum(_number(one, "scur") + _number(one, "qcur") for one in (*same, *instead)),
        is_on=not row["status"].startswith("MAINT"),
    )


def _is_own(row: Row) -> bool:
    return row["svname"] != _BACKEND and row["bck"] == "0"


def _is_standby(row: Row) -> bool:
    return row["svname"] != _BACKEND and row["bck"] == "1"


def _is_reached(row: Row) -> bool:
    """Return whether a server is up or was so a moment ago: one that is started again at once is not gone."""
    return _is_up(row) or (row["status"].startswith("DOWN") and _number(row, "lastchg") < GONE_S)


def _is_up(row: Row) -> bool:
    return row["status"].startswith("UP")


def _port(row: Row) -> int:
    return int(row["addr"].rpartition(":")[2])


def _answered(row: Row) -> int:
    return sum(_number(row, f"hrsp_{kind}") for kind in _ANSWERS)


def _number(row: Row, name: str) -> int:
    return int(row[name] or 0)


def _rows(statistics: str) -> list[Row]:
    reader = csv.DictReader(statistics.strip().removeprefix("# ").splitlines())
    return [row for row in reader if row.get("svname")]
