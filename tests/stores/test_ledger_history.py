"""One line of time from all tables of the ledger, and the alerts of a release that was rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sample_release import release_of

from tasks.monitors.alerts import ROLLBACK, Alert, AlertState, News, Signal, Turn
from tasks.monitors.notices import Message
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.history import Act, Deed
from tasks.release.lifecycle import Event, State
from tasks.release.rollout import Action, Decision, Lease
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
OLD, NEW = (release_of(version, endpoint="models:/b/1", text="x") for version in (1, 2))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    kind = request.param
    url = f"sqlite:///{tmp_path / 'l.db'}" if kind == "sqlite" else request.getfixturevalue("new_database")()
    made = Ledger(str(url))
    yield made
    made.close()


def route(_alert: Alert, news: News) -> tuple[Message, ...]:
    return (Message(block="custom-webhook/a", subject=str(news), body="b"),)


def serve(ledger: Ledger, lease: Lease, revision: int, new: int, at: datetime) -> None:
    buckets = (NEW.digest,) * new + (OLD.digest,) * (BUCKETS - new)
    plan = Plan(
        application="faq", revision=revision, salt="s", buckets=buckets, author="flow", reason=f"to {new}", time=at
    )
    ledger.write_plan(plan, lease)


def fail_on_the_ramp(ledger: Ledger) -> Lease:
    """Put a rollout on record that a person held, took up and that failed at a quarter of the users."""
    lease = ledger.acquire("faq", "flow", NOW)
    for known in (OLD, NEW):
        ledger.remember(known)
    serve(ledger, lease, 1, 0, NOW)
    begun = ledger.begin_rollout(lease, NEW.digest, "bot-2", NOW + MINUTE)
    for number, happened in enumerate((Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT), 2):
        ledger.advance(lease, begun.rollout_id, happened, "so", NOW + number * MINUTE)
    serve(ledger, lease, 2, 250, NOW + 5 * MINUTE)
    ledger.record_decision(begun.rollout_id, Decision(Action.HOLD, 250, "ann", "lunch", NOW + 6 * MINUTE))
    check = Check(monitor="errors", outcome=Outcome.FAIL, statement="errors 9 % > 2 %", value=0.09, limit=0.02, n=300)
    judged = Verdict(
        application="faq", release_digest=NEW.digest, window_start=NOW, window_end=NOW + 7 * MINUTE, checks=(check,)
    )
    ledger.record_verdict(judged, kind="ramp", flow_run_id="run", recorded=NOW + 7 * MINUTE)
    act = Act(
        deed=Deed.ABORT, application="faq", release_digest=NEW.digest, who="bob", reason="9 %", time=NOW + 8 * MINUTE
    )
    ledger.record_act(act)
    ledger.fail(lease, begun.rollout_id, "the ramp failed", NOW + 9 * MINUTE, quarantined=True)
    serve(ledger, lease, 3, 0, NOW + 10 * MINUTE)
    ledger.advance(lease, begun.rollout_id, Event.UNDONE, "back", NOW + 11 * MINUTE)
    ledger.lift_quarantine(lease, NEW.digest, "cyd", "rebuilt", NOW + 12 * MINUTE)
    return lease


def test_all_that_happened_stands_in_one_line_of_time(ledger: Ledger) -> None:
    fail_on_the_ramp(ledger)
    everybody = Act(deed=Deed.REPRICE, application="", who="dan", reason="new prices", time=NOW + 13 * MINUTE)
    ledger.record_act(everybody)
    elsewhere = Act(deed=Deed.ROLLBACK, application="other", who="eve", reason="r", time=NOW)
    ledger.record_act(elsewhere)
    found = ledger.history("faq")
    assert [(entry.kind.value, entry.what, entry.who) for entry in reversed(found.entries)] == [
        ("plan", "plan 1", "flow"),
        ("rollout", "registered", ""),
        ("rollout", "deploy: deployed", ""),
        ("rollout", "smoke passed: tested", ""),
        ("rollout", "shift traffic: ramping", ""),
        ("plan", "plan 2", "flow"),
        ("decision", "hold", "ann"),
        ("verdict", "ramp: fail", ""),
        ("act", "abort", "bob"),
        ("quarantine", "quarantined", ""),
        ("rollout", "fail: reverting", ""),
        ("plan", "plan 3", "flow"),
        ("rollout", "undone: rolled back", ""),
        ("quarantine", "quarantine lifted", "cyd"),
        ("act", "reprice", "dan"),
    ]
    assert [entry.who for entry in reversed(found.audit)] == ["ann", "bob", "cyd", "dan"]
    (stopped,) = found.prevented
    assert (stopped.gate, stopped.share, stopped.monitors) == ("ramp", 0.25, ("errors",))
    assert found.labels == {OLD.digest: "bot 1", NEW.digest: "bot 2"}
    assert ledger.acts("faq")[0] == everybody
    assert found.to_json()["entries"][-1]["shares"] == {OLD.digest: 1.0}
    assert ledger.history("nobody").audit == (found.audit[0],)


def failed(monitor: str, end: datetime, outcome: Outcome = Outcome.FAIL) -> Signal:
    return Signal(
        application="faq",
        release_digest=NEW.digest,
        monitor=monitor,
        outcome=outcome,
        reason=f"{monitor} until {end:%d}",
        window_end=end,
    )


def done(at: datetime, failed_at: datetime) -> Alert:
    return Alert(
        alert_id=f"{at:%d%H%M}",
        application="faq",
        release_digest=NEW.digest,
        monitor=ROLLBACK,
        segment="",
        state=AlertState.RESOLVED,
        outcome=Outcome.FAIL,
        reason="bot 2 is out",
        opened=at,
        changed=at,
        window_end=failed_at,
        who="ann",
    )


def states(ledger: Ledger) -> dict[str, str]:
    return {alert.monitor: alert.state.value for alert in ledger.alerts("faq", every=True)}


def test_a_rollback_resolves_the_alerts_of_its_release_once_and_what_comes_late_opens_none(ledger: Ledger) -> None:
    lease = fail_on_the_ramp(ledger)
    # Quarantined again, as by a rollback; its plan is out of force already.
    rollout = ledger.begin_rollout(lease, NEW.digest, "bot-2", NOW + DAY)
    ledger.signal_alerts([failed("errors", NOW), failed("latency", NOW), failed("drift", NOW)], route, NOW)
    ledger.signal_alerts([failed("drift", NOW + DAY, Outcome.PASS)], route, NOW)
    ledger.fail(lease, rollout.rollout_id, "again", NOW + DAY, quarantined=True)
    told = ledger.report_rollback(done(NOW + DAY, NOW + DAY), route)
    assert sorted((alert.monitor, news) for alert, news in told) == [
        ("errors", News.RESOLVED),
        ("latency", News.RESOLVED),
        (ROLLBACK, News.ROLLED_BACK),
    ]
    assert ledger.report_rollback(done(NOW + DAY + MINUTE, NOW + DAY), route) == ()
    assert set(states(ledger).values()) == {"resolved"}
    late = [failed("errors", NOW + DAY), failed("quality", NOW + 2 * DAY)]
    assert ledger.signal_alerts(late, route, NOW + 2 * DAY) == ()
    assert set(states(ledger)) == {"errors", "latency", "drift", ROLLBACK}
    ((again, news),) = ledger.report_rollback(done(NOW + 3 * DAY, NOW + 3 * DAY), route)
    assert (again.alert_id, news) == (f"{NOW + DAY:%d%H%M}", News.ROLLED_BACK)
    closed = [entry for entry in ledger.history("faq").entries if entry.what == "errors: resolve"]
    assert [(entry.who, entry.is_manual, entry.why) for entry in closed] == [(ROLLBACK, False, "bot 2 is out")]


def test_a_release_in_quarantine_that_still_serves_keeps_its_alerts(ledger: Ledger) -> None:
    lease = fail_on_the_ramp(ledger)
    rollout = ledger.begin_rollout(lease, NEW.digest, "bot-2", NOW + DAY)
    serve(ledger, lease, 4, 100, NOW + DAY)
    ledger.fail(lease, rollout.rollout_id, "again", NOW + DAY, quarantined=True)
    ((alert, news),) = ledger.signal_alerts([failed("errors", NOW + DAY)], route, NOW + DAY)
    assert (alert.state, news) == (AlertState.OPEN, News.OPENED)


def test_an_alert_that_nothing_could_come_back_is_over_once_the_release_has_no_users(ledger: Ledger) -> None:
    lease = fail_on_the_ramp(ledger)
    serve(ledger, lease, 4, BUCKETS, NOW + DAY)
    ledger.signal_alerts([failed(ROLLBACK, NOW), failed("errors", NOW)], route, NOW)
    assert ledger.close_rollback_alerts("faq", "gone", route, NOW + DAY) == ()
    serve(ledger, lease, 5, 0, NOW + DAY)
    ((alert, _),) = ledger.close_rollback_alerts("faq", "gone", route, NOW + DAY)
    assert (alert.monitor, alert.who, alert.reason) == (ROLLBACK, "reconcile", "gone")
    assert states(ledger) == {ROLLBACK: "resolved", "errors": "open"}


def test_what_people_do_to_alerts_and_when_a_rollout_was_held_is_found(ledger: Ledger) -> None:
    lease = fail_on_the_ramp(ledger)
    ((alert, _),) = ledger.signal_alerts([failed("errors", NOW)], route, NOW)
    ledger.turn_alert(alert.alert_id, Turn.ACKNOWLEDGE, route, NOW + DAY, who="fay", reason="I look")
    (entry,) = [entry for entry in ledger.history("faq").audit if entry.who == "fay"]
    assert (entry.what, entry.why, entry.time) == ("errors: acknowledge", "I look", NOW + DAY)
    rollout = ledger.begin_rollout(lease, NEW.digest, "bot-2", NOW + DAY)
    assert ledger.last_hold(rollout.rollout_id) is None
    for happened in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT):
        ledger.advance(lease, rollout.rollout_id, happened, "so", NOW + DAY)
    held = ledger.advance(lease, rollout.rollout_id, Event.HOLD, "so", NOW + 2 * DAY)
    assert (held.state, ledger.last_hold(rollout.rollout_id)) == (State.HELD, NOW + 2 * DAY)
