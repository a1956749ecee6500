"""The dry run: what a rollout would do, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sample_release import spec_of

from tasks.release.lifecycle import State
from tasks.release.model import Monitors
from tasks.release.preview import Preview, TrafficSeen, preview
from tasks.release.ramp import RampPolicy
from tasks.release.rollout import Rollout
from tasks.smoke.suite import SmokeSuite
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OLD = spec_of(parameters={"temperature": 0.2})
NEW = OLD.model_copy(update={"version": "2", "parameters": {"top_p": 0.9}, "monitors": Monitors(latency_ms=500)})
PLAN = Plan(application="faq", revision=1, salt="s", buckets=("a" * 64,) * BUCKETS, author="a", reason="r", time=NOW)
SEEN = TrafficSeen(requests=90_000, users=30_000, failed_share=0.01)


def shown(**changed: Any) -> Preview:
    given: dict[str, Any] = {
        "champion": OLD, "plan": PLAN, "open_rollout": None, "quarantine_reason": None, "seen": SEEN,
    }  # fmt: skip
    policy = changed.pop("policy", RampPolicy())
    return preview(NEW, policy, SmokeSuite(), **given | changed)


def test_every_difference_to_who_serves_now_is_shown() -> None:
    assert shown().changes == (
        ("version", '"1"', '"2"'),
        ("parameters.top_p", "-", "0.9"),
        ("monitors.latency_ms", "1000.0", "500.0"),
        ("parameters.temperature", "0.2", "-"),
    )


def test_traffic_checks_and_durations_are_said_before_anything_happens() -> None:
    found = shown()
    assert found.steps[0] == "1 % of the users, at most 60 min, watched every 5 s"
    assert found.steps[-1].startswith("100 % of the users, ")
    assert found.checks[0] == "smoke test: 3 cases (greeting, question, unicode)"
    assert "fixed limits: failed calls <= 5.0%, p95 latency <= 500 ms" in found.checks
    assert found.checks[-1].startswith("not worse by the margins before 100 %: success 3 points, latency 3 points")
    assert found.durations[0] == "seen in the last day: 90000 requests of 30000 users"
    success = next(line for line in found.durations if line.startswith("success"))
    assert "users of each release" in success
    assert success.endswith("at this traffic")
    slow = shown(seen=replace(SEEN, users=3000)).durations
    assert next(line for line in slow if line.startswith("success")).endswith("> 60 min, the step's longest")
    assert not found.obstacles


def test_more_traffic_takes_less_time_and_a_wider_margin_fewer_users() -> None:
    fast = shown(seen=replace(SEEN, users=30_000_000)).durations
    assert not [line for line in fast if "the step's longest" in line]
    assert [line for line in shown(seen=replace(SEEN, users=300)).durations if "the step's longest" in line]
    wide = shown(policy=RampPolicy.model_validate({"margins": {"success": 0.1}})).durations

    def users(lines: tuple[str, ...]) -> int:
        return int(next(line for line in lines if line.startswith("success")).split(" about ")[1].split()[0])

    assert users(wide) < users(shown().durations)


def test_the_first_release_of_an_application_is_not_ramped() -> None:
    found = shown(champion=None, plan=None)
    assert found.steps == ("100 % of the users, at once",)
    assert len(found.checks) == 1
    assert not found.durations
    assert ("application", "-", '"faq"') in found.changes


def test_without_traffic_nothing_is_foretold() -> None:
    none = TrafficSeen(requests=0, users=0, failed_share=None)
    assert shown(seen=none).durations == (
        "no traffic was seen in the last day: how long the ramp takes cannot be foretold",
    )


def test_what_stands_in_the_way_is_said() -> None:
    held = Rollout(
        rollout_id="r", application="faq", release_digest="b" * 64, stable_digest="a" * 64, deployment_id="d",
        state=State.HELD, started=NOW, changed=NOW, reason="",
    )  # fmt: skip
    found = shown(open_rollout=held, quarantine_reason="answers are wrong")
    assert found.obstacles == (
        "the rollout of release bbbbbbbbbbbb is held: continue it, or delivery abort faq",
        "the release is in quarantine (answers are wrong): it needs --override-reason",
    )
