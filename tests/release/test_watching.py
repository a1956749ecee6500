"""Watching a step: when people are asked, what their word does, and what still comes before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from sample_release import release_of

from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.analysis.policy import AtTimeout, Move
from tasks.release.lifecycle import Event
from tasks.release.ramp import RampPolicy, RampStep
from tasks.release.rollout import Action, Decision, Lease, Rollout, find_approval
from tasks.release.watching import Watch
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.driver import Driver, Routed
from tasks.traffic.plan import BUCKETS

START = datetime(2026, 3, 1, tzinfo=UTC)
RELEASE = release_of()
POLICY = RampPolicy(at_timeout=AtTimeout.ASK, min_step_s=0, max_step_s=10, approval_s=100, look_s=0.001, min_requests=5)
EVERYBODY = RampStep(buckets=BUCKETS, watched=True)
LAST = RampStep(buckets=BUCKETS, watched=True, is_last=True)


class QuietPath:
    """A data path that sees requests, and nothing wrong with them."""

    requests = 0

    def routed(self, digest: str) -> Routed:
        assert digest == RELEASE.digest
        self.requests += 50
        return Routed(requests=self.requests, failed=0, unanswered=0, waiting=0, is_up=True)


@dataclass
class Clock:
    """Time that passes by five seconds a look, and things that happen at its moments."""

    now: datetime = START
    plans: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=2.5)  # a look reads it twice
        elapsed = (self.now - START).total_seconds()
        for due in [plan for plan in self.plans if plan[0] <= elapsed]:
            self.plans.remove(due)
            due[1]()
        return self.now

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        self.plans.append((seconds, act))


@dataclass
class Scene:
    """One step that every user takes part in, with a real ledger and lake."""

    where: Settings
    ledger: Ledger
    lease: Lease
    rollout: Rollout
    clock: Clock = field(default_factory=Clock)
    questions: list[str] = field(default_factory=list)

    def watch(self, policy: RampPolicy = POLICY, step: RampStep = EVERYBODY) -> tuple[Move, Verdict, str]:
        watched = Watch(
            where=self.where,
            path=cast("Driver", QuietPath()),
            lease=self.lease,
            rollout=self.rollout,
            release=RELEASE,
            step=step,
            policy=policy,
            clock=self.clock,
            ask=lambda _, question: self.questions.append(question),
        )
        move, verdict = watched.run()
        return move, verdict, watched.said

    def say(self, action: Action, buckets: int = BUCKETS, who: str = "Ada") -> None:
        decision = Decision(action, buckets, who, "seen enough", self.clock.now)
        self.ledger.record_decision(self.rollout.rollout_id, decision)

    def log(self, statuses: Sequence[int]) -> None:
        lake = Lake(self.where.lake_dir)
        calls = [
            Interaction(
                interaction_id=f"{self.clock.now.timestamp()}-{number}",
                application="faq",
                release_digest=RELEASE.digest,
                unit=f"user-{number}",
                unit_kind="user",
                time=self.clock.now - timedelta(seconds=1),
                status=status,
                latency_ms=10.0,
            )
            for number, status in enumerate(statuses)
        ]
        at = lake.offset("test")
        nothing = REJECTED_SCHEMA.empty_table()
        lake.append("test", expected=at, offset=at + 1, interactions=as_table(calls), rejected=nothing)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    where = Settings(state_dir=tmp_path)
    ledger = Ledger(where.ledger)
    lease = ledger.acquire("faq", "tester", START)
    begun = ledger.begin_rollout(lease, RELEASE.digest, "d", START)
    for event in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT):
        begun = ledger.advance(lease, begun.rollout_id, event, "", START)
    return Scene(where, ledger, lease, begun)


def test_a_person_is_asked_once_when_the_time_is_up_and_their_approval_goes_on(scene: Scene) -> None:
    scene.clock.at(40, lambda: scene.say(Action.APPROVE))
    move, verdict, said = scene.watch()
    assert (move, verdict.outcome, said) == (Move.ADVANCE, Outcome.INCONCLUSIVE, "approved by Ada: seen enough")
    assert [question.split(":")[0] for question in scene.questions] == ["time is up without a conclusion"]
    assert 40 <= (scene.clock.now - START).total_seconds() < 60


def test_nobody_answers_and_it_is_held(scene: Scene) -> None:
    move, _, said = scene.watch()
    assert (move, said, len(scene.questions)) == (Move.HOLD, "", 1)
    assert (scene.clock.now - START).total_seconds() >= 110


def test_it_is_watched_while_a_person_is_asked(scene: Scene) -> None:
    scene.clock.at(30, lambda: scene.log([500] * 60))
    scene.clock.at(30, lambda: scene.say(Action.APPROVE))
    move, verdict, _ = scene.watch()
    assert (move, verdict.outcome) == (Move.ROLL_BACK, Outcome.FAIL)


def test_evidence_that_comes_late_answers_too(scene: Scene) -> None:
    scene.clock.at(30, lambda: scene.log([200] * 60))
    move, verdict, said = scene.watch()
    assert (move, verdict.outcome, said) == (Move.ADVANCE, Outcome.PASS, "")


def test_an_approval_of_an_earlier_step_answers_no_later_one(scene: Scene) -> None:
    scene.say(Action.APPROVE, buckets=100)
    move, _, _ = scene.watch()
    assert move is Move.HOLD


@pytest.mark.parametrize("at_timeout", [AtTimeout.HOLD, AtTimeout.EXTEND, AtTimeout.REVERT])
def test_the_other_policies_ask_nobody(scene: Scene, at_timeout: AtTimeout) -> None:
    move, _, _ = scene.watch(POLICY.model_copy(update={"at_timeout": at_timeout, "extensions": 0}))
    assert (move, scene.questions) == (Move.ROLL_BACK if at_timeout is AtTimeout.REVERT else Move.HOLD, [])


def test_a_person_holds_a_step_that_would_go_on(scene: Scene) -> None:
    scene.clock.at(6, lambda: scene.log([200] * 60))
    scene.clock.at(6, lambda: scene.say(Action.HOLD))
    move, verdict, said = scene.watch()
    assert (move, verdict.outcome, said) == (Move.HOLD, Outcome.PASS, "held by Ada: seen enough")


def test_a_hold_said_between_two_steps_holds_the_next_one_and_is_over_once_it_did(scene: Scene) -> None:
    scene.say(Action.HOLD)
    scene.clock.now += timedelta(minutes=1)
    assert scene.watch()[0] is Move.HOLD
    for happened in (Event.HOLD, Event.DEPLOY):
        scene.ledger.advance(scene.lease, scene.rollout.rollout_id, happened, "as asked", scene.clock.now)
    scene.clock.now += timedelta(minutes=1)
    scene.log([200] * 60)
    scene.clock.at(145, lambda: scene.log([200] * 60))
    assert scene.watch()[0] is Move.ADVANCE


def test_an_approval_of_before_a_hold_answers_nothing_after_it(scene: Scene) -> None:
    scene.say(Action.APPROVE)
    scene.clock.now += timedelta(minutes=1)
    scene.say(Action.HOLD, who="Bob")
    for happened in (Event.HOLD, Event.DEPLOY):
        scene.clock.now += timedelta(minutes=1)
        scene.ledger.advance(scene.lease, scene.rollout.rollout_id, happened, "as asked", scene.clock.now)
    move, _, said = scene.watch()
    assert (move, said, len(scene.questions)) == (Move.HOLD, "", 1)
    scene.say(Action.APPROVE, who="Cleo")
    move, _, said = scene.watch()
    assert (move, said) == (Move.ADVANCE, "approved by Cleo: seen enough")


def test_an_approval_in_advance_does_not_answer_that_nothing_was_shown(scene: Scene) -> None:
    scene.say(Action.APPROVE, buckets=0)
    move, _, said = scene.watch(step=LAST)
    assert (move, said) == (Move.HOLD, "")
    assert [question.split(":")[0] for question in scene.questions] == ["time is up without a conclusion"]


@pytest.mark.parametrize(("held_first", "move"), [(False, Move.ADVANCE), (True, Move.HOLD)])
def test_an_approval_in_advance_lets_the_last_step_go_on_unless_it_was_held_since(
    scene: Scene, held_first: bool, move: Move
) -> None:
    scene.say(Action.APPROVE, buckets=0)
    if held_first:
        scene.clock.now += timedelta(minutes=1)
        scene.ledger.advance(scene.lease, scene.rollout.rollout_id, Event.HOLD, "Bob", scene.clock.now)
    scene.clock.at((scene.clock.now - START).total_seconds() + 6, lambda: scene.log([200] * 60))
    policy = POLICY.model_copy(update={"approval": True, "noninferiority": False})
    assert scene.watch(policy, LAST)[0] is move
    assert [question for question in scene.questions if question == "every check passed"] == (
        ["every check passed"] if held_first else []
    )


def test_a_failure_comes_before_a_hold(scene: Scene) -> None:
    scene.clock.at(6, lambda: scene.log([500] * 60))
    scene.clock.at(6, lambda: scene.say(Action.HOLD))
    assert scene.watch()[0] is Move.ROLL_BACK


def test_an_approval_in_advance_is_for_the_last_step_only() -> None:
    advance = Decision(Action.APPROVE, 0, "Ada", "fine", START)
    assert find_approval([advance], 500, is_last=True) is advance
    assert find_approval([advance], 100, is_last=False) is None
    held = Decision(Action.HOLD, 500, "Ada", "wait", START)
    assert find_approval([held], 500, is_last=True) is None
