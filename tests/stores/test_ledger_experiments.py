"""Experiments on record: one at a time, never over a rollout, no rollout over one; nothing without the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DeliveryError, InputError, LeaseError, QuarantineError
from tasks.experiments.design import ExperimentDesign
from tasks.experiments.experiment import Experiment
from tasks.experiments.life import Decided, ExperimentRecord, Stage, Turn
from tasks.release.lifecycle import Event, State
from tasks.release.rollout import Lease
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
DECIDED = Decided(ending="Concluded", winner=B, message="B wins", document={"effects": []}, markdown="# B")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("new_database")())
    ledger = Ledger(url)
    yield ledger
    ledger.close()


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    """Return the lease of an application whose every user is A's."""
    lease = ledger.acquire("faq", "experiment one", NOW)
    plan = Plan(application="faq", revision=1, salt="s", buckets=(A,) * BUCKETS, author="t", reason="r", time=NOW)
    ledger.write_plan(plan, lease)
    return lease


def design(**changes: Any) -> ExperimentDesign:
    plain: dict[str, Any] = {
        "application": "faq",
        "name": "tone",
        "control": "1",
        "arms": [{"release": "1"}, {"release": "2"}],
        "users_per_arm": 100,
    }
    return ExperimentDesign.model_validate(plain | changes)


def begin(ledger: Ledger, lease: Lease, *, control: str = A, arm: str = B, **changes: Any) -> ExperimentRecord:
    asked = design(**changes)
    experiment = Experiment(name=asked.name, control=control, arms={control: 1.0, arm: 1.0})
    return ledger.begin_experiment(lease, asked, experiment, 100, NOW)


def test_an_experiment_comes_back_as_it_was_written_and_is_taken_up_again(ledger: Ledger, lease: Lease) -> None:
    begun = begin(ledger, lease)
    assert ledger.experiments("faq") == [begun]
    assert begin(ledger, lease) == begun
    running = ledger.turn_experiment(lease, begun, Turn.SHARE, "50 %", NOW)
    decided = ledger.turn_experiment(lease, running, Turn.DECIDE, "B wins", NOW, decided=DECIDED)
    assert (decided.stage, decided.decided, ledger.open_experiment("faq")) == (Stage.ENDING, DECIDED, decided)
    ended = ledger.turn_experiment(lease, decided, Turn.DONE, "B wins", NOW)
    assert begin(ledger, lease) == ended
    assert ledger.open_experiment("faq") is None


def test_one_name_is_one_experiment_and_one_is_open_at_a_time(ledger: Ledger, lease: Lease) -> None:
    begun = begin(ledger, lease)
    with pytest.raises(InputError, match="was asked for otherwise; give the new one another name"):
        begin(ledger, lease, users_per_arm=101)
    with pytest.raises(InputError, match="was asked for otherwise"):
        begin(ledger, lease, arm=C)
    with pytest.raises(LeaseError, match=r"experiment tone of faq is preparing; .* delivery experiment stop faq"):
        begin(ledger, lease, name="other")
    ledger.turn_experiment(lease, begun, Turn.STOP, "enough", NOW)
    stopped = ledger.turn_experiment(lease, begun, Turn.DONE, "enough", NOW)
    assert stopped.is_over
    assert begin(ledger, lease, name="other").name == "other"


def test_no_rollout_begins_over_an_experiment_and_none_over_a_rollout(ledger: Ledger, lease: Lease) -> None:
    begun = begin(ledger, lease)
    with pytest.raises(LeaseError, match="experiment tone of faq is preparing, and no rollout begins over it"):
        ledger.begin_rollout(lease, C, "d", NOW)
    ledger.turn_experiment(lease, begun, Turn.STOP, "enough", NOW)
    ledger.turn_experiment(lease, begun, Turn.DONE, "enough", NOW)
    ledger.begin_rollout(lease, C, "d", NOW)
    with pytest.raises(LeaseError, match="start its rollout again to continue it, or end it: delivery abort faq"):
        begin(ledger, lease, name="other")


def test_the_control_is_who_serves_and_no_arm_failed_before(ledger: Ledger, lease: Lease) -> None:
    with pytest.raises(InputError, match="the release that serves every user of faq: aaaaaaaaaaaa"):
        begin(ledger, lease, control=B, arm=C)
    begun = begin(ledger, lease)
    ledger.turn_experiment(lease, begun, Turn.FAIL, "p95 latency", NOW, blamed=B)
    again = ledger.turn_experiment(lease, begun, Turn.FAIL, "another", NOW, blamed=B)
    assert (again.stage, again.reason) == (Stage.REJECTING, "p95 latency")
    ledger.turn_experiment(lease, begun, Turn.DONE, "p95 latency", NOW)
    with pytest.raises(QuarantineError, match="release bbbbbbbbbbbb is in quarantine since 2026-03-01 12:00 UTC: p95"):
        begin(ledger, lease, name="other")


def test_who_lost_the_lease_writes_nothing(ledger: Ledger, lease: Lease) -> None:
    begun = begin(ledger, lease)
    ledger.acquire("faq", "stop", NOW, seize=True)
    writes: tuple[Callable[[], object], ...] = (
        lambda: begin(ledger, lease, name="other"),
        lambda: ledger.turn_experiment(lease, begun, Turn.SHARE, "50 %", NOW, blamed=B),
        lambda: ledger.crown(lease, begun, "d", "won", NOW),
    )
    for write in writes:
        with pytest.raises(LeaseError, match="experiment one no longer holds faq: stop does"):
            write()
    assert ledger.experiments("faq") == [begun]
    assert ledger.quarantined("faq", B) is None


def test_a_winner_is_promoted_on_record_in_the_same_moment(ledger: Ledger, lease: Lease) -> None:
    begun = begin(ledger, lease)
    with pytest.raises(DeliveryError, match="that is preparing cannot done"):
        ledger.crown(lease, begun, "d", "won", NOW)
    ledger.turn_experiment(lease, begun, Turn.SHARE, "50 %", NOW)
    ledger.turn_experiment(lease, begun, Turn.DECIDE, "B wins", NOW, decided=DECIDED)
    assert ledger.crown(lease, begun, "d", "won experiment tone", NOW).stage is Stage.ENDED
    (won,) = ledger.rollouts("faq")
    assert (won.release_digest, won.stable_digest, won.state) == (B, A, State.PROMOTED)
    failed = ledger.fail(lease, won.rollout_id, "bad answers", NOW, quarantined=True)
    assert failed.state is State.REVERTING
    assert ledger.advance(lease, won.rollout_id, Event.UNDONE, "bad answers", NOW).state is State.ROLLED_BACK
