"""The stage of the crash tests: the real HAProxy, the real ledger, servers, users, and processes that run flows.

What is tried on it, and what must come of it, is in ``crash_kills.py``.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import crash_plain
import httpx
from crash_run import Order

from tasks.errors import ServingError
from tasks.monitors.verdict import Check, Verdict
from tasks.monitors.verdict import Outcome as CheckOutcome
from tasks.release.lifecycle import Event
from tasks.release.model import Release
from tasks.release.reconciling import NIGHTLY
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.config import map_name, map_rows
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.folder import locked
from tasks.traffic.plan import BUCKETS, Plan
from tasks.traffic.servers import Server, free_port, write_server, write_whole

HERE = Path(__file__).parent
RATE = 100.0
"""Requests of users a second on each stage, unless another rate is wanted."""
PATIENCE_S = 90.0


class Talking:
    """A process that answers a line with a line."""

    def __init__(self, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            env={**os.environ, **quiet, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lock = threading.Lock()

    def send(self, **words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.process.args} ended"
        return json.loads(line)

    def say(self, **words: Any) -> dict[str, Any]:
        with self.lock:
            self.send(**words)
            return self.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a case is about.

    Attributes:
        name: Its letter.
        proven: How many releases were promoted before, the last of them serves.
        order: What is run, with the version of the release in question.
        behaviour: Of that release: ``good``, ``mute``, ``shy`` or ``slow``.
        twice: What the second run may also end in where the first had all but ended.
        failed_night: Whether the release failed its last night, and nobody was told.
    """

    name: str
    proven: int
    flow: str
    version: int
    behaviour: str = "good"
    latency_ms: float = 60_000.0
    twice: tuple[str, ...] = ()
    failed_night: bool = False


PROMOTED = Scenario(name="a", proven=2, flow="rollout", version=3)
REJECTED = Scenario(
    name="b", proven=1, flow="rollout", version=2, behaviour="mute", twice=("QuarantineError: bot 2 is in quarantine",)
)
TAKEN_BACK = Scenario(
    name="c",
    proven=1,
    flow="rollout",
    version=2,
    behaviour="slow",
    latency_ms=100.0,
    twice=("QuarantineError: bot 2 is in quarantine",),
)
ROLLED_BACK = Scenario(name="d", proven=2, flow="rollback", version=2, twice=("NothingToDo: ",))
FAILED_NIGHT = Scenario(name="e", proven=2, flow="reconcile", version=2, twice=("NothingToDo: ",), failed_night=True)


@dataclass(frozen=True, kw_only=True)
class EndState:
    """All that is left of a case, without what differs between two cases: names, times and ids."""

    plans: tuple[tuple[tuple[str, int], ...], ...]
    in_effect: bool
    rollouts: tuple[tuple[str, str, str], ...]
    quarantine: tuple[str, ...]
    aliases: tuple[tuple[str, int], ...]
    running: tuple[str, ...]


@dataclass
class Case:
    """One application on the stage, and what happened to it."""

    stage: Stage
    application: str
    scenario: Scenario
    releases: dict[str, Release]
    endings: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.stage.folder / "cases" / self.application

    def order(self, **changes: Any) -> Order:
        plain = Order(
            stage=str(self.stage.folder),
            ledger=self.stage.ledger.url,
            state=str(self.folder),
            url=self.stage.driver.url,
            flow=self.scenario.flow,
            application=self.application,
            version=self.scenario.version,
            latency_ms=self.scenario.latency_ms,
        )
        return replace(plain, **changes)

    def run(self, **changes: Any) -> int:
        """Run the flow once in a process of its own and return its exit code."""
        with self.start(**changes) as run:
            return run.wait()

    @contextmanager
    def start(self, **changes: Any) -> Iterator[Run]:
        runner = self.stage.runners.get()
        try:
            runner.send(**asdict(self.order(**changes)))
            run = Run(self, runner, runner.read()["pid"])
            yield run
            run.wait()
        finally:
            self.stage.runners.put(runner)

    def points(self) -> list[str]:
        return json.loads((self.folder / "points.json").read_text())

    def name_of(self, digest: str) -> str:
        return f"v{self.releases[digest].spec.version}" if digest in self.releases else digest

    def look(self) -> None:
        """Put on record what the data path shows that it should not."""
        try:
            seen = self.stage.driver.observe(self.application)
        except ServingError:
            return  # it reloads
        # The wish of a release that is being retired may be gone before the map is looked up in it.
        known = {digest[:12] for digest in self.releases}
        if seen is None or len(seen) != BUCKETS or {digest[:12] for digest in seen} - known:
            self.strange.append(f"observed {None if seen is None else (len(seen), set(seen))}")

    def shares(self, plan: Plan) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((self.name_of(digest), count) for digest, count in plan.counts().items()))

    def end_state(self) -> EndState:
        ledger, driver = self.stage.ledger, self.stage.driver
        plans = ledger.plans(self.application)
        assert [plan.revision for plan in plans] == list(range(len(plans), 0, -1))
        return EndState(
            plans=tuple(self.shares(plan) for plan in reversed(plans)),
            in_effect=driver.observe(self.application) == plans[0].buckets,
            rollouts=tuple(
                (self.name_of(r.release_digest), r.state.value, self.name_of(r.stable_digest))
                for r in reversed(ledger.rollouts(self.application))
            ),
            quarantine=tuple(sorted(self.name_of(d) for d in self.releases if ledger.quarantined(self.application, d))),
            aliases=tuple(sorted(crash_plain.FakeRegistry(self.folder / "registry.json").read()["aliases"].items())),
            running=tuple(sorted(map(self.name_of, driver.running(self.application)))),
        )


def failed_night(release: Release) -> Verdict:
    """Return the verdict of a night that a release failed."""
    check = Check(monitor="quality", outcome=CheckOutcome.FAIL, statement="it got worse", value=0.1, limit=0.7, n=500)
    end = datetime.now(UTC)
    return Verdict(
        application=release.application,
        release_digest=release.digest,
        window_start=end - timedelta(days=1),
        window_end=end,
        checks=(check,),
    )


@dataclass
class Run:
    """A flow that runs in a process."""

    case: Case
    runner: Talking
    pid: int
    code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = self.runner.read()["code"]
            path = self.case.folder / f"ending-{self.pid}.txt"
            self.case.endings.append(path.read_text() if path.exists() else f"exit code {self.code}")
        return self.code


class Stage:
    """One HAProxy, one ledger, one world around them; every case is an application of its own.

    Args:
        folder: Of everything.
        runners: How many flows run at once.
        rate: Requests of users a second.
        ledger_url: Of an empty database; None: SQLite in the folder.

    Attributes:
        script: What the processes run that run flows.
        env: What their environment, and that of the world, has besides.
    """

    script = "crash_run.py"
    env: Mapping[str, str] = MappingProxyType({})

    def __init__(self, folder: Path, runners: int = 1, *, rate: float = RATE, ledger_url: str | None = None) -> None:
        self.folder = folder
        self.driver = HaproxyDriver(folder / "haproxy", folder / "servers", f"http://127.0.0.1:{free_port()}")
        self.ledger = Ledger(ledger_url or Settings(state_dir=folder).ledger)
        self.runners: queue.Queue[Talking] = queue.Queue()
        for name in ("servers", "releases", "haproxy", "cases"):
            (folder / name).mkdir(parents=True)
        made = [Talking(self.script, env=self.env) for _ in range(runners)]
        words = (str(folder), self.driver.url.rpartition(":")[2], str(rate))
        self.processes = [*made, Talking("crash_world.py", *words, env=self.env)]
        self.world = self.processes[-1]
        for runner in made:
            self.runners.put(runner)
        self.world.read()
        self.haproxy = self._start_haproxy()

    def _start_haproxy(self) -> subprocess.Popen[bytes]:
        self.command = self.driver.prepare()
        return self.start_again()

    def start_again(self) -> subprocess.Popen[bytes]:
        """Start HAProxy by the command it was started with first, as the supervisor does, and wait for it."""
        with (self.folder / "haproxy.log").open("ab") as log:
            process = subprocess.Popen(self.command, cwd=self.driver.folder, stderr=log)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.driver.url}/health", trust_env=False).is_success:
                    return process
            time.sleep(0.05)
        raise AssertionError("HAProxy did not start")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.close()
        self.haproxy.terminate()
        self.haproxy.wait(timeout=20)
        self.ledger.close()

    def cast(self, scenarios: dict[str, Scenario]) -> list[Case]:
        """Put applications on the stage, each as its scenario begins, with one reload for all of them."""
        cases = [self._cast(scenario, name) for name, scenario in scenarios.items()]
        with locked(self.driver.folder):
            self.driver._reload()
        self._await_up(cases)
        return cases

    def _cast(self, scenario: Scenario, application: str) -> Case:
        last = max(scenario.proven, scenario.version)
        releases = []
        for version in range(1, last + 1):
            mine = version == scenario.version
            monitors = {"latency_ms": scenario.latency_ms} if mine else {}
            made = crash_plain.release(application, version, **monitors)
            known = {"release": made.model_dump(mode="json"), "behaviour": scenario.behaviour if mine else "good"}
            (self.folder / "releases" / f"{made.short}.json").write_text(json.dumps(known))
            releases.append(made)
        case = Case(self, application, scenario, {made.digest: made for made in releases})
        case.folder.mkdir()
        registry = crash_plain.FakeRegistry(case.folder / "registry.json")
        for version, made in enumerate(releases[: scenario.proven], start=1):
            self._promote(made, version)
            registry.set_aliases(application, {"champion": version, "previous": version - 1 or None})
        if scenario.failed_night:
            self.ledger.record_verdict(failed_night(releases[scenario.version - 1]), kind=NIGHTLY)
        return case

    def _promote(self, made: Release, revision: int) -> None:
        ledger, now, application = self.ledger, datetime.now(UTC), made.application
        lease = ledger.acquire(application, "stage", now)
        ledger.remember(made)
        rollout = ledger.begin_rollout(lease, made.digest, "before", now)
        for happened in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT, Event.PROMOTE):
            ledger.advance(lease, rollout.rollout_id, happened, "before", now)
        plan = Plan(
            application=application,
            revision=revision,
            salt=application,
            buckets=(made.digest,) * BUCKETS,
            author="stage",
            reason="before",
            time=now,
        )
        ledger.write_plan(plan, lease)
        ledger.release_lease(lease)
        write_whole(self.driver.folder / map_name(application), "\n".join(map_rows(plan)) + "\n")
        with locked(self.driver.folder):
            server = Server(application=application, registry_version=revision, digest=made.digest, port=free_port())
            write_server(self.driver.servers, server)

    def _await_up(self, cases: list[Case]) -> None:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                if all(self.driver.ask(case.application, "u", "?", 5).status == 200 for case in cases):
                    return
            except ServingError:
                pass
            time.sleep(0.1)
        raise AssertionError("the servers of the cases do not answer")

    def drop(self, case: Case) -> None:
        """Take a case off the stage, so that HAProxy has less to load from the next reload on."""
        with locked(self.driver.folder):
            (self.driver.folder / map_name(case.application)).unlink()
            for digest in self.driver.running(case.application):
                (self.driver.servers / f"{digest[:12]}.json").unlink()
            self.driver._write_config()  # or the flow of the next case would write it, which one alone does not

    @contextmanager
    def users_of(self, case: Case) -> Iterator[None]:
        """Have users ask, and somebody look at the running map, until the block ends."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.25):
                case.look()

        self.world.say(ask=case.application)
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            case.look()
            self.world.say(rest=case.application)

    def seen_by_users(self, case: Case) -> dict[str, Any]:
        return self.world.say(report=case.application)
