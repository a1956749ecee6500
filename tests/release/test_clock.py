"""A clock that is set back: a dead holder's lease is still taken over, and the order of rollouts stays what it was."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.errors import LeaseError
from tasks.release import lease as lease_module
from tasks.release.lease import holding
from tasks.release.lifecycle import Event
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.stores.ledger import database as ledger_module

LEASE_S = 1.0
HOUR = timedelta(hours=1)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    for module in (ledger_module, lease_module):
        monkeypatch.setattr(module, "LEASE_S", LEASE_S)
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", LEASE_S / 10)
    monkeypatch.setattr(lease_module, "_RETRY_S", LEASE_S / 10)
    return Ledger(Settings(state_dir=tmp_path).ledger)


@pytest.mark.parametrize("seize", [False, True])
def test_the_lease_of_a_holder_that_died_before_the_clock_was_set_back_is_taken_over(
    ledger: Ledger, seize: bool
) -> None:
    # An hour ahead: it was acquired when the clock said so, by a rollback, which another rollback waits for.
    dead = ledger.acquire("faq", "rollback one", datetime.now(UTC) + HOUR, seize=True)
    began = time.monotonic()
    with holding(ledger, "faq", "rollback two", seize=seize) as lease:
        assert time.monotonic() - began >= LEASE_S
        assert lease.token == dead.token + 1
        ledger.renew(lease, datetime.now(UTC))
        with pytest.raises(LeaseError, match="rollback one no longer holds faq: rollback two does"):
            ledger.renew(dead, datetime.now(UTC))


def test_a_holder_that_lives_when_the_clock_is_set_back_is_not_waited_for(ledger: Ledger) -> None:
    living = ledger.acquire("faq", "rollout one", datetime.now(UTC) + HOUR)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(LEASE_S / 5):
            ledger.renew(living, datetime.now(UTC))  # the clock is right again: this lease runs out earlier than before

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with (
            pytest.raises(LeaseError, match="faq is being changed by rollout one"),
            holding(ledger, "faq", "rollout two"),
        ):
            pytest.fail("two hold one application")
    finally:
        stop.set()
        thread.join()
    ledger.renew(living, datetime.now(UTC))


def test_a_rollout_that_began_later_comes_first_although_the_clock_was_set_back(ledger: Ledger) -> None:
    now = datetime.now(UTC)
    lease = ledger.acquire("faq", "rollout", now)
    for digest, time_of in (("a" * 64, now), ("b" * 64, now - HOUR), ("c" * 64, now - 2 * HOUR)):
        begun = ledger.begin_rollout(lease, digest, "id", time_of)
        for happened in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT, Event.PROMOTE):
            ledger.advance(lease, begun.rollout_id, happened, "r", time_of)
    assert [rollout.release_digest[0] for rollout in ledger.rollouts("faq")] == ["c", "b", "a"]
