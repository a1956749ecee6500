"""Run flows as ``crash_run.py`` does, with a point before every step, and with a registry that can fail.

The ledger gives up waiting for a lock early, and a server may take little time to start: what takes half a minute in
the real stack must be over in a second here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crash_plain
import crash_run
from prefect import Task
from sqlalchemy import Engine, event

from tasks.errors import UnreachableError
from tasks.stores.ledger import database
from tasks.traffic import replicas

PATIENCE_MS = 300
"""How long a writer waits for the lock of SQLite here; 30 s in the product."""
START_S = 3.0
"""How long a release server may take to answer here; 60 s in the product."""
HANG_S = 0.5
AWAY, HANGS = "registry-away", "registry-hangs"
"""Files of a case: while one exists, its registry refuses at once, or after a while."""


def prepare(order: crash_run.Order, plain: Callable[[crash_run.Order], crash_run.Points]) -> crash_run.Points:
    """Make this process one that runs a flow of a case."""
    serialise = database._serialise_writers

    def in_a_hurry(engine: Engine) -> None:
        serialise(engine)
        event.listen(engine, "connect", lambda made, _: made.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}"))

    crash_plain.put([(database, "_serialise_writers", in_a_hurry), (replicas, "_START_S", START_S)])
    points = plain(order)
    call: Callable[..., Any] = Task.__call__

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        points.reach(f"step: {self.name}")
        return call(self, *args, **kwargs)

    crash_plain.put([(Task, "__call__", step)])
    for name in ("register", "set_aliases", "aliases", "tag"):
        _let_fail(name, Path(order.state))
    return points


def _let_fail(name: str, state: Path) -> None:
    """Have a method of the registry of a case fail while a file says so."""
    real: Callable[..., Any] = getattr(crash_plain.FakeRegistry, name)

    def call(self: crash_plain.FakeRegistry, *args: Any) -> Any:
        if (state / HANGS).exists():
            time.sleep(HANG_S)
            raise UnreachableError("the registry does not answer in time; start it")
        if (state / AWAY).exists():
            raise UnreachableError("the registry does not answer; start it")
        return real(self, *args)

    setattr(crash_plain.FakeRegistry, name, call)


if __name__ == "__main__":
    crash_run.prepare = functools.partial(prepare, plain=crash_run.prepare)
    crash_run.serve()
