"""Watch a step of a ramp until it is over: look, judge, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.costs.calls import COST_COLUMNS, CallCosts, answer_cost, with_costs
from tasks.costs.prices import read_price_book
from tasks.errors import UnsupportedError
from tasks.interactions.ingest import ingest_folder, standing_job
from tasks.monitors.verdict import Verdict
from tasks.release.analysis.judge import Approval, Ground, Situation
from tasks.release.analysis.policy import AtTimeout, Move, next_move
from tasks.release.freeze import freeze_at
from tasks.release.model import Release
from tasks.release.ramp import LOOK_COLUMNS, RampPolicy, RampStep, judge_alone, judge_shared, ramp_plans, with_routed
from tasks.release.rollout import Action, Decision, Lease, Rollout, find_approval, words_since
from tasks.release.scoring import TEXT_COLUMNS, Scores
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.driver import Driver, Routed
from tasks.traffic.plan import BUCKETS, Plan

COST_WINDOW = timedelta(days=7)
"""How far back before a ramp it is looked what stable cost."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """One step of one rollout under watch.

    Args:
        where: The settings.
        path: The data path.
        lease: Held by the rollout; once it is lost, the watch ends with that error.
        rollout, release, step, policy: What is watched, and what it must show.
        clock: Returns the time, UTC.
        ask: Called with a question, once for each: when nothing is missing but a person's approval, and when the time
            of the step is up without a conclusion and the policy is to ask.
        show: Called at every look with when the step began and what the look came to, for people to follow.

    Attributes:
        said: What a person said that ended the watch; empty where the verdict did.
    """

    where: Settings
    path: Driver
    lease: Lease
    rollout: Rollout
    release: Release
    step: RampStep
    policy: RampPolicy
    clock: Callable[[], datetime]
    ask: Callable[[Verdict, str], None]
    show: Callable[[datetime, Verdict], None] = field(default=lambda _began, _verdict: None)
    said: str = ""
    _scores: Scores = field(default_factory=Scores)
    _costs: CallCosts = field(default_factory=CallCosts)
    _scored_until: datetime | None = None
    _before: tuple[float | None] | None = None
    _asked: dict[str, datetime] = field(default_factory=dict)

    def run(self) -> tuple[Move, Verdict]:
        """Look until the step is over.

        Returns:
            ``ADVANCE``, ``ROLL_BACK`` or ``HOLD``, and the verdict of the last look.

        Raises:
            LeaseError: A rollback took the application over.
        """
        began = self.clock()
        extensions = self.policy.extensions
        routed = self._routed()
        while True:
            Ledger(self.where.ledger).renew(self.lease, self.clock())
            verdict, ground = self.look(began, routed)
            self.show(began, verdict)
            move = self._move(verdict, ground, (verdict.window_end - began).total_seconds(), extensions)
            if move is Move.EXTEND:
                began, extensions = self.clock(), extensions - 1
            elif move is not Move.WAIT:
                return move, verdict
            time.sleep(self.policy.look_s)

    def look(self, began: datetime, routed: Routed | None) -> tuple[Verdict, Ground]:
        """Take in the log, measure and judge.

        Args:
            began: When the watch of the step began, UTC.
            routed: What the data path had seen until then; None where it does not count.
        """
        now, ledger = self.clock(), Ledger(self.where.ledger)
        lake, application = Lake(self.where.lake_dir), self.release.application
        ingest_folder(lake, self.where.log_dir / application, now, job=standing_job(self.where))
        situation = self._situation(ledger)
        if self.step.buckets == BUCKETS:
            calls = lake.window(application, began, now, LOOK_COLUMNS)
            decision = judge_alone(
                self.release, policy=self.policy, calls=calls, since=began, now=now, situation=situation
            )
        else:
            plans = ramp_plans(ledger.plans(application), self.release.digest)
            calls = _in_effect(self._scored(lake, plans[1].time, now), plans)
            stable_cost_pusd = self._stable_cost(lake, plans[1].time)
            if stable_cost_pusd is not None:
                calls = self._priced(calls)
            decision = judge_shared(
                self.release,
                rollout=self.rollout,
                policy=self.policy,
                plans=plans,
                calls=calls,
                now=now,
                situation=situation,
                stable_cost_pusd=stable_cost_pusd,
            )
        seen = self._routed()
        if routed is None or seen is None:
            return decision.verdict, decision.ground
        elapsed_s = (now - began).total_seconds()
        verdict = with_routed(decision, seen.since(routed), self.policy, self.release, elapsed_s)
        return verdict, decision.ground

    def _routed(self) -> Routed | None:
        try:
            return self.path.routed(self.release.digest)
        except UnsupportedError:
            return None

    def _scored(self, lake: Lake, since: datetime, now: datetime) -> pa.Table:
        costs = COST_COLUMNS if self.policy.cost else ()
        calls = lake.window(self.release.application, since, now, (*LOOK_COLUMNS, "plan_revision", *costs))
        if not self.policy.scores:
            return calls
        # Lines may come late, so the time scored before is gone over again as far back as that can be.
        late = timedelta(seconds=2 * self.policy.settle_s + 10)
        first = max(since, self._scored_until - late) if self._scored_until else since
        self._scores.add(lake.window(self.release.application, first, now, TEXT_COLUMNS))
        self._scored_until = now
        return self._scores.attach(calls)

    def _stable_cost(self, lake: Lake, first: datetime) -> float | None:
        """Return what a successful answer of stable cost before the first step; None where that is not known.

        The days before are read once, and end early enough that no line of them comes late: every look, and a rollout
        that is taken up again, must scale by the same number.
        """
        if self.policy.cost and self._before is None:
            end = first - timedelta(seconds=self.policy.settle_s)
            columns = (*LOOK_COLUMNS, *COST_COLUMNS)
            calls = lake.window(self.release.application, end - COST_WINDOW, end, columns)
            stable = pc.equal(calls["release_digest"], self.rollout.stable_digest)
            calls = calls.filter(pc.fill_null(stable, fill_value=False))
            book = read_price_book(self.where.price_book)
            # Not by ``_costs``, which would remember the ids of a whole week.
            self._before = (answer_cost(with_costs(calls, self._releases(), book)),)
        return self._before[0] if self._before else None

    def _priced(self, calls: pa.Table) -> pa.Table:
        return self._costs.attach(calls, self._releases(), read_price_book(self.where.price_book))

    def _releases(self) -> dict[str, Release]:
        stable = self.rollout.stable_digest
        known = {stable: Ledger(self.where.ledger).recall(self.release.application, stable)} if stable else {}
        return known | {self.release.digest: self.release}

    def _situation(self, ledger: Ledger) -> Situation:
        approval = Approval.NOT_NEEDED
        if self.policy.approval and self.step.is_last:
            approval = Approval.GIVEN if self._approval(ledger, is_last=True) else Approval.PENDING
        return Situation(needs_noninferiority=self.policy.noninferiority and self.step.is_last, approval=approval)

    def _approval(self, ledger: Ledger, *, is_last: bool) -> Decision | None:
        return find_approval(self._words(ledger), self.step.buckets, is_last=is_last)

    def _words(self, ledger: Ledger) -> list[Decision]:
        rollout_id = self.rollout.rollout_id
        return words_since(ledger.decisions(rollout_id), ledger.last_hold(rollout_id))

    def _move(self, verdict: Verdict, ground: Ground, elapsed_s: float, extensions: int) -> Move:
        waits_for_person = ground is Ground.APPROVAL
        if waits_for_person:
            elapsed_s = self._waited_s(verdict, "every check passed")
        move = next_move(
            verdict.outcome,
            elapsed_s=elapsed_s,
            min_step_s=self.policy.min_step_s,
            max_step_s=self.policy.approval_s if waits_for_person else self.policy.max_step_s,
            at_timeout=AtTimeout.HOLD if waits_for_person else self.policy.at_timeout,
            extensions_left=extensions,
        )
        if move is Move.ASK:
            move = self._answered(verdict)
        if move in (Move.WAIT, Move.ADVANCE, Move.EXTEND) and self._is_held():
            return Move.HOLD
        if move is Move.ADVANCE and freeze_at(self.policy.freezes, verdict.window_end):
            return Move.WAIT  # still watched, so a failure takes the users back in a freeze too
        return move

    def _answered(self, verdict: Verdict) -> Move:
        """Ask whether to go on without a conclusion, and go on watching until a person says so."""
        waited_s = self._waited_s(verdict, f"time is up without a conclusion: {verdict.reason}")
        # Who approved in advance did not know that nothing would be shown.
        approved = self._approval(Ledger(self.where.ledger), is_last=False)
        if approved is not None:
            self.said = str(approved)
            return Move.ADVANCE
        return Move.WAIT if waited_s < self.policy.approval_s else Move.HOLD

    def _waited_s(self, verdict: Verdict, question: str) -> float:
        """Ask a question, once, and return how long ago that was, seconds."""
        kind = question.partition(":")[0]
        if kind not in self._asked:
            self._asked[kind] = verdict.window_end
            self.ask(verdict, question)
        return (verdict.window_end - self._asked[kind]).total_seconds()

    def _is_held(self) -> bool:
        """Return whether a person said hold since the rollout was held last, at whatever step of it."""
        holds = [word for word in self._words(Ledger(self.where.ledger)) if word.action is Action.HOLD]
        self.said = str(holds[0]) if holds else self.said
        return bool(holds)


def _in_effect(calls: pa.Table, plans: Sequence[Plan]) -> pa.Table:
    """Leave out calls that were routed by an older plan than the one on record at their time.

    A plan is on record before it is in effect, and a long time before where a flow was killed in between. The users
    it gave to the candidate met stable then: to leave out only them would look like users that are shared out wrong.
    """
    starts = np.array([plan.time.timestamp() * 1e6 for plan in plans])
    revisions = np.array([plan.revision for plan in plans])
    time_us = calls["time_utc"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    due = revisions[np.maximum(np.searchsorted(starts, time_us, side="right") - 1, 0)]
    routed_by = pc.fill_null(calls["plan_revision"], revisions[-1]).to_numpy()
    return calls.filter(pa.array(routed_by >= due)).drop_columns(["plan_revision"])
