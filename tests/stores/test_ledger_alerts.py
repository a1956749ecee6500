"""Alerts on record: one for each monitor, and notices that wait until they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError, NotFoundError
from tasks.monitors.alerts import Alert, AlertState, News, Signal, Turn
from tasks.monitors.notices import Message
from tasks.monitors.verdict import Outcome
from tasks.stores.ledger import Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    kind = request.param
    url = f"sqlite:///{tmp_path / 'l.db'}" if kind == "sqlite" else request.getfixturevalue("new_database")()
    ledger = Ledger(str(url))
    yield ledger
    ledger.close()


def route(alert: Alert, news: News) -> tuple[Message, ...]:
    return (Message(block="custom-webhook/a", subject=f"{news} {alert.monitor}", body=alert.reason),)


def signal(outcome: Outcome = Outcome.FAIL, monitor: str = "latency", night: int = 0, segment: str = "") -> Signal:
    return Signal(
        application="faq",
        release_digest="d" * 64,
        monitor=monitor,
        segment=segment,
        outcome=outcome,
        reason=f"night {night}",
        window_end=NOW + night * DAY,
    )


def test_alerts_are_told_apart_by_monitor_and_segment_and_come_back_as_written(ledger: Ledger) -> None:
    signals = [signal(), signal(), signal(segment="route=a"), signal(monitor="errors"), signal(Outcome.PASS, "drift")]
    told = ledger.signal_alerts(signals, route, NOW)
    assert [(alert.monitor, alert.segment, news) for alert, news in told] == [
        ("latency", "", News.OPENED),
        ("latency", "route=a", News.OPENED),
        ("errors", "", News.OPENED),
    ]
    assert {alert.alert_id: alert for alert, _ in told} == {alert.alert_id: alert for alert in ledger.alerts("faq")}
    assert ledger.alerts("other") == []
    assert len(ledger.notices()) == 3


def test_it_resolves_itself_is_opened_again_and_its_history_is_kept(ledger: Ledger) -> None:
    for night, outcome in enumerate((Outcome.FAIL, Outcome.FAIL, Outcome.PASS, Outcome.FAIL)):
        ledger.signal_alerts([signal(outcome, night=night)], route, NOW + night * DAY)
    ledger.signal_alerts([signal(Outcome.PASS, night=1)], route, NOW + 9 * DAY)  # an old night again
    (alert,) = ledger.alerts()
    assert (alert.state, alert.opened, alert.failures) == (AlertState.OPEN, NOW + 3 * DAY, 1)
    assert [turn for _, turn, _, _ in ledger.alert_history(alert.alert_id[:8])] == ["fail", "fail", "pass", "fail"]
    waiting = [notice.message.subject for notice in ledger.notices()]
    assert waiting == ["reopened latency"], "only the last word on an alert is sent"


def test_people_acknowledge_silence_and_resolve(ledger: Ledger) -> None:
    ((alert, _),) = ledger.signal_alerts([signal()], route, NOW)
    who: Any = {"who": "ann", "reason": "looking"}
    seen = ledger.turn_alert(alert.alert_id[:6], Turn.ACKNOWLEDGE, route, NOW, **who)
    assert (seen.state, seen.who) == (AlertState.ACKNOWLEDGED, "ann")
    with pytest.raises(InputError, match="which is acknowledged: 'acknowledge' is not allowed"):
        ledger.turn_alert(alert.alert_id, Turn.ACKNOWLEDGE, route, NOW, **who)
    ledger.turn_alert(alert.alert_id, Turn.SILENCE, route, NOW, until=NOW + DAY, **who)
    assert ledger.wake_alerts(route, NOW + DAY / 2) == ()
    ((woken, news),) = ledger.wake_alerts(route, NOW + DAY)
    assert (woken.state, news, woken.reason) == (AlertState.OPEN, News.STILL, "night 0")
    ledger.turn_alert(alert.alert_id, Turn.RESOLVE, route, NOW, **who)
    assert ledger.alerts() == []
    history = [(happened, by, why) for _, happened, by, why in ledger.alert_history(alert.alert_id)]
    assert history[1:3] == [("acknowledge", "ann", "looking"), ("silence", "ann", "looking")]
    assert [one.state for one in ledger.alerts(every=True)] == [AlertState.RESOLVED]
    for unknown in ("zz", ""):
        with pytest.raises(NotFoundError, match="no alert begins with"):
            ledger.turn_alert(unknown, Turn.RESOLVE, route, NOW, **who)


def test_a_notice_is_tried_until_it_arrives_and_by_one_at_a_time(ledger: Ledger) -> None:
    ledger.signal_alerts([signal()], route, NOW)
    (first,) = ledger.claim_notices(NOW)
    assert (first.attempts, ledger.claim_notices(NOW)) == (1, [])
    (abandoned,) = ledger.claim_notices(NOW + timedelta(minutes=2))  # who had it was killed
    assert abandoned.attempts == 2
    for attempt in range(3, 60):
        ledger.notice_failed(first.notice_id, "ConnectError", NOW + DAY)
        (again,) = ledger.claim_notices(NOW + 2 * DAY)
        assert (again.attempts, again.error) == (attempt, "ConnectError")
    ledger.notice_delivered(first.notice_id, NOW + DAY)
    assert ledger.notices() == []
    assert ledger.claim_notices(NOW + 9 * DAY) == []


def test_a_channel_that_the_policy_no_longer_names_is_not_tried(ledger: Ledger) -> None:
    ((alert, _),) = ledger.signal_alerts([signal()], route, NOW)
    assert ledger.drop_notices({"custom-webhook/a"}) == 0
    assert ledger.drop_notices(set()) == 1
    assert ledger.claim_notices(NOW) == []
    assert ledger.notices(alert.alert_id)[0].dropped == "the policy no longer names its channel"


def test_flows_that_find_the_same_at_once_open_one_alert(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: ledger.signal_alerts([signal()], route, NOW), range(8)))
    assert sum(len(one) for one in told) == 1
    assert len(ledger.alerts()) == 1
    assert len(ledger.notices()) == 1
    with ThreadPoolExecutor(8) as pool:
        claimed = [notice for found in pool.map(lambda _: ledger.claim_notices(NOW), range(8)) for notice in found]
    assert len(claimed) == 1
