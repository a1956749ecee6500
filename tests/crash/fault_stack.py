"""The same faults on the whole stack: Prefect server, MLflow, worker, HAProxy and release servers, all real.

Everything lies on a small disk of its own and runs under a clock that can be set back. One trial is a rollout of the
demo's second release, then its rollback after a failed night, with a fault while one of the two is at a certain stage.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
from fault_kinds import build_clock, fill, small_disk
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.stack.services import Layout, choose_ports
from deployments.stack.stack import running_stack
from deployments.stack.sweep import marked
from tasks.monitors.verdict import Check, Verdict
from tasks.monitors.verdict import Outcome as CheckOutcome
from tasks.release.lifecycle import State
from tasks.release.model import read_release_file
from tasks.release.reconciling import NIGHTLY
from tasks.settings import settings
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.haproxy.driver import HaproxyDriver

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "faq"
DISK_BYTES = 512 * 2**20
ASKERS, RATE = 4, 20.0
OUTAGE_S, BACK_S, PATIENCE_S, QUIET_S = 4.0, 40, 240.0, 3.0
RAMP = {"percents": [20, 100], "min_requests": 20, "min_users": 5, "look_s": 0.5, "settle_s": 0.5, "max_step_s": 120}
RAMP |= {"noninferiority": False, "scores": False}


@dataclass
class Asked:
    """What users of the data path saw.

    Attributes:
        seen: Time on the monotonic clock, status (0: no answer), release and name on the log of each call.
    """

    url: str
    seen: list[tuple[float, int, str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        body = {"messages": [{"role": "user", "content": "How do I reset my password?"}]}
        turn, due = 0, time.monotonic()
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self.stop.is_set():
                due, turn = due + ASKERS / RATE, turn + 1
                time.sleep(max(0.0, due - time.monotonic()))
                headers = {"X-User-Id": f"u{number}-{turn % 40}"}
                try:
                    said = client.post(f"{self.url}/{APPLICATION}/v1/chat/completions", json=body, headers=headers)
                    found = (said.status_code, said.headers.get("X-Release", ""), said.headers.get("X-Request-Id", ""))
                except httpx.HTTPError:
                    found = (0, "", "")
                self.seen.append((time.monotonic(), *found))

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(ASKERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


class StackUnderFaults:
    """A running stack, and what can be done to it.

    Args:
        layout: Of the stack.
        disk: Where its small disk is mounted; None where it has none.
        clock: The file that sets its clock back; None where that cannot be done.
    """

    def __init__(self, layout: Layout, disk: Path | None, clock: Path | None) -> None:
        self.layout, self.disk, self.clock = layout, disk, clock
        self.ledger = Ledger(settings().ledger)
        self.driver = HaproxyDriver(layout.state / "haproxy", layout.state / "servers", layout.data_url)
        self.registry = Registry(layout.mlflow_url)
        self.digests: dict[str, str] = {}
        self.kinds: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "Prefect server killed": (lambda: self.kill("prefect", "server"), lambda: None),
            "MLflow down": (lambda: self.kill("mlflow", "server"), lambda: None),
            "MLflow hangs": (lambda: self._signal(signal.SIGSTOP), lambda: self._signal(signal.SIGCONT)),
            "HAProxy killed": (lambda: self.kill("haproxy.cfg"), lambda: None),
            "runner killed": (self.kill_runs, lambda: None),
            "ledger locked": (self._lock, self._unlock),
            "target dead": (self.kill_target, lambda: None),
        }
        if disk is not None:
            ballast = disk / "ballast"
            self.kinds["disk full"] = (lambda: fill(ballast), ballast.unlink)
        if clock is not None:
            self.kinds["clock set back"] = (lambda: self.set_back(BACK_S), lambda: None)
        self.target, self.back = "", timedelta()

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return the processes of the stack whose command has all of these words in it."""
        found = []
        for process in marked(self.layout.mark):
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if all(word in command for word in words):
                    found.append(process)
        return found

    def kill(self, *words: str) -> None:
        """Kill processes with all they started."""
        for process in self.processes(*words):
            with suppress(psutil.Error):
                for one in (process, *process.children(recursive=True)):
                    one.kill()

    def runs(self) -> list[psutil.Process]:
        """Return the processes that run a flow at the moment."""
        found = []
        for nursery in self.processes("deployments.stack.nursery"):
            with suppress(psutil.Error):
                found += [one for one in nursery.children() if one.status() != psutil.STATUS_ZOMBIE]
        return [*found, *self.processes("prefect.engine")]

    def kill_runs(self) -> None:
        for run in self.runs():
            with suppress(psutil.Error):
                run.kill()

    def kill_target(self) -> None:
        """Kill the server of the release that shall get users."""
        server = self.driver._find(self.target)
        if server is not None:
            self.kill("tasks.serving", f"--port {server.port}")

    def set_back(self, seconds: int) -> None:
        assert self.clock is not None
        part = self.clock.with_suffix(".part")
        part.write_text(str(seconds))
        part.replace(self.clock)
        self.back = timedelta(seconds=seconds)

    def _signal(self, number: int) -> None:
        for process in self.processes("mlflow", "server"):
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    one.send_signal(number)

    def _lock(self) -> None:
        path = self.ledger.url.removeprefix("sqlite:///")
        self.holder = sqlite3.connect(path, isolation_level=None, timeout=20, check_same_thread=False)
        self.holder.execute("BEGIN EXCLUSIVE")

    def _unlock(self) -> None:
        self.holder.rollback()
        self.holder.close()

    # --- what people and automations do ---

    def start(self, deployment: str, **parameters: Any) -> None:
        """Kick a flow run off, as the form and the automations do; wait for Prefect where it is away."""
        from prefect.deployments import run_deployment

        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False)
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
            else:
                return

    def roll_out(self, version: str) -> None:
        spec = read_release_file(ROOT / "deployments" / "demo" / "releases" / f"v{version}.yaml")
        words = {"ramp": RAMP if version == "2" else {"enabled": False}, "override_reason": "tried again"}
        self.start("rollout/rollout", release=spec.model_dump(mode="json", exclude_none=True), **words)

    def fail_night(self) -> None:
        """Put a failed night of the second release on record."""
        statement = "quality 0.31 < 0.7"
        check = Check(monitor="quality", outcome=CheckOutcome.FAIL, statement=statement, value=0.31, limit=0.7, n=900)
        end = datetime.now(UTC) - self.back
        verdict = Verdict(
            application=APPLICATION,
            release_digest=self.digests["2"],
            window_start=end - timedelta(days=1),
            window_end=end,
            checks=(check,),
        )
        self.ledger.record_verdict(verdict, kind=NIGHTLY)

    def roll_back(self) -> None:
        self.start("rollback/rollback", application=APPLICATION, reason="it got worse", release=self.digests["2"])

    # --- what is to be seen ---

    def latest(self) -> State | None:
        rollouts = self.ledger.rollouts(APPLICATION)
        return rollouts[0].state if rollouts else None

    def alone(self) -> str:
        """Return the digest of the release that has every user, empty where several share them."""
        plan = self.ledger.plan(APPLICATION)
        return plan.buckets[0] if plan is not None and len(plan.counts()) == 1 else ""

    def is_quiet(self) -> bool:
        return not self.runs()

    def await_quiet(self, patience_s: float = 120.0) -> None:
        """Wait until no flow has run for a while."""
        since, until = time.monotonic(), time.monotonic() + patience_s
        while time.monotonic() < until and time.monotonic() - since < QUIET_S:
            if self.runs():
                since = time.monotonic()
            time.sleep(0.1)

    def await_that(self, what: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        """Wait until something is so; return whether it became so."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            with suppress(Exception):  # the ledger is locked, or the disk full: not yet
                if what():
                    return True
            time.sleep(0.02)
        return False

    def logged(self) -> set[str]:
        names = set[str]()
        for path in (settings().log_dir / APPLICATION).rglob("*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    names.add(json.loads(line)["interaction_id"])
        return names


@contextmanager
def stack_under_faults(folder: Path, say: Callable[[str], None]) -> Iterator[StackUnderFaults]:
    """Have a stack with the demo's first release in force, until the block ends."""
    library, clock = build_clock(), folder / "clock"
    folder.mkdir(parents=True, exist_ok=True)
    clock.write_text("0")
    with small_disk(folder / "disk", DISK_BYTES) as disk:
        if library is not None:  # for what the supervisor starts, and starts again
            os.environ |= {"LD_PRELOAD": str(library), "DELIVERY_CLOCK": str(clock)}
        with running_stack(folder / "disk" / "s", choose_ports(fixed=False), say) as layout:
            os.environ.update(layout.variables())
            with temporary_settings({PREFECT_API_URL: layout.variables()["PREFECT_API_URL"]}):
                yield _with_releases(StackUnderFaults(layout, disk, clock if library is not None else None))


def _with_releases(stack: StackUnderFaults) -> StackUnderFaults:
    from deployments.demo.bot import register_models

    register_models(stack.registry)
    for version in ("1", "2"):
        spec = read_release_file(ROOT / "deployments" / "demo" / "releases" / f"v{version}.yaml")
        stack.digests[version] = stack.registry.register(spec)[0].digest
    stack.roll_out("1")
    assert stack.await_that(lambda: stack.latest() is State.PROMOTED), stack.latest()
    stack.await_quiet()
    return stack
