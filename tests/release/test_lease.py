"""Holding an application: who lives keeps it, who was killed loses it, and nobody waits for the living."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tasks.errors import LeaseError
from tasks.release import lease as lease_module
from tasks.release.lease import holding
from tasks.release.rollout import Lease
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.stores.ledger import database as ledger_module
from tasks.traffic.plan import BUCKETS, Plan

LEASE_S = 2.5
PATIENCE_S = 20.0


class _Beats(Ledger):
    """A ledger that says when a lease was prolonged, and can be out of reach."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        object.__setattr__(self, "seen", threading.Semaphore(0))
        object.__setattr__(self, "failures", [])

    seen: threading.Semaphore
    failures: list[Exception]

    def renew(self, lease: Lease, now: datetime) -> None:
        if self.failures:
            raise self.failures.pop()
        super().renew(lease, now)
        self.seen.release()

    def await_beats(self, count: int) -> None:
        assert all(self.seen.acquire(timeout=PATIENCE_S) for _ in range(count))


@pytest.fixture(autouse=True)
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a lease so short that a test can outlive it."""
    monkeypatch.setattr(ledger_module, "LEASE_S", LEASE_S)
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", LEASE_S / 20)
    monkeypatch.setattr(lease_module, "_RETRY_S", LEASE_S / 6)


@pytest.fixture
def ledger(tmp_path: Path) -> _Beats:
    return _Beats(Settings(state_dir=tmp_path).ledger)


def plan(revision: int) -> Plan:
    return Plan(
        application="faq",
        revision=revision,
        salt="s",
        buckets=("a" * 64,) * BUCKETS,
        author="rollout one",
        reason="r",
        time=datetime(2026, 3, 1, tzinfo=UTC),
    )


def is_free(ledger: Ledger) -> bool:
    expiry = ledger.lease_expiry("faq")
    return expiry is None or expiry <= datetime.now(UTC)


def test_a_heartbeat_keeps_the_lease_longer_than_it_lives(ledger: _Beats) -> None:
    with holding(ledger, "faq", "rollout one") as lease:
        first = ledger.lease_expiry("faq")
        assert first is not None
        while datetime.now(UTC) <= first:
            ledger.await_beats(1)
        assert not is_free(ledger)
        ledger.write_plan(plan(1), lease)
    assert ledger.plan("faq") == plan(1)


def test_a_living_holder_is_not_waited_for(ledger: _Beats) -> None:
    with holding(ledger, "faq", "rollout one") as lease:
        with (
            pytest.raises(LeaseError, match="faq is being changed by rollout one; wait until it ends, or roll it back"),
            holding(ledger, "faq", "rollout two"),
        ):
            pytest.fail("two hold one application")
        ledger.write_plan(plan(1), lease)  # and who holds it noticed nothing


def test_another_application_is_nobody_elses_business(ledger: _Beats) -> None:
    with holding(ledger, "faq", "rollout one"), holding(ledger, "help", "rollout two") as other:
        assert (other.application, other.holder, other.token) == ("help", "rollout two", 1)


def test_a_killed_holder_is_waited_for_and_its_writes_are_refused_from_then_on(ledger: _Beats) -> None:
    killed = ledger.acquire("faq", "rollout one", datetime.now(UTC))  # and no heartbeat
    expiry = ledger.lease_expiry("faq")
    assert expiry is not None
    with holding(ledger, "faq", "rollout two") as lease:
        assert datetime.now(UTC) >= expiry
        assert lease.token == killed.token + 1
        with pytest.raises(LeaseError, match="rollout one no longer holds faq: rollout two does"):
            ledger.write_plan(plan(1), killed)


def test_a_rollback_seizes_at_once_and_the_rollout_can_write_no_more(ledger: _Beats) -> None:
    with holding(ledger, "faq", "rollout one") as lost:
        with holding(ledger, "faq", "rollback", seize=True) as lease:
            with pytest.raises(LeaseError, match="rollout one no longer holds faq: rollback does; nothing was written"):
                ledger.write_plan(plan(1), lost)
            ledger.write_plan(plan(1), lease)
            ledger.await_beats(2)
        assert is_free(ledger)
    assert ledger.plan("faq") == plan(1)


def test_who_lost_the_lease_does_not_give_away_that_of_its_successor(ledger: _Beats) -> None:
    with holding(ledger, "faq", "rollout one"):
        successor = ledger.acquire("faq", "rollback", datetime.now(UTC) + timedelta(hours=1), seize=True)
    assert not is_free(ledger)
    ledger.write_plan(plan(1), successor)


@pytest.mark.parametrize("error", [ValueError("a defect"), KeyboardInterrupt(), SystemExit(143)])
def test_the_lease_is_given_back_however_the_block_ends(ledger: _Beats, error: BaseException) -> None:
    with pytest.raises(type(error)), holding(ledger, "faq", "rollout one"):
        raise error
    assert is_free(ledger)
    with holding(ledger, "faq", "rollout two") as lease:
        assert lease.token == 2
    assert not any(thread.name == "lease" and thread.is_alive() for thread in threading.enumerate())


def test_a_database_that_is_away_for_a_moment_costs_nobody_the_lease(ledger: _Beats) -> None:
    ledger.failures.extend(OperationalError("update leases", {}, Exception("closed")) for _ in range(3))
    with holding(ledger, "faq", "rollout one"):
        ledger.await_beats(1)
        assert not ledger.failures
        assert not is_free(ledger)


def test_a_lost_lease_is_not_prolonged_again(ledger: _Beats) -> None:
    with holding(ledger, "faq", "rollout one"):
        ledger.acquire("faq", "rollback", datetime.now(UTC), seize=True)
        beat = next(thread for thread in threading.enumerate() if thread.name == "lease")
        beat.join(timeout=PATIENCE_S)
        assert not beat.is_alive()


def test_of_many_who_come_at_once_one_proceeds_and_the_others_are_told(tmp_path: Path) -> None:
    url = Settings(state_dir=tmp_path).ledger
    Ledger(url).plan("faq")
    start, refused, held = threading.Barrier(4), threading.Semaphore(0), []

    def work(name: str) -> None:
        ledger = Ledger(url)
        start.wait()
        try:
            with holding(ledger, "faq", name):
                held.append(name)
                for _ in range(3):
                    assert refused.acquire(timeout=PATIENCE_S)
        except LeaseError:
            refused.release()
        finally:
            ledger.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(held) == 1
