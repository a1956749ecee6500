"""Whose call it is that a standby answered: in a ramp, in the counters, and in the choice of who stands by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from standby_stage import CANDIDATE, OLD, STABLE, TWO, World

from tasks.errors import DeliveryError
from tasks.monitors.verdict import Outcome
from tasks.release.analysis.cohorts import Ramp, form_cohorts
from tasks.release.analysis.judge import Decision, Ground, Situation, judge
from tasks.release.analysis.matching import Clock
from tasks.release.analysis.measure import measure_ramp
from tasks.release.analysis.metrics import default_metrics
from tasks.release.analysis.policy import RampRules
from tasks.release.model import Release
from tasks.traffic.driver import Routed
from tasks.traffic.haproxy.config import standbys_of
from tasks.traffic.haproxy.folder import read_proven
from tasks.traffic.haproxy.statistics import read_routed, takes_calls
from tasks.traffic.plan import BUCKETS, Plan
from tasks.traffic.servers import Server

ANSWERS = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")

# --- a ramp ---


def logged(world: World, number: int) -> dict[str, Any]:
    """Ask as one more user, and return what stands on the log of whoever answered."""
    user = f"ramp-user-{number}"
    headers = {"X-User-Id": user}
    answer = world.client.post(f"{world.driver.url}/faq/v1/chat/completions", json={}, headers=headers)
    return {
        "unit": user,
        "bucket": int(answer.headers["X-Bucket"]),
        "time_utc": datetime.now(UTC),
        "release_digest": answer.headers["X-Release"],
        "status": answer.status_code,
        "error_type": None,
        "latency_ms": 1.0,
    }


def look(rows: list[dict[str, Any]], plan: Plan) -> Decision:
    owners = [(STABLE.digest,) * BUCKETS, plan.buckets]
    cohorts = form_cohorts(owners, [plan.time], candidate=CANDIDATE.digest, stable=STABLE.digest)
    ramp = Ramp(
        application="faq", candidate=CANDIDATE.digest, stable=STABLE.digest, cohorts=cohorts, planned_steps=1, salt="s"
    )
    rules = RampRules(metrics=default_metrics(latency_limit_ms=1000, is_scored=False), errors=0.05, latency_ms=1000)
    clock = Clock(now=datetime.now(UTC) + timedelta(minutes=5))
    types = [pa.string(), pa.int32(), pa.timestamp("us", "UTC"), pa.string(), pa.int32(), pa.string(), pa.float64()]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(zip(rows[0], types, strict=True))))
    return judge(measure_ramp(table, ramp, rules, clock), rules, Situation(needs_noninferiority=False))


@pytest.mark.stack
def test_a_ramp_lives_through_a_short_death_and_a_long_one_takes_the_candidate_back(world: World) -> None:
    world.deploy(STABLE)
    world.driver.stand_by("faq", [STABLE.digest])
    world.deploy(CANDIDATE)
    plan = world.give(1, most=STABLE, few=CANDIDATE)
    rows = [logged(world, number) for number in range(400)]
    world.kill(CANDIDATE)
    rows += [logged(world, number) for number in range(400, 410)]
    world.start(CANDIDATE)
    world.until(lambda: world.ask_many()[200, CANDIDATE.digest] > 5, "it is back")
    rows += [logged(world, number) for number in range(410, 600)]
    assert look(rows, plan).verdict.outcome is Outcome.PASS
    world.kill(CANDIDATE)
    rows += [logged(world, number) for number in range(600, 900)]
    assert {row["status"] for row in rows} == {200}
    decision = look(rows, plan)
    assert (decision.verdict.outcome, decision.ground) == (Outcome.FAIL, Ground.LIMITS)
    assert "(as planned, n=900)" in next(
        check.statement for check in decision.verdict.checks if check.monitor == "ratio"
    )


# --- what is read and written, without a process ---


def server(release: Release, application: str = "faq") -> Server:
    return Server(
        application=application, registry_version=1, digest=release.digest, port=9000 + release.registry_version
    )


def test_who_stands_by_is_proven_runs_is_of_the_application_and_somebody_else() -> None:
    servers = [server(OLD), server(STABLE), server(CANDIDATE), server(TWO, "other")]
    proven = [STABLE.digest, "0" * 64, TWO.digest, OLD.digest, STABLE.digest]
    assert standbys_of(servers[2], servers, proven) == (servers[1], servers[0])
    assert standbys_of(servers[1], servers, proven) == (servers[0],)
    assert standbys_of(servers[3], servers, proven) == ()
    assert standbys_of(servers[1], servers, []) == ()


@pytest.mark.parametrize(
    ("status", "since_s", "is_up", "takes"),
    [
        ("UP", 0, True, True),
        ("UP 1/2", 9, True, True),
        ("DOWN", 2, True, False),  # it may be back at once
        ("DOWN 1/2", 2, True, False),
        ("DOWN", 3, False, False),
        ("MAINT", 0, False, False),
    ],
)
def test_a_release_is_gone_once_all_its_own_servers_are_down_for_some_seconds(
    status: str, since_s: int, is_up: bool, takes: bool
) -> None:
    names = ("pxname", "svname", "bck", "status", "lastchg", "scur", "stot", *(f"hrsp_{n}" for n in ANSWERS))
    rows = (
        (f"r-{OLD.short}", "s1", "0", status, since_s, 0, 8, 0, 5, 0, 1, 2, 0),
        (f"r-{OLD.short}", "b1", "1", "UP", 0, 1, 6, 0, 3, 0, 1, 1, 0),
        (f"r-{OLD.short}", "BACKEND", "0", "UP", 0, 1, 16, 0, 8, 0, 2, 4, 0),
    )
    text = "# " + "\n".join(",".join(map(str, row)) for row in (names, *rows))
    routed = read_routed(text, OLD.short)
    assert routed == Routed(requests=15, failed=4 + 4, unanswered=1, waiting=1, is_up=is_up)
    assert takes_calls(text, OLD.short) is takes


def test_a_list_of_standbys_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "proven-faq.json").write_text('{"not": "a list"}', encoding="utf-8")
    with pytest.raises(DeliveryError, match=r"proven-faq\.json does not list the releases that may stand in"):
        read_proven(tmp_path, "faq")
    (tmp_path / "proven-faq.json").write_text("[", encoding="utf-8")
    with pytest.raises(DeliveryError, match="delete it"):
        read_proven(tmp_path, "faq")
    assert read_proven(tmp_path, "other") == ()
