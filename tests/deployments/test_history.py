"""The command ``delivery history``: on a ledger and a lake of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sample_release import release_of
from typer.testing import CliRunner, Result

from deployments.cli import app
from deployments.commands.shell import parse_moment
from tasks import settings as settings_module
from tasks.errors import InputError
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.history import Act, Deed
from tasks.release.lifecycle import Event
from tasks.release.rollout import Action, Decision
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
Run = Callable[..., Result]
OLD, NEW = (release_of(version, endpoint="models:/b/1", text="x") for version in (1, 2))


def plan(revision: int, new: int, at: datetime) -> Plan:
    buckets = (NEW.digest,) * new + (OLD.digest,) * (BUCKETS - new)
    return Plan(application="faq", revision=revision, salt="s", buckets=buckets, author="flow", reason="why", time=at)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return a function that runs the command where a release failed at a quarter of the users, of whom two met it."""
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    settings_module.settings.cache_clear()
    where = settings_module.settings()
    ledger = Ledger(where.ledger)
    lease = ledger.acquire("faq", "flow", NOW)
    for known in (OLD, NEW):
        ledger.remember(known)
    ledger.write_plan(plan(1, 0, NOW), lease)
    begun = ledger.begin_rollout(lease, NEW.digest, "bot-2", NOW + MINUTE)
    for happened in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT):
        ledger.advance(lease, begun.rollout_id, happened, "so", NOW + 2 * MINUTE)
    ledger.write_plan(plan(2, 250, NOW + 3 * MINUTE), lease)
    ledger.record_decision(begun.rollout_id, Decision(Action.APPROVE, 0, "ann", "it is [fine]", NOW + 4 * MINUTE))
    check = Check(monitor="errors", outcome=Outcome.FAIL, statement="errors 9 % > 2 %", value=0.09, limit=0.02, n=300)
    judged = Verdict(
        application="faq", release_digest=NEW.digest, window_start=NOW, window_end=NOW + 5 * MINUTE, checks=(check,)
    )
    ledger.record_verdict(judged, kind="ramp", recorded=NOW + 5 * MINUTE)
    ledger.fail(lease, begun.rollout_id, "the ramp failed", NOW + 6 * MINUTE, quarantined=True)
    ledger.write_plan(plan(3, 0, NOW + 7 * MINUTE), lease)
    ledger.advance(lease, begun.rollout_id, Event.UNDONE, "back", NOW + 8 * MINUTE)
    act = Act(
        deed=Deed.ROLLBACK, application="faq", release_digest=OLD.digest, who="", reason="r", time=NOW + 9 * MINUTE
    )
    ledger.record_act(act)
    log(Lake(where.lake_dir))
    yield lambda *words: CliRunner().invoke(app, ["history", *words], env={"COLUMNS": "200"})
    ledger.close()
    settings_module.settings.cache_clear()


def log(lake: Lake) -> None:
    calls = [
        Interaction(
            interaction_id=f"{unit}-{number}",
            application="faq",
            release_digest=digest,
            unit=unit,
            unit_kind="user",
            time=NOW + 4 * MINUTE,
            status=200,
            latency_ms=10.0,
        )
        for unit, digest in (("a", NEW.digest), ("b", NEW.digest), ("c", OLD.digest))
        for number in range(3)
    ]
    nothing = REJECTED_SCHEMA.empty_table()
    lake.append("test", expected=lake.offset("test"), offset=1, interactions=as_table(calls), rejected=nothing)


def test_it_shows_what_happened_by_whom_and_which_incidents_were_prevented(run: Run) -> None:
    done = run("faq")
    assert done.exit_code == 0, done.output
    assert "it is [fine]" in done.stdout
    assert re.search(r"plan 2 .* 75.0% bot 1 \(\w{12}\), 25.0% bot 2 .* flow .* why", done.stdout)
    assert done.stdout.splitlines()[-2:] == [
        "Incidents prevented: 1 release was stopped before it had every user: 1 by the ramp. Users who met them: 2.",
        f"  2026-03-01 12:08 bot 2 ({NEW.short}): ramp failed in errors at 25.0%, 2 users: errors 9 % > 2 %",
    ]


def test_the_audit_shows_people_only_and_who_did_not_say(run: Run) -> None:
    lines = [line for line in run("faq", "--audit").stdout.splitlines() if "2026-03-01" in line]
    assert [re.sub(r"\s+", " ", line.strip("│ ")).split(" │ ")[1:] for line in lines] == [
        ["act", "rollback", f"bot 1 ({OLD.short})", "not said", "r"],
        ["decision", "approve", f"bot 2 ({NEW.short})", "ann", "it is [fine]"],
    ]


def test_json_is_the_same_for_programs_narrowed_by_time_and_release(run: Run) -> None:
    found = json.loads(run("faq", "--json", "--since", "2026-03-01T12:05", "--release", "2").stdout)
    assert [entry["what"] for entry in found["entries"]] == [
        *("undone: rolled back", "fail: reverting", "quarantined", "ramp: fail"),
    ]
    (stopped,) = found["incidents_prevented"]
    assert (stopped["users"], stopped["share"], stopped["gate"]) == (2, 0.25, "ramp")
    assert found["releases"][NEW.digest] == "bot 2"
    assert json.loads(run("faq", "--json", "--since", "1m").stdout)["entries"] == []


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["nope"], "error: nope has no traffic plan and no rollout; applications that have: faq"),
        (["faq", "--release", "9"], "error: no release of faq called '9'; rolled out here were: "),
        (
            ["faq", "--since", "long ago"],
            "error: --since: 'long ago' is not allowed; allowed: an age like 36h or 7d, or",
        ),
    ],
)
def test_what_it_cannot_find_is_one_line(run: Run, words: list[str], because: str) -> None:
    done = run(*words)
    assert (done.exit_code, done.stderr[: len(because)]) == (1, because)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - 90 * MINUTE),
        ("36h", NOW - timedelta(hours=36)),
        (" 7d ", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(days=14)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T10:00+02:00", datetime(2026, 2, 1, 8, tzinfo=UTC)),
    ],
)
def test_people_say_since_when_in_their_own_words(text: str, moment: datetime) -> None:
    assert parse_moment("--since", text, NOW) == moment


@pytest.mark.parametrize("text", ["", "0d", "7", "-1d", "7x", "d", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--since"):
        parse_moment("--since", text, NOW)
