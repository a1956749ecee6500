"""Does a driver keep what a rollout relies on? Ask it, with two real releases, on a data path that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tasks.errors import ConflictError, ServingError, UnsupportedError
from tasks.release.model import Release
from tasks.traffic.driver import Driver
from tasks.traffic.plan import BUCKETS, Plan, reassign

_OK = 200
_USERS = 20
_TIMEOUT_S = 30.0
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a driver does not do.

    Attributes:
        method: Of the driver.
        statement: What was seen.
        breaks: A rollout goes wrong with it; else it is a guarantee less, which the driver's documentation must say.
    """

    method: str
    statement: str
    breaks: bool = True


def check_driver(driver: Driver, releases: tuple[Release, Release], now: datetime, revision: int = 1) -> list[Finding]:
    """Take two releases through what a rollout does to a driver, and say what it does not keep.

    Afterwards the second release serves every user, and the first is retired.

    Args:
        driver: Whose data path nobody uses.
        releases: Two releases of one application that can be served.
        now: The time, UTC.
        revision: Of the first plan; later than what is in effect.

    Returns:
        Nothing where the driver is as good as the reference.
    """
    run = _Run(driver, *releases, now, revision)
    shares = (run.ensure, run.apply, run.share, run.fence, run.serve_only_known)
    steps = (*shares, run.count, run.scale, run.stand_by, run.retire)
    findings: list[Finding] = []
    for step in steps:
        try:
            findings.extend(step())
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is a finding, and the last one
            return [*findings, Finding(step.__name__, f"raised {type(error).__name__}: {error}")]
    return findings


@dataclass(slots=True)
class _Run:
    driver: Driver
    first: Release
    second: Release
    now: datetime
    revision: int

    @property
    def application(self) -> str:
        return self.first.application

    def plan(self, buckets: tuple[str, ...], revision: int) -> Plan:
        return Plan(
            application=self.application,
            revision=revision,
            salt=self.application,
            buckets=buckets,
            author="conformance",
            reason="a check of the driver",
            time=self.now,
        )

    @property
    def all_first(self) -> tuple[str, ...]:
        return (self.first.digest,) * BUCKETS

    @property
    def shared(self) -> tuple[str, ...]:
        wanted = {self.first.digest: BUCKETS * 7 // 10, self.second.digest: BUCKETS * 3 // 10}
        return reassign(self.all_first, wanted, self.application)

    def ensure(self) -> Iterator[Finding]:
        for release in (self.first, self.second, self.first):
            self.driver.ensure(release)
        missing = {self.first.digest, self.second.digest} - set(self.driver.running(self.application))
        if missing:
            yield Finding("running", f"does not name what was ensured: {', '.join(sorted(missing))}")
        for release in (self.first, self.second):
            answer = self.driver.probe(release, "Who answers?", _TIMEOUT_S)
            if (answer.status, answer.release_digest) != (_OK, release.digest):
                yield Finding(
                    "probe", f"{release.short}: status {answer.status} from {answer.release_digest[:12] or 'nobody'}"
                )

    def apply(self) -> Iterator[Finding]:
        for _ in range(2):
            self.driver.apply(self.plan(self.all_first, self.revision))
        if self.driver.observe(self.application) != self.all_first:
            yield Finding("observe", "does not return the plan that was applied")
        yield from self._answers({self.first.digest})

    def share(self) -> Iterator[Finding]:
        plan = self.plan(self.shared, self.revision + 1)
        self.driver.apply(plan)
        if self.driver.observe(self.application) != self.shared:
            yield Finding("observe", "does not return the plan that shares the users")
        yield from self._answers({self.first.digest, self.second.digest})
        units = [f"user-{number}" for number in range(_USERS)]
        heard = {unit: self.driver.ask(self.application, unit, "Who?", _TIMEOUT_S).release_digest for unit in units}
        moved = sum(1 for unit in units if heard[unit] != plan.release_of(unit))
        if moved:
            yield Finding(
                "ask",
                f"{moved} of {_USERS} users were not answered by the release of their bucket: not sticky",
                breaks=False,
            )

    def fence(self) -> Iterator[Finding]:
        try:
            self.driver.apply(self.plan(self.all_first, self.revision))
        except ConflictError:
            pass
        else:
            yield Finding("apply", f"took revision {self.revision} after revision {self.revision + 1}")
        if self.driver.observe(self.application) != self.shared:
            yield Finding("apply", "an older revision changed who gets what")

    def serve_only_known(self) -> Iterator[Finding]:
        buckets = (*self.shared[:-10], *(_NOBODY,) * 10)
        try:
            self.driver.apply(self.plan(buckets, self.revision + 2))
        except ServingError:
            pass
        else:
            yield Finding("apply", "gave users to a release that nobody ensured")
        if self.driver.observe(self.application) != self.shared:
            yield Finding("apply", "changed who gets what, although it refused the plan")

    def count(self) -> Iterator[Finding]:
        try:
            before = self.driver.routed(self.first.digest)
            self.driver.apply(self.plan(self.all_first, self.revision + 3))
            for number in range(3):
                self.driver.ask(self.application, f"user-{number}", "Who?", _TIMEOUT_S)
            seen = self.driver.routed(self.first.digest).since(before)
        except UnsupportedError as error:
            yield Finding("routed", str(error), breaks=False)
            return
        if (seen.requests, seen.failed, seen.is_up) != (3, 0, True):
            yield Finding("routed", f"3 requests were answered; it saw {seen.requests}, {seen.failed} of them failed")

    def scale(self) -> Iterator[Finding]:
        spec = self.first.spec.autoscaling
        self.driver.scale(self.first, spec)
        try:
            self.driver.scale(self.first, spec.model_copy(update={"max_replicas": spec.min_replicas + 2}))
        except UnsupportedError as error:
            yield Finding("scale", str(error), breaks=False)

    def stand_by(self) -> Iterator[Finding]:
        try:
            for proven in ((self.first.digest, _NOBODY), (self.first.digest, _NOBODY), ()):
                self.driver.stand_by(self.application, proven)
        except UnsupportedError as error:
            yield Finding("stand_by", str(error), breaks=False)
        yield from self._answers({self.first.digest, self.second.digest})

    def retire(self) -> Iterator[Finding]:
        self.driver.apply(self.plan((self.second.digest,) * BUCKETS, self.revision + 4))
        try:
            self.driver.retire(self.application, self.second.digest)
        except ServingError:
            pass
        else:
            yield Finding("retire", "stopped a release that has users")
        for _ in range(2):
            self.driver.retire(self.application, self.first.digest)
        if self.driver.running(self.application) != (self.second.digest,):
            yield Finding("retire", f"left running: {', '.join(self.driver.running(self.application))}")
        yield from self._answers({self.second.digest})

    def _answers(self, allowed: set[str]) -> Iterator[Finding]:
        for number in range(5):
            answer = self.driver.ask(self.application, f"user-{number}", "Who answers?", _TIMEOUT_S)
            if answer.status != _OK or answer.release_digest not in allowed:
                who = answer.release_digest[:12] or "nobody"
                yield Finding("ask", f"status {answer.status} from {who}; the plan allows only its releases")
                return
