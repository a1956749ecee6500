"""Guarding the arms of an experiment: by windows, the control too, also where the data path counts nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sample_release import release_of

from tasks.errors import UnsupportedError
from tasks.evaluation.summary import release_calls
from tasks.experiments.design import ExperimentDesign
from tasks.experiments.experiment import Experiment
from tasks.experiments.life import ExperimentRecord, Stage, Turn, judge_guard
from tasks.experiments.verdict import as_nightly
from tasks.experiments.watching import GUARD_WINDOW, ExperimentWatch, GuardWindow, count_users
from tasks.interactions.schema import CALLER_ERRORS, REJECTED_SCHEMA, Interaction, as_table
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.rollout import Lease
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.driver import Driver, Routed
from tasks.traffic.plan import BUCKETS, Plan

START = datetime(2026, 3, 1, tzinfo=UTC)
CONTROL, ARM = release_of(1), release_of(2)
DIGESTS = (CONTROL.digest, ARM.digest)


class Uncounting:
    """A data path that counts nothing, as on Kubernetes."""

    def routed(self, digest: str) -> Routed:
        raise UnsupportedError(f"nobody counts {digest[:12]}")


@dataclass
class Clock:
    """Time that stands still until it is set."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Scene:
    """An experiment whose users are shared out, with a real ledger and lake."""

    where: Settings
    lease: Lease
    record: ExperimentRecord
    plan: Plan
    clock: Clock

    def watch(self) -> ExperimentWatch:
        return ExperimentWatch(
            where=self.where,
            path=cast("Driver", Uncounting()),
            lease=self.lease,
            record=self.record,
            releases={CONTROL.digest: CONTROL, ARM.digest: ARM},
            clock=self.clock,
            tell=lambda _: None,
        )

    def log(self, digest: str, statuses: list[tuple[int, str | None]], at: datetime, revision: int = 2) -> None:
        calls = [
            Interaction(
                interaction_id=f"{digest[:6]}-{at.timestamp()}-{number}",
                application="faq",
                release_digest=digest,
                unit=f"user-{number}",
                unit_kind="user",
                time=at,
                status=status,
                error_type=kind,
                latency_ms=5.0,
                plan_revision=revision,
            )
            for number, (status, kind) in enumerate(statuses)
        ]
        rejected = REJECTED_SCHEMA.empty_table()
        source = f"{digest[:6]}-{at.timestamp()}"
        Lake(self.where.lake_dir).append(source, expected=0, offset=1, interactions=as_table(calls), rejected=rejected)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    where = Settings(state_dir=tmp_path)
    ledger = Ledger(where.ledger)
    lease = ledger.acquire("faq", "test", START)
    for known in (CONTROL, ARM):
        ledger.remember(known)

    def write(revision: int, owners: tuple[str, ...]) -> Plan:
        buckets = tuple(owners[at % len(owners)] for at in range(BUCKETS))
        plan = Plan(
            application="faq", revision=revision, salt="faq", buckets=buckets, author="test", reason="", time=START
        )
        ledger.write_plan(plan, lease)
        return plan

    write(1, (CONTROL.digest,))
    design = ExperimentDesign.model_validate(
        {
            "application": "faq",
            "name": "tone",
            "control": "1",
            "arms": [{"release": "1"}, {"release": "2"}],
            "users_per_arm": 10,
            "min_requests": 30,
        }
    )
    arms = Experiment(name="tone", control=CONTROL.digest, arms=dict.fromkeys(DIGESTS, 1.0))
    record = ledger.begin_experiment(lease, design, arms, 10, START)
    record = ledger.turn_experiment(lease, record, Turn.SHARE, "halves", START)
    return Scene(where=where, lease=lease, record=record, plan=write(2, DIGESTS), clock=Clock())


def breach_at(scene: Scene, at: datetime) -> Verdict | None:
    """Return what a look at a moment comes to."""
    scene.clock.now = at
    ledger = Ledger(scene.where.ledger)
    watch = scene.watch()
    watch.lease = ledger.acquire("faq", "test", at)
    return watch.breach(scene.plan, watch.window(scene.plan, None), at)


@pytest.mark.parametrize("broken", [(0,), (1,), (0, 1)])
def test_every_arm_is_guarded_and_what_all_break_is_the_controls(scene: Scene, broken: tuple[int, ...]) -> None:
    for index, digest in enumerate(DIGESTS):
        scene.log(digest, [(500 if index in broken else 200, None)] * 200, START + timedelta(seconds=1))
    found = breach_at(scene, START + timedelta(seconds=10))
    assert found is not None
    assert found.release_digest == DIGESTS[broken[0]]
    assert found.reason.startswith("failed calls 100 % > limit 5 %")


def test_an_arm_that_was_good_for_a_week_is_not_forgiven(scene: Scene) -> None:
    for day in range(7):
        scene.log(ARM.digest, [(200, None)] * 1000, START + timedelta(days=day, hours=1))
    scene.log(ARM.digest, [(500, None)] * 200, START + timedelta(days=7, hours=1))
    # Of all calls since the plan 2.8 % failed, which the limit of 5 % allows.
    found = breach_at(scene, START + timedelta(days=7, hours=2))
    assert found is not None
    assert (found.release_digest, found.window_start) == (ARM.digest, START + 7 * GUARD_WINDOW)


def test_a_bad_day_that_is_over_is_not_held_against_an_arm_again(scene: Scene) -> None:
    scene.log(ARM.digest, [(500, None)] * 200, START + timedelta(hours=1))
    assert breach_at(scene, START + timedelta(hours=2)) is not None
    assert breach_at(scene, START + timedelta(hours=25)) is None


def test_the_windows_share_the_chance_of_a_false_alarm() -> None:
    shares = [
        GuardWindow(number=number, start=START, began=START, before={}).alpha_share for number in range(1, 100_001)
    ]
    assert sum(shares) == pytest.approx(1 - 1 / 100_001)


def test_a_window_goes_on_until_it_is_over(scene: Scene) -> None:
    watch = scene.watch()
    first = watch.window(scene.plan, None)
    assert (first.number, first.start) == (1, START)
    scene.clock.now = START + GUARD_WINDOW - timedelta(seconds=1)
    assert watch.window(scene.plan, first) is first
    scene.clock.now = START + 3 * GUARD_WINDOW
    later = watch.window(scene.plan, first)
    assert (later.number, later.start) == (4, START + 3 * GUARD_WINDOW)
    # A clock that is set back changes no window and raises nothing.
    scene.clock.now = START - timedelta(hours=1)
    assert watch.window(scene.plan, later) is later
    assert watch.window(scene.plan, None).number == 1


def test_users_are_counted_as_the_report_counts_them(scene: Scene) -> None:
    kinds = list(product((200, 302, 400, 404, 429, 499, 500, 503), (None, *CALLER_ERRORS, "upstream_broke")))
    scene.log(ARM.digest, kinds, START + timedelta(seconds=1))
    scene.log(CONTROL.digest, [(200, None)] * 3, START + timedelta(seconds=2))
    scene.log(CONTROL.digest, [(200, None)] * 9, START + timedelta(seconds=3), revision=1)
    now = START + timedelta(minutes=1)
    calls = Lake(scene.where.lake_dir).window("faq", START, now, ("unit", "status", "error_type", "release_digest"))
    counted = release_calls(calls.filter(pc.equal(calls["release_digest"], pa.scalar(ARM.digest))))
    expected = len(set(counted["unit"].to_pylist()))
    assert 0 < expected < len(kinds)
    assert count_users(scene.where, scene.plan, now, (*DIGESTS, "nobody")) == {
        CONTROL.digest: 3,
        ARM.digest: expected,
        "nobody": 0,
    }


def test_what_the_data_path_saw_of_a_control_is_cleared_by_a_night_without_errors() -> None:
    checks = [
        Check(monitor=name, outcome=Outcome.FAIL, statement="s", value=1.0, limit=0.0, n=1)
        for name in ("routed", "latency")
    ]
    verdict = Verdict(
        application="faq", release_digest=CONTROL.digest, window_start=START, window_end=START, checks=tuple(checks)
    )
    expected = (replace(checks[0], monitor="errors"), checks[1])
    assert as_nightly(verdict).checks == expected


@pytest.mark.parametrize(
    ("stage", "guarded_s", "outcome"),
    [
        (Stage.RUNNING, 10, Outcome.PASS),
        (Stage.RUNNING, -1, Outcome.ERROR),
        (Stage.KEPT, None, Outcome.ERROR),
        (Stage.FALTERING, None, Outcome.ERROR),
        (Stage.PREPARING, None, Outcome.PASS),
    ],
)
def test_an_experiment_whose_flow_was_killed_is_told(
    scene: Scene, stage: Stage, guarded_s: float | None, outcome: Outcome
) -> None:
    until = None if guarded_s is None else START + timedelta(seconds=guarded_s)
    signal = judge_guard("faq", replace(scene.record, stage=stage), until, START)
    assert (signal.application, signal.monitor, signal.outcome) == ("faq", "experiment", outcome)
    assert signal.reason.startswith(f"experiment tone is {stage}")
    assert ("delivery experiment stop faq" in signal.reason) is (outcome is Outcome.ERROR)
    assert judge_guard("faq", None, until, START).outcome is Outcome.PASS
