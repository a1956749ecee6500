"""Watch an experiment until its sample is there: look at every arm's limits, count users, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import NotFoundError, ServingError
from tasks.evaluation.summary import release_calls
from tasks.experiments.life import ExperimentRecord
from tasks.interactions.ingest import ingest_folder, standing_job
from tasks.monitors.verdict import Outcome, Verdict
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
_SCORED_AT_ONCE = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How the watch ended.

    Attributes:
        users: Users of each arm.
        is_reached: Whether every arm has as many as were waited for.
        breach: The verdict that takes an arm out; None where none did.
    """

    users: Mapping[str, int]
    is_reached: bool
    breach: Verdict | None = None


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
        began, before = self.clock(), {arm: self.path.routed(arm) for arm in self.record.treatments}
        is_last = False
        while True:
            seen = self.look(plan, began, before)
            self.tell(seen.users)
            if seen.breach is not None or is_last:
                return seen
            # One look more after the last call may have been logged: it may be the one that breaks a limit.
            is_last = seen.is_reached or self.clock() >= until
            time.sleep(design.settle_s if is_last else design.look_s)

    def look(self, plan: Plan, began: datetime, before: Mapping[str, Routed]) -> Watched:
        """Take in the log, hold every arm but the control against its limits, and count users.

        Args:
            plan: The plan that shares the users out.
            began: When the watch began, UTC.
            before: What the data path had seen until then.
        """
        now = self.clock()
        Ledger(self.where.ledger).renew(self.lease, now)
        take_in(self.where, self.record.application, now)
        calls = calls_of(self.where, plan, now, LOOK_COLUMNS)
        counted = release_calls(calls)  # as the report counts them
        users = {arm: _users(counted, arm) for arm in self.record.arms}
        is_reached = min(users.values()) >= self.record.users_per_arm
        for arm in self.record.treatments:
            verdict = self._guard(arm, calls, plan, began, before[arm], now)
            if verdict.outcome is Outcome.FAIL:
                return Watched(users=users, is_reached=is_reached, breach=verdict)
        return Watched(users=users, is_reached=is_reached)

    def _guard(  # noqa: PLR0917 - all of one look
        self, arm: str, calls: pa.Table, plan: Plan, began: datetime, before: Routed, now: datetime
    ) -> Verdict:
        release, design = self.releases[arm], self.record.design
        alpha = design.alpha / len(self.record.treatments)
        policy = RampPolicy(min_requests=design.min_requests, alpha=alpha, scores=False)
        decision = judge_alone(release, policy=policy, calls=calls, since=plan.time, now=now, situation=Situation())
        try:
            seen = self.path.routed(arm).since(before)
        except ServingError:
            # Whoever took the experiment over may have retired the arm already: then the lease is lost.
            Ledger(self.where.ledger).renew(self.lease, self.clock())
            raise
        return with_routed(decision, seen, policy, release, (now - began).total_seconds())


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


def calls_of(where: Settings, plan: Plan, now: datetime, columns: tuple[str, ...]) -> pa.Table:
    """Return the calls that a plan routed: not those that came while it was on record and not in effect yet."""
    wanted = tuple(dict.fromkeys((*columns, "plan_revision", "release_digest")))
    calls = Lake(where.lake_dir).window(plan.application, plan.time, now, wanted)
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


def _users(calls: pa.Table, arm: str) -> int:
    mine = calls.filter(pc.fill_null(pc.equal(calls["release_digest"], arm), fill_value=False))
    return len(pc.unique(pc.coalesce(mine["unit"], mine["interaction_id"])))
