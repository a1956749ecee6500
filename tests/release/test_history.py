"""The history of an application: what was stopped in time, what is left out, and how people see it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.monitors.verdict import Check, Outcome, RecordedVerdict, Verdict
from tasks.release.history import Entry, History, Kind, Prevented, find_prevented, in_order
from tasks.release.history_report import MAX_ROWS, history_markdown, summarise
from tasks.release.lifecycle import State
from tasks.release.rollout import Rollout
from tasks.release.share_chart import draw_shares
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD, NEW = "1" * 64, "2" * 64


def plan(revision: int, new: int, hours: float) -> Plan:
    buckets = (NEW,) * new + (OLD,) * (BUCKETS - new)
    time = NOW + hours * HOUR
    return Plan(application="faq", revision=revision, salt="s", buckets=buckets, author="a", reason="r", time=time)


def rollout(state: State, hours: float = 2) -> Rollout:
    return Rollout(
        rollout_id="r",
        application="faq",
        release_digest=NEW,
        stable_digest=OLD,
        deployment_id="d",
        state=state,
        started=NOW,
        changed=NOW + hours * HOUR,
        reason="",
    )


def verdict(kind: str, outcome: Outcome, hours: float = 1, digest: str = NEW) -> RecordedVerdict:
    time = NOW + hours * HOUR
    checks = (
        Check(monitor="errors", outcome=outcome, statement="errors 9 % > 2 %", value=0.09, limit=0.02, n=300),
        Check(monitor="latency", outcome=Outcome.PASS, statement="fine", value=1.0, limit=2.0, n=300),
    )
    judged = Verdict(application="faq", release_digest=digest, window_start=NOW, window_end=time, checks=checks)
    return RecordedVerdict(verdict_id=kind, kind=kind, recorded=time, verdict=judged)


PLANS = [plan(3, 0, 2), plan(2, 250, 0.5), plan(1, 0, -24)]


@pytest.mark.parametrize("kind", ["smoke", "ramp", "evaluation"])
@pytest.mark.parametrize("state", [State.REJECTED, State.ROLLED_BACK, State.REVERTING])
def test_a_release_that_a_check_stopped_is_an_incident_prevented(kind: str, state: State) -> None:
    (found,) = find_prevented(PLANS, [rollout(state)], [verdict(kind, Outcome.PASS, 0.1), verdict(kind, Outcome.FAIL)])
    assert (found.gate, found.share, found.monitors, found.reason) == (kind, 0.25, ("errors",), "errors 9 % > 2 %")
    assert (found.release_digest, found.began, found.ended, found.users) == (NEW, NOW, NOW + 2 * HOUR, None)


@pytest.mark.parametrize(
    ("state", "plans", "verdicts"),
    [
        (State.PROMOTED, PLANS, [verdict("ramp", Outcome.FAIL)]),
        (State.ROLLED_BACK, [plan(2, BUCKETS, 0.5), *PLANS], [verdict("evaluation", Outcome.FAIL)]),
        (State.ROLLED_BACK, PLANS, [verdict("ramp", Outcome.INCONCLUSIVE)]),
        (State.ROLLED_BACK, PLANS, [verdict("ramp", Outcome.FAIL, digest=OLD)]),
        (State.ROLLED_BACK, PLANS, [verdict("ramp", Outcome.FAIL, hours=3)]),
        (State.ROLLED_BACK, PLANS, [verdict("costs", Outcome.FAIL)]),
        (State.ROLLED_BACK, PLANS, []),
    ],
    ids=["promoted", "every user had it", "inconclusive", "another's", "after it", "no gate", "a person's word"],
)
def test_what_is_none(state: State, plans: list[Plan], verdicts: list[RecordedVerdict]) -> None:
    assert find_prevented(plans, [rollout(state)], verdicts) == ()


def entry(hours: float, kind: Kind = Kind.ROLLOUT, digest: str = NEW, *, manual: bool = False) -> Entry:
    made = Entry(time=NOW + hours * HOUR, kind=kind, what="w", release_digest=digest, who="ann", why="a | b")
    return replace(made, is_manual=manual)


def test_what_follows_from_something_at_the_same_moment_stands_above_it() -> None:
    found = in_order([entry(0, Kind.PLAN), entry(0, Kind.VERDICT), entry(1), entry(0, Kind.QUARANTINE)])
    assert [one.kind for one in found] == [Kind.ROLLOUT, Kind.PLAN, Kind.QUARANTINE, Kind.VERDICT]


def history(*entries: Entry, prevented: tuple[Prevented, ...] = ()) -> History:
    labels = {OLD: "bot <1>", NEW: "bot 2"}
    return History(application="faq", entries=entries, plans=tuple(PLANS), prevented=prevented, labels=labels)


def test_it_is_narrowed_by_time_and_release_and_the_chart_begins_with_the_plan_in_force_then() -> None:
    shared = replace(entry(3, Kind.PLAN, ""), shares={OLD: 0.75, NEW: 0.25})
    whole = history(entry(2), entry(2, digest=OLD), entry(0), shared)
    found = whole.narrowed(NOW + HOUR, NEW)
    assert found.entries == (whole.entries[0], shared)
    assert [(one.revision, one.time) for one in found.plans] == [(3, PLANS[0].time), (2, NOW + HOUR)]
    assert whole.narrowed(None, None) == whole


STOPPED = Prevented(
    release_digest=NEW,
    began=NOW,
    ended=NOW + HOUR,
    gate="ramp",
    share=0.25,
    monitors=("errors",),
    reason="errors 9 % > 2 %",
    users=31,
)


def test_what_was_prevented_is_summed_up_and_unknown_users_are_not_none() -> None:
    unknown = replace(STOPPED, gate="smoke", users=None)
    assert summarise([]) == "No release was stopped before it had every user."
    assert summarise([STOPPED, STOPPED, unknown]) == (
        "3 releases were stopped before they had every user: 1 by the smoke test, 2 by the ramp. "
        "Users who met them: 62, and of 1 that is not known."
    )


def test_the_artifact_has_the_chart_the_incidents_and_the_audit() -> None:
    text = history_markdown(
        history(entry(1, manual=True), *[entry(0)] * MAX_ROWS, prevented=(STOPPED,)), NOW + 9 * HOUR
    )
    drawn = text.partition("base64,")[2].partition(")")[0]
    assert ET.fromstring(b64decode(drawn)).tag.endswith("svg")  # noqa: S314 - our own
    assert "| 2026-03-10 01:00 | bot 2 (222222222222) | ramp | 25.0% | 31 | errors | errors 9 % > 2 % |" in text
    audit = text.partition("## What people did")[2].partition("## All")[0]
    assert [line for line in audit.splitlines() if "ann" in line] == [
        "| 2026-03-10 01:00:00 | rollout | w | bot 2 (222222222222) | ann | a \\| b |"
    ]
    assert "1 more; all of it: `delivery history`" in text


def test_the_chart_shows_each_share_as_long_as_it_lasted() -> None:
    drawn = ET.fromstring(draw_shares(PLANS, history().name, NOW + 26 * HOUR))  # noqa: S314 - our own
    areas = [item for item in drawn if item.tag.endswith("rect")][1:-2]  # the paper, and the legend
    seen = [(float(item.get("x", "")), float(item.get("width", "")), float(item.get("height", ""))) for item in areas]
    per_hour = (720 - 44 - 8) / 50
    wanted = [
        (44, 24.5 * per_hour, 220),
        (44 + 24.5 * per_hour, 1.5 * per_hour, 165),
        (44 + 24.5 * per_hour, 1.5 * per_hour, 55),
        (44 + 26 * per_hour, 24 * per_hour, 220),
    ]
    assert [round(value, 1) for area in seen for value in area] == [
        round(value, 1) for area in wanted for value in area
    ]
    assert [item.text for item in drawn if item.tag.endswith("text")][-2:] == [
        "bot <1> (111111111111)",
        "bot 2 (222222222222)",
    ]
    assert "svg" in draw_shares([], str, NOW)
