"""Run flows in processes that kill themselves at a chosen point.

A process that has imported everything reads orders, one JSON line each, forks a child for each, and says how it
ended. The child runs the real flow and counts the points it comes by: the moment before each call that writes or
acts, and inside the longer ones (before each commit of the ledger, between the parts of putting a plan into effect).
What lies between two points computes only, so a kill before a call is also one after the call before it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import crash_plain
import httpx
from sqlalchemy import Engine, event

import flows.decision
import flows.reconcile
import flows.rollback
import flows.rollout
from tasks.release import lease, telling, watching
from tasks.release.model import ReleaseSpec
from tasks.release.ramp import RampPolicy
from tasks.release.rollout import Lease
from tasks.settings import Settings
from tasks.smoke.suite import SmokeCase, SmokeSuite
from tasks.stores.ledger import Ledger, database
from tasks.traffic.haproxy import driver as haproxy
from tasks.traffic.haproxy.driver import HaproxyDriver

LEASE_S = 0.4
# Every single question makes a client, and every client reads all certificates, 18 ms each time; forks inherit these.
httpx._transports.default.create_ssl_context = functools.cache(httpx._transports.default.create_ssl_context)
httpx.Client(trust_env=False).close()
LEDGER = (
    *("acquire", "release_lease", "remember", "begin_rollout", "advance", "fail", "write_plan", "record_verdict"),
    *("lift_quarantine", "record_decision"),
)
DRIVER = ("ensure", "apply", "retire", "_swap", "_reload")
SMOKE = SmokeSuite(cases=tuple(SmokeCase(name=f"q{n}", question="?", max_latency_ms=60_000) for n in range(3)))
RAMP = RampPolicy(
    percents=(20, 60, 100),
    min_requests=4,
    min_users=1,
    max_step_s=120,
    look_s=0.05,
    tick_s=0.1,
    settle_s=0.2,
    noninferiority=False,
    scores=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run of one flow.

    Attributes:
        stage: Folder of the data path, shared by all cases.
        ledger: SQLAlchemy URL of the ledger, shared likewise.
        state: Folder of the case: the registry, the lake, the points it came by.
        url: Where users reach the data path.
        flow: ``rollout``, ``rollback``, ``reconcile``, ``abort``, ``approve`` or ``hold``.
        application: What is changed.
        version: Of the release that is rolled out, or rolled back.
        latency_ms: Its limit.
        approval: Whether a person must approve the last step.
        lease_s: How long a lease lives without a heartbeat.
        kill_at: The number of the point to be killed at, from 0; None: at none.
        kill_before: The label of points to be killed at; empty: none.
        pause_at: The number of the point to be stopped at (SIGSTOP); None: at none.
    """

    stage: str
    ledger: str
    state: str
    url: str
    flow: str
    application: str
    version: int
    latency_ms: float = 60_000.0
    approval: bool = False
    lease_s: float = LEASE_S
    kill_at: int | None = None
    kill_before: str = ""
    pause_at: int | None = None


class StageSettings(Settings):
    """Settings whose data path, logs and ledger are shared by all cases, and whose lake is the case's own."""

    stage: Path

    @property
    def log_dir(self) -> Path:
        return self.stage / "interactions"

    @property
    def servers_dir(self) -> Path:
        return self.stage / "servers"

    @property
    def haproxy_dir(self) -> Path:
        return self.stage / "haproxy"


@dataclass
class Points:
    """Counts the points the main thread comes by; the other threads only ask and beat."""

    order: Order
    seen: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    beating: threading.Lock = field(default_factory=threading.Lock)

    def reach(self, label: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        number = len(self.seen)
        self.seen.append(label)
        if number == self.order.pause_at:
            self.save()
            self._stop()
        elif number == self.order.kill_at or label == self.order.kill_before:
            self.save()
            os.kill(os.getpid(), signal.SIGKILL)
            while True:
                time.sleep(1)  # this thread may be the last to be told

    def _stop(self) -> None:
        """Sleep where the other thread is between two heartbeats, and so keeps nobody from the ledger meanwhile."""
        with self.beating:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.1)  # as above

    def save(self) -> None:
        (Path(self.order.state) / "points.json").write_text(json.dumps(self.seen))

    def wrap(self, owner: Any, name: str, label: str, *, once: bool = False) -> None:
        """Make each call of a function a point; with ``once``, only the first after another point."""
        real: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return real(*args, **kwargs)
            if not once or not self.seen or self.seen[-1] != label:
                self.reach(label)
            self.inside.append(label)
            try:
                return real(*args, **kwargs)
            finally:
                self.inside.pop()

        setattr(owner, name, call)

    def on_commit(self, _: Any) -> None:
        main = threading.current_thread() is threading.main_thread()
        if main and self.inside and self.inside[-1].startswith("Ledger."):
            self.reach(f"{self.inside[-1]}: commit")


def place_points(points: Points) -> None:
    """Put a point before everything that writes or acts."""
    renew = Ledger.renew

    def renewed(self: Ledger, held: Lease, now: datetime) -> None:
        with points.beating:
            renew(self, held, now)

    Ledger.renew = renewed  # type: ignore[method-assign, assignment]
    for name in LEDGER:
        points.wrap(Ledger, name, f"Ledger.{name}")
    event.listen(Engine, "commit", points.on_commit)
    for name in DRIVER:
        points.wrap(HaproxyDriver, name, f"HaproxyDriver.{name}")
    points.wrap(os, "fsync", "write_whole: before the file is put in place")
    points.wrap(haproxy, "write_server", "write_server")
    points.wrap(haproxy, "delete_server", "delete_server")
    say = HaproxyDriver._say

    def said(self: HaproxyDriver, command: str, name: str = "admin.sock") -> str:
        if command.startswith(("commit map", "reload")):
            points.reach(f"HAProxy: {command.partition('@')[0].strip()}")
        return say(self, command, name)

    HaproxyDriver._say = said  # type: ignore[method-assign]
    for name in ("register", "set_aliases", "tag"):
        points.wrap(crash_plain.FakeRegistry, name, f"Registry.{name}")
    points.wrap(telling, "create_markdown_artifact", "publish: artifact")
    points.wrap(telling, "emit_event", "publish: event")
    # How often a step is looked at is a matter of time, so that only the first look of each is a point.
    points.wrap(watching.Watch, "look", "Watch.look", once=True)


def prepare(order: Order) -> Points:
    """Make this process one that runs a flow of a case."""
    stage, state = Path(order.stage), Path(order.state)
    points = Points(order)
    settings = StageSettings(state_dir=state, data_url=order.url, ledger_url=order.ledger, stage=stage)
    run = crash_plain.FakeRun(lambda: str(os.getpid()))
    attributes = crash_plain.plain(run, lambda _: crash_plain.FakeRegistry(state / "registry.json"))
    attributes += crash_plain.in_settings(settings)
    attributes += [(database, "LEASE_S", order.lease_s), (lease, "_HEARTBEAT_S", order.lease_s / 6)]
    attributes += [(lease, "_RETRY_S", 0.05)]
    crash_plain.put(attributes)
    place_points(points)
    return points


def act(order: Order) -> str:
    """Run the flow; return the name of the state it ends in."""
    release = crash_plain.release(order.application, order.version, latency_ms=order.latency_ms)
    if order.flow == "rollout":
        ramp = RAMP.model_copy(update={"approval": order.approval})
        state = flows.rollout.rollout.fn(ReleaseSpec.model_validate(release.spec.model_dump()), ramp, SMOKE)
    elif order.flow == "rollback":
        state = flows.rollback.rollback.fn(order.application, "it got worse", release.digest, SMOKE)
    elif order.flow == "reconcile":
        state = flows.reconcile.reconcile.fn(order.application)
    else:
        action: Any = order.flow
        state = flows.decision.decision.fn(order.application, action, "a person", "I say so")
    return f"{state.name}: {state.message}"


def child(order: Order) -> None:
    """Run an order and leave its ending and its points behind."""
    state, code = Path(order.state), 0
    try:
        points = prepare(order)
        ending = act(order)
        points.save()
    except Exception as error:  # noqa: BLE001 - the case judges it
        ending, code = f"{type(error).__name__}: {error}", 1
        (state / "traceback.txt").write_text(traceback.format_exc())
    (state / f"ending-{os.getpid()}.txt").write_text(ending)
    os._exit(code)


def serve() -> None:
    """Fork a child for each order; say its number, and how it ended."""
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pid = os.fork()
        if not pid:
            os.close(0)
            child(order)
        print(json.dumps({"pid": pid}), flush=True)  # noqa: T201 - the answers of this process
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
