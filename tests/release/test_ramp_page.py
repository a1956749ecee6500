"""What people see of a ramp: the page that is kept up to date, its chart, its links, and the run's tags."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow, get_client
from sample_release import URL, release_of

from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.pages import since_before
from tasks.release.ramp import RampPolicy
from tasks.release.ramp_page import RampLook, describe_look, draw_ramp, ramp_markdown
from tasks.release.report import links_line
from tasks.run_page import _TELLER, LivePage, artifact_key, form_link, name_state, tag_run
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OLD = "1" * 64
RELEASE = release_of(2, endpoint=URL, text="Be kind.")
NEW = RELEASE.digest


def plan(revision: int, new: int, minutes: float) -> Plan:
    buckets = (NEW,) * new + (OLD,) * (BUCKETS - new)
    time = NOW + minutes * MINUTE
    return Plan(application="faq", revision=revision, salt="s", buckets=buckets, author="a", reason="r", time=time)


def check(outcome: Outcome, statement: str) -> Check:
    return Check(monitor="errors", outcome=outcome, statement=statement, value=0.0, limit=0.05, n=9)


PLANS = (plan(9, 250, -2), plan(8, 50, -4), plan(7, 0, -6000), plan(6, 0, -9000))
CHECKS = (check(Outcome.PASS, "failed calls 0 % <= limit 5 %"), check(Outcome.INCONCLUSIVE, "requests 9 < minimum 30"))
LOOK = RampLook(
    release=RELEASE,
    policy=RampPolicy(percents=(5, 25, 100)),
    buckets=250,
    began=NOW - 2 * MINUTE,
    verdict=Verdict(application="faq", release_digest=NEW, window_start=NOW, window_end=NOW, checks=CHECKS),
    plans=PLANS[:3],
    names={NEW: "bot 2", OLD: "bot 1"},
    links={"abort": "/deployments/deployment/1/run?parameters=%7B%7D", "hold": ""},
)


def test_a_page_says_where_the_ramp_stands_what_is_missing_and_where_to_go() -> None:
    lines = ramp_markdown(LOOK).splitlines()
    assert lines[:3] == ["# faq: bot 2 has 25 % of the users", "", "5 % → **25 %** → 100 %"]
    assert "This step began at 11:58:00, last look 12:00:00, ends by 03-10 12:58:00 UTC." in lines
    assert lines[lines.index("Still missing:") + 2] == "- requests 9 < minimum 30"
    assert "[abort](/deployments/deployment/1/run?parameters=%7B%7D)" in lines
    assert lines[-2:] == [
        "| inconclusive | errors | requests 9 < minimum 30 |",
        "| pass | errors | failed calls 0 % <= limit 5 % |",
    ]
    assert describe_look(LOOK) == "bot 2 has 25 % of the users, inconclusive: requests 9 < minimum 30"


def test_nothing_is_said_to_be_missing_where_every_check_passes() -> None:
    look = replace(LOOK, verdict=replace(LOOK.verdict, checks=CHECKS[:1]))
    assert "missing" not in ramp_markdown(look)
    assert describe_look(look) == "bot 2 has 25 % of the users, pass"


def test_the_plan_before_a_ramp_leaves_the_ramp_most_of_the_chart() -> None:
    found = ramp_markdown(LOOK).split("base64,")[1].split(")")[0]
    drawn = b64decode(found).decode()
    assert drawn == draw_ramp(LOOK.plans, LOOK.names, NOW)
    widths = [float(width) for width in re.findall(r'width="([0-9.]+)" height="[0-9.]+" fill="#3b6fb6"', drawn)]
    before, first, second = widths[:3]
    assert first == pytest.approx(second, abs=0.2)
    assert before == pytest.approx(first / 2, abs=0.2)  # a quarter of the four minutes of the ramp


def test_a_chart_begins_with_the_plan_before_the_release_last_came_in() -> None:
    again = (plan(12, 0, 1), *PLANS)
    assert [one.revision for one in since_before(PLANS, NEW)] == [9, 8, 7]
    assert [one.revision for one in since_before(again, NEW)] == [12, 9, 8, 7]
    assert [one.revision for one in since_before(PLANS, "9" * 64)] == [9]


def test_links_that_nobody_knows_are_left_out() -> None:
    assert links_line({"a": "", "b": "/x"}) == ["[b](/x)", ""]
    assert links_line({"a": ""}) == []
    assert artifact_key("ramp", "Faq_Bot.2") == "ramp-faq-bot-2"


@flow
def showing(other: str) -> dict[str, Any]:
    tag_run("faq", NEW, "")
    tag_run("faq", other)
    page = LivePage("ramp-faq")
    page.show("first", "one")
    page.show("second", "two")
    name_state("Waiting for approval", "why")
    _TELLER.wait()
    from prefect.runtime import flow_run

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run.get_id())  # type: ignore[arg-type]
    assert run.state is not None
    return {"tags": sorted(run.tags), "state": run.state.name, "kind": run.state.type, "said": run.state.message}


@pytest.mark.usefixtures("prefect_server")
def test_a_run_shows_tags_one_page_and_what_it_waits_for_while_it_works() -> None:
    found = showing(OLD)
    assert found["tags"] == sorted(["application:faq", f"release:{NEW[:12]}", "release:111111111111"])
    assert (found["state"], found["kind"].value, found["said"]) == ("Waiting for approval", "RUNNING", "why")
    with get_client(sync_client=True) as client:
        pages = [item for item in client.read_artifacts() if item.key == "ramp-faq"]
    assert [(item.data, item.description) for item in pages] == [("second", "two")]


def test_outside_of_a_run_nothing_is_shown() -> None:
    tag_run("faq", NEW)
    name_state("Waiting")
    LivePage("ramp-faq").show("text", "what")
    _TELLER.wait()
    assert form_link("decision/decision", {"application": "faq"}) == ""
