"""Several flows on one application, one step at a time in an order that a seed decides.

The flows and the ledger are the real ones; each flow has a thread, and only one runs. Before every call of the ledger
and of the data path the thread hands over, and the schedule says who goes on. It may also pause somebody until
somebody else has made several steps, and let the time pass in which a lease runs out, or kill somebody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import crash_plain
from sqlalchemy import select

import flows.decision
import flows.rollback
import flows.rollout
from tasks.errors import ConflictError, NotFoundError, ServingError
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release import acting, lease, rollback_steps, rollout_steps, watching
from tasks.release.analysis.judge import Ground
from tasks.release.lifecycle import Event
from tasks.release.model import Autoscaling, Release
from tasks.release.ramp import RampPolicy
from tasks.settings import Settings
from tasks.smoke.suite import SmokeSuite
from tasks.stores.ledger import Ledger, schema
from tasks.traffic.driver import Answer, Routed
from tasks.traffic.plan import BUCKETS, Plan

PATIENCE_S = 60.0
RAMP = RampPolicy(percents=(20, 60, 100), look_s=1, max_step_s=100)
SMOKE = SmokeSuite()
SETTINGS = Settings()
READS = ("plan", "rollouts", "quarantined", "lease_expiry", "decisions")
WRITES = (
    *("acquire", "renew", "release_lease", "remember", "begin_rollout", "advance", "fail", "write_plan"),
    *("record_verdict", "lift_quarantine", "record_decision"),
)


class KilledError(BaseException):
    """The flow is dead: nothing it still does has an effect."""


@dataclass
class Actor:
    """A flow in a thread."""

    name: str
    act: Callable[[], Any]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    paused: int = 0
    killed: bool = False
    done: bool = False
    ending: str = ""
    trace: list[str] = field(default_factory=list)


class Schedule:
    """Who goes on, and when; also the clock.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.time = Random(seed), datetime(2026, 3, 1, tzinfo=UTC)
        self.actors: list[Actor] = []
        self.back = threading.Semaphore(0)
        self.pauses, self.kills = self.random.choice([0, 0, 1, 2, 3]), self.random.choice([0, 0, 0, 1])
        self.steps = 0
        self.log: list[str] = []
        self.each_step: Callable[[], list[str]] = list
        self.seen: list[str] = []

    def me(self) -> Actor | None:
        name = threading.current_thread().name
        return next((actor for actor in self.actors if actor.name == name and not actor.done), None)

    def step(self, label: str) -> None:
        """Hand over; called by whoever is about to do something."""
        actor = self.me()
        if actor is None:
            return  # nobody's: the test itself looks
        if actor.killed:
            raise KilledError
        actor.trace.append(label)
        self.log.append(f"{actor.name}: {label}")
        self.back.release()
        assert actor.turn.acquire(timeout=PATIENCE_S)
        if actor.killed:
            raise KilledError

    def now(self, _zone: Any = None) -> datetime:
        self.time += timedelta(milliseconds=10)
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.step("sleep")

    def start(self, name: str, act: Callable[[], Any]) -> Actor:
        actor = Actor(name, act)
        self.actors.append(actor)
        threading.Thread(target=self._run, args=(actor,), name=name, daemon=True).start()
        return actor

    def _run(self, actor: Actor) -> None:
        assert actor.turn.acquire(timeout=PATIENCE_S)
        try:
            if not actor.killed:
                state = actor.act()
                actor.ending = f"{state.name}: {state.message}"
        except KilledError:
            actor.ending = "killed"
        except Exception as error:  # noqa: BLE001 - the test judges it
            actor.ending = f"{type(error).__name__}: {error}"
        actor.done = True
        self.back.release()

    def go_on(self, actor: Actor) -> None:
        """Let one flow make its next step."""
        self.steps += 1
        actor.turn.release()
        assert self.back.acquire(timeout=PATIENCE_S), self.log[-20:]
        if self.steps % 12 == 0 and not self.seen:
            self.seen = self.each_step()

    def settle(self, act: Callable[[], Any]) -> None:
        """Let a person end what is left, undisturbed, a minute after everybody else has ended."""
        self.pauses = self.kills = 0
        self.time += timedelta(seconds=60)
        self.start("person", act)
        self.run()

    def run(self) -> None:
        """Let all flows run to their ends."""
        while living := [actor for actor in self.actors if not actor.done]:
            assert self.steps < 5000, self.log[-40:]
            ready = [actor for actor in living if not actor.paused] or living
            chosen = self.random.choice(ready)
            for actor in living:
                actor.paused = max(0, actor.paused - 1)
            self._disturb(chosen)
            if not chosen.paused:
                for _ in range(self.random.choice([1, 1, 2, 5, 12])):
                    if not chosen.done:
                        self.go_on(chosen)

    def _disturb(self, chosen: Actor) -> None:
        if not chosen.trace or self.random.random() > 0.1:
            return
        if self.kills:
            self.kills -= 1
            chosen.killed = True
            self.log.append(f"{chosen.name} is killed")
        elif self.pauses:
            self.pauses -= 1
            chosen.paused = self.random.choice([5, 20, 60])
            if self.random.random() < 0.7:
                self.time += timedelta(seconds=40)  # its lease runs out meanwhile
            self.log.append(f"{chosen.name} is paused for {chosen.paused}")


class ModelPath:
    """A data path in memory that fences revisions as HAProxy's driver does."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.in_effect, self.servers = schedule, dict[str, Plan](), dict[str, str]()
        self.mute: set[str] = set()
        self.acts: list[tuple[str, str]] = []

    def state(self) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        return {name: plan.buckets for name, plan in self.in_effect.items()}, dict(self.servers)

    def ensure(self, release: Release) -> None:
        self.schedule.step("ensure")
        self.servers[release.digest] = release.application

    def scale(self, release: Release, spec: Autoscaling) -> None:
        pass

    def probe(self, release: Release, question: str, timeout_s: float) -> Answer:
        del question, timeout_s
        if release.digest not in self.servers:
            raise ServingError(f"release {release.short} has no server; deploy it first")
        return self._answer(release.digest, release.prompt.sha256)

    def _answer(self, digest: str, sha256: str) -> Answer:
        text = "" if digest in self.mute else "Paris"
        return Answer(status=200, release_digest=digest, prompt_sha256=sha256, text=text, latency_ms=1.0)

    def apply(self, plan: Plan) -> None:
        self.schedule.step(f"apply {plan.revision}")
        now = self.in_effect.get(plan.application)
        if now is not None and now.revision > plan.revision:
            raise ConflictError(f"revision {now.revision} is in effect, {plan.revision} came too late")
        missing = [digest for digest in plan.counts() if digest not in self.servers]
        if missing:
            raise ServingError(f"release {missing[0][:12]} has no server; deploy it first")
        self.in_effect[plan.application] = plan
        self.schedule.step(f"applied {plan.revision}")

    def observe(self, application: str) -> tuple[str, ...] | None:
        self.schedule.step("observe")
        plan = self.in_effect.get(application)
        return plan.buckets if plan else None

    def ask(self, application: str, unit: str, question: str, timeout_s: float) -> Answer:
        del question, timeout_s
        if unit == "verify-0":
            self.schedule.step("ask")
        return self._answer(self.in_effect[application].release_of(unit), "")

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        pass

    def routed(self, digest: str) -> Routed:
        del digest
        return Routed(requests=100, failed=0, unanswered=0, waiting=0, is_up=True)

    def running(self, application: str) -> tuple[str, ...]:
        return tuple(digest for digest, of in self.servers.items() if of == application)

    def retire(self, application: str, digest: str) -> None:
        self.schedule.step(f"retire {digest[:4]}")
        plan = self.in_effect.get(application)
        if plan is not None and digest in plan.counts():
            raise ServingError(f"release {digest[:12]} still has traffic; move it away before retiring it")
        self.servers.pop(digest, None)


class Clockwork:
    """Stands for the modules ``time`` and ``threading`` and the class ``datetime``: time is the schedule's."""

    def __init__(self, schedule: Schedule) -> None:
        self.now, self.sleep = schedule.now, schedule.sleep
        start = schedule.time
        self.monotonic = lambda: (schedule.time - start).total_seconds() / 1000  # patience does not end


@dataclass
class Model:
    """One application under one schedule, with two proven releases, the second in force.

    Attributes:
        fails: Releases (versions) whose ramp fails at some look.
    """

    schedule: Schedule
    path: ModelPath
    ledger: Ledger
    application: str
    registry: crash_plain.MemoryRegistry
    fails: set[str] = field(default_factory=set)
    releases: dict[int, Release] = field(default_factory=dict)

    def rollout(self, version: int, override: str = "") -> Callable[[], Any]:
        spec = self.releases[version].spec
        return lambda: flows.rollout.rollout.fn(spec, RAMP, SMOKE, override)

    def rollback(self, version: int | None = None) -> Callable[[], Any]:
        name = self.releases[version].digest if version else None
        return lambda: flows.rollback.rollback.fn(self.application, "it got worse", name, SMOKE)

    def abort(self) -> Callable[[], Any]:
        return lambda: flows.decision.decision.fn(self.application, "abort", "a person", "no")

    def judge(self, release: Release) -> tuple[Verdict, Ground]:
        roll = self.schedule.random.random()
        bad = release.spec.version in self.fails and roll < 0.5
        outcome = Outcome.FAIL if bad else Outcome.PASS if roll < 0.8 else Outcome.INCONCLUSIVE
        check = Check(monitor="errors", outcome=outcome, statement="judged", value=None, limit=None, n=1)
        at = self.schedule.now()
        verdict = Verdict(
            application=self.application,
            release_digest=release.digest,
            window_start=at,
            window_end=at,
            checks=(check,),
        )
        return verdict, Ground.LIMITS

    def tables(self) -> dict[str, list[Any]]:
        """Return the rows that say who gets what and how every rollout stands."""
        with self.ledger._read() as db:
            mine = [rollout.rollout_id for rollout in Ledger.rollouts(self.ledger, self.application)]
            found = {
                table.name: [
                    tuple(row) for row in db.execute(select(table).where(table.c.application == self.application))
                ]
                for table in (schema.plans, schema.leases, schema.rollouts, schema.quarantine)
            }
            events = select(schema.rollout_events).where(schema.rollout_events.c.rollout_id.in_(mine))
            found["events"] = [tuple(row) for row in db.execute(events.order_by(schema.rollout_events.c.number))]
        return found

    def lease(self) -> int:
        """Return the token of the last lease."""
        return max((row[2] for row in self.tables()["leases"]), default=0)

    def is_known(self, version: int) -> bool:
        """Return whether a release was ever rolled out."""
        with suppress(NotFoundError):
            return bool(self.ledger.recall(self.application, self.releases[version].digest))
        return False

    def promoted_after_failure(self) -> list[str]:
        """Return the rollouts that failed, or were aborted, and were promoted afterwards."""
        failed, found = set[str](), list[str]()
        for _, rollout_id, happened, *_ in self.tables()["events"]:
            if happened == Event.FAIL:
                failed.add(rollout_id)
            elif happened == Event.PROMOTE and rollout_id in failed:
                found.append(f"rollout {rollout_id} was promoted after it had failed")
        return found

    def problems(self) -> list[str]:
        """Return what is not as the design promises, at any moment."""
        ledger, name = self.ledger, self.application
        plans, rollouts = ledger.plans(name), ledger.rollouts(name)
        found = self.promoted_after_failure()
        if [plan.revision for plan in plans] != list(range(len(plans), 0, -1)):
            found.append(f"revisions {[plan.revision for plan in plans]}")
        # A rollback of the champion undoes it and whatever rollout it met, side by side.
        unfinished = [rollout for rollout in rollouts if not rollout.is_finished and not rollout.is_undoing]
        if len(unfinished) > 1:
            found.append(f"{len(unfinished)} unfinished rollouts")
        known = {release.digest for release in self.releases.values()}
        if set(self.path.in_effect[name].buckets) - known:
            found.append("a bucket of nobody")
        if any(digest not in self.path.servers for digest in self.path.in_effect[name].counts()):
            found.append("a release with users has no server")
        return found

    def problems_when_quiet(self) -> list[str]:
        """Return what is not as it must be once nobody works and what died was taken up."""
        newest = self.ledger.plan(self.application)
        assert newest is not None
        found = self.problems()
        found += [f"a rollout is {r.state}" for r in self.ledger.rollouts(self.application) if not r.is_finished]
        if self.path.in_effect[self.application].buckets != newest.buckets:
            found.append(f"revision {newest.revision} is on record and not in effect")
        for release in self.releases.values():
            if self.ledger.quarantined(self.application, release.digest) and release.digest in newest.counts():
                found.append(f"{release.label} is in quarantine and has users")
        return found


def attributes(model: Model) -> list[crash_plain.Attribute]:
    """Return what must be replaced so that flows run under the model's schedule."""
    schedule, path = model.schedule, model.path
    clock = Clockwork(schedule)

    def run_name() -> str:
        return threading.current_thread().name

    run = crash_plain.FakeRun(run_name)
    found = crash_plain.plain(run, lambda _: model.registry)
    found += crash_plain.in_settings(SETTINGS)
    used = {"Ledger": lambda _: model.ledger, "driver": lambda _: path, "now": schedule.now}
    for module in crash_plain.STEPS:
        found += [(module, name, value) for name, value in used.items() if hasattr(module, name)]
    found += [(watching, "Ledger", lambda _: model.ledger), (watching, "time", clock)]
    found += [(watching.Watch, "look", lambda watch, *_: model.judge(watch.release))]
    found += [(lease, "time", clock), (lease, "datetime", clock), (lease, "_heartbeat", lambda *_: None)]
    found += [(acting, "run_smoke", _run_smoke), (rollout_steps, "run_smoke", _run_smoke)]
    found += [(rollback_steps, "run_smoke", _run_smoke)]
    return found


def _run_smoke(path: ModelPath, release: Release, *_: Any, **__: Any) -> Verdict:
    """Ask once: how answers are judged is not what is tried out here."""
    path.schedule.step("smoke")
    answers = release.digest in path.servers and release.digest not in path.mute
    outcome, at = (Outcome.PASS if answers else Outcome.FAIL), path.schedule.now()
    check = Check(monitor="smoke", outcome=outcome, statement="asked", value=None, limit=None, n=1)
    return Verdict(
        application=release.application, release_digest=release.digest, window_start=at, window_end=at, checks=(check,)
    )


class SteppingLedger(Ledger):
    """The real ledger; before each call the schedule may let somebody else go on."""

    schedule: Schedule

    @classmethod
    def under(cls, schedule: Schedule, folder: Path) -> SteppingLedger:
        made = cls(Settings(state_dir=folder).ledger)
        object.__setattr__(made, "schedule", schedule)
        return made


def _stepping(name: str) -> Callable[..., Any]:
    def call(self: SteppingLedger, *args: Any, **kwargs: Any) -> Any:
        self.schedule.step(name)
        return getattr(Ledger, name)(self, *args, **kwargs)

    return call


for _name in (*READS, *WRITES):
    setattr(SteppingLedger, _name, _stepping(_name))


def build(seed: int, folder: Path) -> Model:
    """Return a model with four releases, of which nothing is known yet."""
    schedule = Schedule(seed)
    ledger, path = SteppingLedger.under(schedule, folder), ModelPath(schedule)
    name = f"app-{seed}"
    model = Model(schedule, path, ledger, name, crash_plain.MemoryRegistry())
    model.releases = {version: crash_plain.release(name, version) for version in (1, 2, 3, 4)}
    return model


@contextmanager
def modelled(seed: int, folder: Path) -> Iterator[Model]:
    """Yield a model with releases 1 and 2 promoted, the second in force; flows run under it until the block ends."""
    model = build(seed, folder)
    replaced = attributes(model)
    before = [(target, name, getattr(target, name)) for target, name, _ in replaced]
    crash_plain.put(replaced)
    try:
        for version in (1, 2):
            _promote(model, version)
        yield model
    finally:
        crash_plain.put(before)
        model.ledger.close()


def _promote(model: Model, version: int) -> None:
    ledger, name, release, at = model.ledger, model.application, model.releases[version], model.schedule.now()
    held = ledger.acquire(name, "before", at)
    ledger.remember(release)
    begun = ledger.begin_rollout(held, release.digest, "before", at)
    for happened in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT):
        ledger.advance(held, begun.rollout_id, happened, "before", at)
    plan = Plan(
        application=name,
        revision=version,
        salt=name,
        buckets=(release.digest,) * BUCKETS,
        author="before",
        reason="before",
        time=at,
    )
    ledger.write_plan(plan, held)
    ledger.advance(held, begun.rollout_id, Event.PROMOTE, "before", at)
    ledger.release_lease(held)
    model.path.servers[release.digest] = name
    model.path.apply(plan)
