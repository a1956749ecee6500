"""What a reconciliation says of alerts: nights that nobody judged, and rollbacks that somebody else took care of."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Completed, Failed

from tasks.monitors.alerts import ROLLBACK, Alert, News, Signal
from tasks.monitors.notices import Message
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release import reconcile_steps, telling
from tasks.release.lifecycle import State
from tasks.release.reconcile_steps import conclude, conclude_all, look, tend_alerts
from tasks.release.reconciling import EVENT_S, Cure
from tasks.release.rollout import Lease, Rollout
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan

pytestmark = pytest.mark.usefixtures("either_ledger")
OLD, NEW = "1" * 64, "2" * 64


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the events that are emitted; there is no server here."""
    events = list[str]()

    def emit(event: str, **_: Any) -> None:
        events.append(event)

    monkeypatch.setattr(telling, "emit_event", emit)
    return events


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let steps log without a run."""
    monkeypatch.setattr(reconcile_steps, "get_run_logger", lambda: logging.getLogger("test"))


def nobody(_alert: Alert, _news: News) -> tuple[Message, ...]:
    return ()


def serve(ledger: Ledger, revision: int, digest: str, at: datetime) -> None:
    lease = ledger.acquire("faq", "me", at)
    plan = Plan(
        application="faq", revision=revision, salt="s", buckets=(digest,) * BUCKETS, author="a", reason="r", time=at
    )
    ledger.write_plan(plan, lease)
    ledger.release_lease(lease)


def judge(ledger: Ledger, at: datetime, outcome: Outcome = Outcome.PASS) -> None:
    check = Check(monitor="errors", outcome=outcome, statement="fine", value=0.0, limit=0.1, n=9)
    verdict = Verdict(
        application="faq", release_digest=OLD, window_start=at - timedelta(days=1), window_end=at, checks=(check,)
    )
    ledger.record_verdict(verdict, kind="evaluation", recorded=at)


def fail_while_changed(ledger: Ledger, now: datetime) -> tuple[Lease, Rollout]:
    """Have a release serve that failed its night so long ago that its event is lost, while somebody holds the lease."""
    serve(ledger, 1, OLD, now - timedelta(days=3))
    lease = ledger.acquire("faq", "me", now)
    begun = ledger.begin_rollout(lease, OLD, "bot-1", now - timedelta(days=2))
    judge(ledger, now - timedelta(seconds=EVENT_S + 60), Outcome.FAIL)
    return lease, begun


def strand(ledger: Ledger, digest: str, now: datetime) -> None:
    """Have people told that nothing can come back in place of a release."""
    signal = Signal(
        application="faq",
        release_digest=digest,
        monitor=ROLLBACK,
        outcome=Outcome.FAIL,
        reason="nothing proven can come back",
        window_end=now,
    )
    ledger.signal_alerts([signal], nobody, now)


def test_a_missed_night_is_one_alert_of_the_application_until_a_night_is_judged(
    tmp_path: Path, emitted: list[str]
) -> None:
    (tmp_path / "alerts.yaml").write_text("channels: [{block: slack-webhook/oncall}]\n")
    where, now = Settings(state_dir=tmp_path), datetime.now(UTC)
    ledger = Ledger(where.ledger)
    serve(ledger, 1, OLD, now - timedelta(hours=30))
    for _ in range(3):
        tend_alerts.fn(where, "faq")
    (alert,) = ledger.alerts("faq")
    assert (alert.monitor, alert.failures, alert.label) == ("evaluation", 1, "faq: evaluation")
    (notice,) = ledger.notices(alert.alert_id)
    assert notice.message.subject == "[error] opened: faq: evaluation"
    assert notice.message.body.startswith("no night was ever judged, and the first plan was written 30.0 h ago > limit")
    judge(ledger, now)
    tend_alerts.fn(where, "faq")
    assert ledger.alerts("faq") == []
    assert emitted == ["delivery.alert.opened", "delivery.alert.resolved"]
    ledger.close()


def test_an_alert_that_nothing_could_come_back_is_closed_where_the_release_has_no_users_left(
    tmp_path: Path, emitted: list[str]
) -> None:
    where, now = Settings(state_dir=tmp_path), datetime.now(UTC)
    ledger = Ledger(where.ledger)
    serve(ledger, 1, NEW, now)
    strand(ledger, NEW, now)
    tend_alerts.fn(where, "faq")
    assert [alert.monitor for alert in ledger.alerts("faq")] == [ROLLBACK]
    serve(ledger, 2, OLD, now)
    tend_alerts.fn(where, "faq")
    assert ledger.alerts("faq") == []
    assert emitted == ["delivery.alert.resolved"]
    tend_alerts.fn(where, "unknown")
    ledger.close()


@pytest.mark.usefixtures("quiet")
def test_a_failed_night_whose_event_was_lost_is_found_though_somebody_changes_the_application(tmp_path: Path) -> None:
    where, now = Settings(state_dir=tmp_path), datetime.now(UTC)
    ledger = Ledger(where.ledger)
    _, begun = fail_while_changed(ledger, now)
    (gap,) = look.fn(where, "faq")
    assert (gap.release_digest, gap.cure, gap.reason) == (OLD, Cure.ROLL_BACK, "fine")
    judge(ledger, now - timedelta(seconds=EVENT_S / 2), Outcome.FAIL)
    assert look.fn(where, "faq") == ()  # the event of the later night is on its way
    judge(ledger, now, Outcome.PASS)
    assert look.fn(where, "faq") == ()
    assert begun.state is State.REGISTERED
    ledger.close()


@pytest.mark.usefixtures("quiet")
def test_where_nothing_can_come_back_whoever_rolls_out_the_cure_is_left_alone(tmp_path: Path) -> None:
    where, now = Settings(state_dir=tmp_path), datetime.now(UTC)
    ledger = Ledger(where.ledger)
    lease, _ = fail_while_changed(ledger, now)
    assert len(look.fn(where, "faq")) == 1
    strand(ledger, OLD, now)
    assert look.fn(where, "faq") == ()
    ledger.release_lease(lease)
    assert len(look.fn(where, "faq")) == 1  # nobody is at it any more
    ledger.close()


def test_one_application_that_cannot_be_put_right_is_named_and_the_others_are_told_of() -> None:
    well, cured = conclude(()), Completed(name="Reconciled", message="RolledBack: bot 3 is out")
    broken = Failed(message="UnreachableError: node b does not answer")
    assert conclude_all(["a", "b"], [well, well]).name == "NothingToDo"
    assert conclude_all(["a", "b"], [well, cured]).message == "b: RolledBack: bot 3 is out"
    state = conclude_all(["a", "b", "c"], [broken, cured, well])
    assert state.is_failed()
    assert state.message == "a: UnreachableError: node b does not answer; b: RolledBack: bot 3 is out"
