"""The life of an alert, as pure functions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from tasks.errors import InputError
from tasks.monitors.alerts import (
    TRANSITIONS,
    Alert,
    AlertState,
    News,
    Signal,
    Turn,
    apply_signal,
    find_signals,
    turn,
)
from tasks.monitors.notices import AlertPolicy, Channel, describe_failure, next_delay, read_alert_policy, route_by
from tasks.monitors.verdict import Check, Outcome, Verdict

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OPEN = Alert(
    alert_id="a" * 32,
    application="faq",
    release_digest="d" * 64,
    monitor="latency",
    segment="",
    state=AlertState.OPEN,
    outcome=Outcome.FAIL,
    reason="p95 latency 1340 ms > limit 1000 ms (n=812)",
    opened=NOW,
    changed=NOW,
    window_end=NOW,
)


def signal(outcome: Outcome, end: datetime = NOW + DAY, reason: str = "said") -> Signal:
    return Signal(
        application="faq", release_digest="d" * 64, monitor="latency", outcome=outcome, reason=reason, window_end=end
    )


def after(found: Alert | None, outcome: Outcome, end: datetime = NOW + DAY) -> tuple[Alert, News | None]:
    result = apply_signal(found, signal(outcome, end), NOW + DAY, "b" * 32)
    assert result is not None
    return result


def in_state(state: AlertState, **changes: object) -> Alert:
    until = NOW + 9 * DAY if state is AlertState.SILENCED else None
    return replace(OPEN, **{"state": state, "silenced_until": until, **changes})  # type: ignore[arg-type]


def test_a_failure_opens_an_alert_and_is_told_once() -> None:
    opened, news = after(None, Outcome.FAIL)
    assert (opened.state, opened.alert_id, opened.failures, news) == (AlertState.OPEN, "b" * 32, 1, News.OPENED)
    again, silence = after(opened, Outcome.FAIL, NOW + 2 * DAY)
    assert (again.state, again.failures, silence) == (AlertState.OPEN, 2, None)
    assert again.opened == opened.opened
    rerun, _ = after(again, Outcome.FAIL, NOW + 2 * DAY)
    assert rerun.failures == 2, "the same window counts once"


@pytest.mark.parametrize("state", [AlertState.OPEN, AlertState.ACKNOWLEDGED, AlertState.SILENCED])
def test_a_pass_resolves_it_and_a_silenced_one_quietly(state: AlertState) -> None:
    resolved, news = after(in_state(state, who="ann"), Outcome.PASS)
    assert (resolved.state, resolved.who, resolved.silenced_until) == (AlertState.RESOLVED, "", None)
    assert news is (None if state is AlertState.SILENCED else News.RESOLVED)
    assert apply_signal(resolved, signal(Outcome.PASS), NOW, "") is None
    assert apply_signal(None, signal(Outcome.PASS), NOW, "") is None


@pytest.mark.parametrize("state", [AlertState.ACKNOWLEDGED, AlertState.SILENCED])
def test_one_that_somebody_has_seen_stays_quiet_while_it_fails(state: AlertState) -> None:
    found, news = after(in_state(state, who="ann"), Outcome.FAIL)
    assert (found.state, found.who, found.failures, news) == (state, "ann", 2, None)


def test_a_graver_outcome_is_news() -> None:
    found, news = after(in_state(AlertState.ACKNOWLEDGED, outcome=Outcome.ERROR), Outcome.FAIL)
    assert (found.state, news) == (AlertState.ACKNOWLEDGED, News.WORSE)
    assert after(in_state(AlertState.SILENCED, outcome=Outcome.ERROR), Outcome.FAIL)[1] is None


def test_it_is_opened_again_under_its_id() -> None:
    found, news = after(in_state(AlertState.RESOLVED, failures=7), Outcome.FAIL)
    assert (found.alert_id, found.failures, found.opened, news) == (OPEN.alert_id, 1, NOW + DAY, News.REOPENED)


def test_an_old_night_that_is_judged_again_changes_nothing() -> None:
    for outcome in (Outcome.FAIL, Outcome.PASS):
        assert apply_signal(OPEN, signal(outcome, NOW - DAY), NOW, "") is None


def test_what_a_person_resolved_is_opened_by_a_later_window_only() -> None:
    resolved, news = turn(OPEN, Turn.RESOLVE, NOW, reason="known", who="ann")
    assert (resolved.state, resolved.who, news) == (AlertState.RESOLVED, "ann", News.RESOLVED)
    assert apply_signal(resolved, signal(Outcome.FAIL, NOW), NOW, "") is None
    assert after(resolved, Outcome.FAIL)[1] is News.REOPENED


def test_a_silence_ends_and_is_told() -> None:
    silenced, news = turn(OPEN, Turn.SILENCE, NOW, reason="noise", who="ann", until=NOW + DAY)
    assert (silenced.state, silenced.silenced_until, news) == (AlertState.SILENCED, NOW + DAY, None)
    woken, told = turn(silenced, Turn.EXPIRE, NOW + DAY, reason="x")
    assert (woken.state, woken.silenced_until, told) == (AlertState.OPEN, None, News.STILL)
    with pytest.raises(InputError, match="until: '2026-03-01 12:00:00\\+00:00' is not allowed; allowed: a time after"):
        turn(OPEN, Turn.SILENCE, NOW, reason="noise", who="ann", until=NOW)


@pytest.mark.parametrize(("state", "happened"), list(product(AlertState, Turn)))
def test_every_turn_is_in_the_table_or_refused(state: AlertState, happened: Turn) -> None:
    if (state, happened) in TRANSITIONS:
        found, _ = turn(in_state(state), happened, NOW, reason="r", who="ann", until=NOW + DAY)
        assert found.state is TRANSITIONS[state, happened]
    else:
        with pytest.raises(InputError, match=f"alert {'a' * 12}, which is {state}: '{happened}' is not allowed"):
            turn(in_state(state), happened, NOW, reason="r", who="ann", until=NOW + DAY)


def check(monitor: str, outcome: Outcome, statement: str = "s") -> Check:
    return Check(monitor=monitor, outcome=outcome, statement=statement, value=1.0, limit=2.0, n=50)


def test_monitors_speak_once_each_and_what_is_inconclusive_says_nothing() -> None:
    checks = (
        check("data", Outcome.PASS),
        check("drift", Outcome.PASS, "a"),
        check("drift", Outcome.FAIL, "b"),
        check("quality", Outcome.INCONCLUSIVE),
        check("coverage", Outcome.INCONCLUSIVE, "half a night"),
    )
    verdict = Verdict(application="faq", release_digest="d" * 64, window_start=NOW, window_end=NOW + DAY, checks=checks)
    found = find_signals(
        verdict, [("route=a", check("errors", Outcome.FAIL)), ("route=b", check("errors", Outcome.PASS))]
    )
    assert [(one.monitor, one.segment, one.outcome.value, one.reason) for one in found] == [
        ("data", "", "pass", "s"),
        ("drift", "", "fail", "b"),
        ("coverage", "", "error", "half a night"),
        ("errors", "route=a", "fail", "s"),
        ("errors", "route=b", "pass", "s"),
    ]


def test_a_policy_says_who_is_told_what() -> None:
    policy = AlertPolicy(
        channels=(
            Channel(block="slack-webhook/oncall", applications=("faq",), outcomes=(Outcome.FAIL,), segments=False),
            Channel(block="slack-webhook/oncall"),
            Channel(block="custom-webhook/pager", monitors=("errors",)),
            Channel(block="custom-webhook/log", resolved=False),
        )
    )
    route = route_by(policy)
    assert [one.block for one in route(OPEN, News.OPENED)] == ["slack-webhook/oncall", "custom-webhook/log"]
    assert [one.block for one in route(in_state(AlertState.RESOLVED), News.RESOLVED)] == ["slack-webhook/oncall"]
    (message, _) = route(replace(OPEN, segment="route=a"), News.OPENED)
    assert message.subject == f"[fail] opened: faq, release {'d' * 12}: latency of route=a"
    assert message.body.splitlines() == [
        "p95 latency 1340 ms > limit 1000 ms (n=812)",
        "window until 2026-03-01 12:00 UTC",
        "open since 2026-03-01 12:00 UTC, 1 windows",
        f"delivery alerts ack {'a' * 12}",
    ]


def test_retries_wait_longer_each_time_and_never_end() -> None:
    minutes = [next_delay(attempts) / timedelta(minutes=1) for attempts in (1, 2, 3, 6, 7, 5000)]
    assert minutes == [1, 2, 4, 32, 60, 60]


def test_a_failure_is_told_without_its_address() -> None:
    import httpx

    request = httpx.Request("POST", "https://hooks.example/secret")
    error = httpx.HTTPStatusError("for url https://hooks.example/secret", request=request, response=httpx.Response(503))
    assert describe_failure(error) == "HTTPStatusError, status 503"
    assert describe_failure(OSError("https://hooks.example/secret")) == "OSError"


def test_without_a_policy_file_nobody_is_told_and_a_bad_one_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("policy")
    assert read_alert_policy(folder).channels == ()
    (folder / "alerts.yaml").write_text("channels: [{block: slack-webhook/oncall, outcomes: [fail]}]\n")
    assert read_alert_policy(folder).channels[0].outcomes == (Outcome.FAIL,)
    (folder / "alerts.yaml").write_text("channels: [{block: https://hooks.example/secret}]\n")
    with pytest.raises(InputError, match=r"alerts\.yaml.*channels"):
        read_alert_policy(folder)
