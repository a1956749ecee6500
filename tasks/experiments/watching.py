"""Watch an experiment: look at every arm's limits, the control's too, count users, wait.

Limits are held by windows of a day, so that an arm that was good for a week is not forgiven for it, and a look reads a
day of calls at most. The windows share ``alpha``: the k-th may use 1 / (k (k + 1)) of it, which is all of it together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import NotFoundError, ServingError, UnsupportedError
from tasks.experiments.life import ExperimentRecord
from tasks.interactions.ingest import ingest_folder, standing_job
from tasks.interactions.schema import CALLER_ERRORS, CALLER_STATUSES
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.analysis.cohorts import count_as_planned
from tasks.release.analysis.judge import Situation
from tasks.release.model import Release
from tasks.release.preview import TrafficSeen
from tasks.release.ramp import LOOK_COLUMNS, RampPolicy, judge_alone, with_routed
from tasks.release.rollout import Lease
from tasks.release.scoring import TEXT_COLUMNS, Scores
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.driver import Driver, Routed
from tasks.traffic.plan import Plan

_SEEN = """
SELECT count(*), count(DISTINCT coalesce(unit, interaction_id)), avg((status >= 500)::INT) FROM interactions
"""
# The calls are those of ``release_calls``: the caller's own errors say nothing about an arm.
_USERS = """
SELECT release_digest, count(DISTINCT coalesce(unit, interaction_id)) FROM interactions
WHERE plan_revision >= $revision AND NOT (
    (status >= 400 OR error_type IS NOT NULL) AND (error_type IS NULL OR list_contains($errors, error_type))
    AND (status < 400 OR list_contains($statuses, status))
) GROUP BY release_digest
"""
_SCORED_AT_ONCE = timedelta(hours=6)
GUARD_WINDOW = timedelta(days=1)
"""How long calls are held against the limits together."""
_REST = 3.0
"""A look is followed by a pause of at least so many times as long as it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How the watch ended.

    Attributes:
        users: Users of each arm.
        is_reached: Whether every arm has as many as were waited for.
        breach: The verdict of the arm that ended it; None where none did.
    """

    users: Mapping[str, int]
    is_reached: bool
    breach: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardWindow:
    """The calls that are held against the limits together.

    Attributes:
        number: From 1.
        start: Its first moment, UTC.
        began: When its watch began, UTC: the start, unless nobody watched then.
        before: What the data path had seen of each arm until its watch began; None where it counts nothing.
    """

    number: int
    start: datetime
    began: datetime
    before: Mapping[str, Routed | None]

    @property
    def end(self) -> datetime:
        """The first moment after it, UTC."""
        return self.start + GUARD_WINDOW

    @property
    def alpha_share(self) -> float:
        """The part of the chance of a false alarm that it may use; those of all windows add up to 1."""
        return 1 / (self.number * (self.number + 1))


@dataclass(slots=True, kw_only=True)
class ExperimentWatch:
    """One experiment under watch.

    Args:
        where: The settings.
        path: The data path.
        lease: Held by the experiment; once it is lost, the watch ends with that error.
        record: The experiment.
        releases: Its arms by digest.
        clock: Returns the time, UTC.
        tell: Called after each look with the users of each arm.
    """

    where: Settings
    path: Driver
    lease: Lease
    record: ExperimentRecord
    releases: Mapping[str, Release]
    clock: Callable[[], datetime]
    tell: Callable[[Mapping[str, int]], None]

    def run(self) -> Watched:
        """Look until every arm has its users, an arm breaks a limit, or the time is over.

        Raises:
            LeaseError: Somebody stopped the experiment, or rolled an arm back.
        """
        design, plan = self.record.design, plan_in_force(self.where, self.record)
        until = plan.time + timedelta(seconds=design.max_duration_s)
        window, is_last = self.window(plan, None), False
        while True:
            looked = time.monotonic()
            window = self.window(plan, window)
            seen = self.look(plan, window)
            self.tell(seen.users)
            if seen.breach is not None or is_last:
                return seen
            # One look more after the last call may have been logged: it may be the one that breaks a limit.
            is_last = seen.is_reached or self.clock() >= until
            time.sleep(design.settle_s if is_last else self._pause_s(looked))

    def guard(self, until: datetime) -> Verdict | None:
        """Look at the limits alone until a moment.

        Args:
            until: UTC.

        Returns:
            The verdict of an arm that broke one; None where none did.

        Raises:
            LeaseError: Somebody stopped the experiment, or rolled an arm back.
        """
        plan = plan_in_force(self.where, self.record)
        window = self.window(plan, None)
        while True:
            looked = time.monotonic()
            window = self.window(plan, window)
            breach = self.breach(plan, window, self._begin_look())
            if breach is not None or self.clock() >= until:
                return breach
            time.sleep(min(self._pause_s(looked), max((until - self.clock()).total_seconds(), 0.0)))

    def window(self, plan: Plan, last: GuardWindow | None) -> GuardWindow:
        """Return the window of the present: the last one, where it is not over."""
        now = self.clock()
        if last is not None and now < last.end:
            return last
        passed = max((now - plan.time) // GUARD_WINDOW, 0)
        return GuardWindow(
            number=passed + 1,
            start=plan.time + passed * GUARD_WINDOW,
            began=now,
            before={arm: self._routed(arm) for arm in self.record.arms},
        )

    def look(self, plan: Plan, window: GuardWindow) -> Watched:
        """Take in the log, hold every arm against its limits, and count users.

        Args:
            plan: The plan that shares the users out.
            window: Which calls are held against the limits.
        """
        now = self._begin_look()
        users = count_users(self.where, plan, now, self.record.arms)
        is_reached = min(users.values()) >= self.record.users_per_arm
        return Watched(users=users, is_reached=is_reached, breach=self.breach(plan, window, now))

    def breach(self, plan: Plan, window: GuardWindow, now: datetime) -> Verdict | None:
        """Return the verdict of an arm that breaks a limit, the control's before all others; None where none does.

        Where the control breaks one too, it is no fault of the arms beside it.
        """
        calls = calls_of(self.where, plan, now, LOOK_COLUMNS, since=window.start)
        calls = count_as_planned(calls, plan.buckets)
        for arm in (self.record.control, *self.record.treatments):
            verdict = self._guard(arm, calls, window, now)
            if verdict.outcome is Outcome.FAIL:
                return verdict
        return None

    def _begin_look(self) -> datetime:
        now = self.clock()
        Ledger(self.where.ledger).renew(self.lease, now)
        take_in(self.where, self.record.application, now)
        return now

    def _pause_s(self, looked: float) -> float:
        return max(self.record.design.look_s, _REST * (time.monotonic() - looked))

    def _guard(self, arm: str, calls: pa.Table, window: GuardWindow, now: datetime) -> Verdict:
        release, design = self.releases[arm], self.record.design
        alpha = design.alpha * window.alpha_share / len(self.record.arms)
        policy = RampPolicy(min_requests=design.min_requests, alpha=alpha, scores=False)
        decision = judge_alone(release, policy=policy, calls=calls, since=window.start, now=now, situation=Situation())
        seen, before = self._routed(arm), window.before[arm]
        if seen is None or before is None:
            return decision.verdict
        return with_routed(decision, seen.since(before), policy, release, (now - window.began).total_seconds())

    def _routed(self, arm: str) -> Routed | None:
        try:
            return self.path.routed(arm)
        except UnsupportedError:
            return None
        except ServingError:
            # Whoever took the experiment over may have retired the arm already: then the lease is lost.
            Ledger(self.where.ledger).renew(self.lease, self.clock())
            raise


def plan_in_force(where: Settings, record: ExperimentRecord) -> Plan:
    """Return the plan that shares the users of an experiment out.

    Raises:
        NotFoundError: The plan in force is not that of the experiment.
    """
    plan = Ledger(where.ledger).plan(record.application)
    if plan is None or set(plan.counts()) != set(record.arms):
        raise NotFoundError(f"no plan in force shares out the users of experiment {record.name}; start it again")
    return plan


def take_in(where: Settings, application: str, now: datetime) -> None:
    """Store what the application logged since the last time."""
    ingest_folder(Lake(where.lake_dir), where.log_dir / application, now, job=standing_job(where))


def calls_of(
    where: Settings, plan: Plan, now: datetime, columns: tuple[str, ...], *, since: datetime | None = None
) -> pa.Table:
    """Return the calls that a plan routed: not those that came while it was on record and not in effect yet.

    Args:
        where: The settings.
        plan: The plan.
        now: The first moment after them, UTC.
        columns: Of the log.
        since: Their first moment, UTC; None is that of the plan.
    """
    wanted = tuple(dict.fromkeys((*columns, "plan_revision", "release_digest")))
    calls = Lake(where.lake_dir).window(plan.application, since or plan.time, now, wanted)
    routed = pc.fill_null(pc.greater_equal(calls["plan_revision"], plan.revision), fill_value=False)
    return calls.filter(routed)


def score_calls(where: Settings, calls: pa.Table, plan: Plan, now: datetime) -> pa.Table:
    """Return the calls with ``quality`` and ``toxicity``, scored a few hours at a time."""
    lake, scores, start = Lake(where.lake_dir), Scores(), plan.time
    while start < now:
        end = min(start + _SCORED_AT_ONCE, now)
        scores.add(lake.window(plan.application, start, end, TEXT_COLUMNS))
        start = end
    return scores.attach(calls)


def traffic_seen(where: Settings, application: str, now: datetime) -> TrafficSeen:
    """Return what an application was asked in the last day."""
    with Lake(where.lake_dir).query(now - timedelta(days=1), now, application) as database:
        requests, users, failed = database.execute(_SEEN).fetchone() or (0, 0, None)
    return TrafficSeen(requests=requests, users=users, failed_share=failed)


def count_users(where: Settings, plan: Plan, now: datetime, arms: Iterable[str]) -> dict[str, int]:
    """Return how many users each arm has whose calls say something about it, as the report counts them.

    Args:
        where: The settings.
        plan: The plan that shares the users out.
        now: The first moment after their calls, UTC.
        arms: Digests.
    """
    given = {"revision": plan.revision, "errors": list(CALLER_ERRORS), "statuses": list(CALLER_STATUSES)}
    with Lake(where.lake_dir).query(plan.time, now, plan.application) as database:
        found: dict[str | None, int] = dict(database.execute(_USERS, given).fetchall())
    return {arm: found.get(arm, 0) for arm in arms}
