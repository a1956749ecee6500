"""Whether a rollout may begin, on the real ledger: freezes, quarantine and tests, and who set them aside."""

from __future__ import annotations

from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path

import pytest
from sample_release import release_of

from tasks.errors import FrozenError, QuarantineError, UntestedError
from tasks.release.admission import (
    Request,
    find_freeze,
    find_missing_test,
    is_quarantine_set_aside,
    lift_quarantine,
    record_request,
)
from tasks.release.freeze import Freeze
from tasks.release.history import Deed
from tasks.release.lifecycle import Event
from tasks.release.model import AbTest
from tasks.release.ramp import RampPolicy
from tasks.release.rollout import Lease, Rollout
from tasks.stores.ledger import Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FROZEN = RampPolicy(freezes=(Freeze(start=time(11), end=time(13), timezone="UTC", reason="the fair"),))
release = partial(release_of, 2, endpoint="models:/bot/2")


def request(override_reason: str = "", who: str = "ada") -> Request:
    return Request(who=who, override_reason=override_reason, time=NOW, flow_run_id="run-1")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    return ledger.acquire("faq", "rollout brave-fox", NOW)


def deeds(ledger: Ledger) -> list[tuple[Deed, str, str]]:
    return [(act.deed, act.who, act.reason) for act in ledger.acts("faq")]


def failed(ledger: Ledger, lease: Lease) -> Rollout:
    """Return a rollout that failed its ramp and was taken back."""
    ledger.remember(release())
    begun = ledger.begin_rollout(lease, release().digest, "bot-2", NOW)
    ledger.fail(lease, begun.rollout_id, "answers are wrong", NOW, quarantined=True)
    return ledger.advance(lease, begun.rollout_id, Event.UNDONE, "answers are wrong", NOW)


def test_a_freeze_refuses_until_a_reason_is_given() -> None:
    with pytest.raises(FrozenError, match="faq is frozen from 11:00 to 13:00 UTC: the fair; start it again after"):
        find_freeze(release(), FROZEN, request("  "))
    assert find_freeze(release(), FROZEN, request("a hotfix")) == "freeze from 11:00 to 13:00 UTC: the fair"
    assert not find_freeze(release(), RampPolicy(), request())


def test_a_quarantine_is_lifted_by_who_says_why(ledger: Ledger, lease: Lease) -> None:
    latest = failed(ledger, lease)
    with pytest.raises(QuarantineError, match="since 2026-03-01 12:00 UTC: answers are wrong; roll it out again only"):
        is_quarantine_set_aside(ledger, release(), latest, request())
    assert is_quarantine_set_aside(ledger, release(), latest, request("rebuilt"))
    assert ledger.quarantined("faq", release().digest) is not None
    lift_quarantine(ledger, lease, release(), request("rebuilt"))
    assert ledger.quarantined("faq", release().digest) is None
    lifted = next(entry for entry in ledger.history("faq").entries if entry.what == "quarantine lifted")
    assert (lifted.who, lifted.why, lifted.is_manual) == ("ada", "rebuilt", True)


def test_a_quarantine_lifted_by_nobody_in_particular_names_the_run(ledger: Ledger, lease: Lease) -> None:
    failed(ledger, lease)
    lift_quarantine(ledger, lease, release(), request("rebuilt", who=""))
    lifted = next(entry for entry in ledger.history("faq").entries if entry.what == "quarantine lifted")
    assert lifted.who == "rollout brave-fox"


def test_a_rollout_that_is_being_undone_needs_no_reason_to_go_on(ledger: Ledger, lease: Lease) -> None:
    begun = ledger.begin_rollout(lease, release().digest, "bot-2", NOW)
    undoing = ledger.fail(lease, begun.rollout_id, "answers are wrong", NOW, quarantined=True)
    assert not is_quarantine_set_aside(ledger, release(), undoing, request())
    assert ledger.quarantined("faq", release().digest) is not None


def test_a_missing_test_refuses_until_a_reason_is_given(ledger: Ledger) -> None:
    asked = release(ab_test=AbTest(name="tone", share=0.25))
    with pytest.raises(UntestedError, match="bot 2 asks for the A/B test 'tone', which has not been run; run it with"):
        find_missing_test(ledger, asked, request())
    assert find_missing_test(ledger, asked, request("the board wants it")) == "A/B test 'tone' has not been run"
    assert not find_missing_test(ledger, release(), request())


def test_who_began_a_rollout_and_what_was_set_aside_for_it_is_on_record(ledger: Ledger, lease: Lease) -> None:
    record_request(ledger, release(), None, "", request(who=""))
    assert deeds(ledger) == []
    record_request(ledger, release(), None, "", request())
    assert deeds(ledger) == [(Deed.ROLLOUT, "ada", "rollout of bot 2")]
    begun = ledger.begin_rollout(lease, release().digest, "bot-2", NOW)
    record_request(ledger, release(), begun, "", request())
    assert len(deeds(ledger)) == 1  # taken up again, not begun
    record_request(ledger, release(), begun, "freeze from 11:00", request("a hotfix", who=""))
    assert deeds(ledger)[0] == (Deed.OVERRIDE, "", "freeze from 11:00; set aside: a hotfix")
    audit = ledger.history("faq").audit
    assert {(entry.what, entry.release_digest, entry.flow_run_id) for entry in audit} == {
        (what, release().digest, "run-1") for what in ("rollout", "override")
    }
