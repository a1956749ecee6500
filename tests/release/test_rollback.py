"""Rollbacks on the real HAProxy and the real ledger: at once, again, too late, and where nothing can come back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from crash_stage import FAILED_NIGHT, PROMOTED, TAKEN_BACK, Case, Scenario, Stage

from flows.rollback import rollback
from tasks.monitors.alerts import ROLLBACK, Alert, AlertState, News, Signal
from tasks.monitors.notices import Message
from tasks.monitors.verdict import Outcome
from tasks.release.history import Deed
from tasks.release.lifecycle import State
from tasks.release.rollback_steps import make_order

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
AT_ONCE = Path(__file__).with_name("rollbacks_at_once.py")
NEXT_OLDER = Scenario(name="f", proven=3, flow="rollback", version=2, behaviour="mute")
SHY = Scenario(name="j", proven=3, flow="rollback", version=2, behaviour="shy")
ALONE = Scenario(name="k", proven=1, flow="rollback", version=1)
BESIDE = Scenario(name="l", proven=2, flow="reconcile", version=3)
STRANDED = Scenario(name="g", proven=2, flow="rollback", version=1, behaviour="mute")
CHANNELS = "channels:\n  - {block: custom-webhook/pager}\n"


@pytest.fixture(scope="module")
def lone_stage(either_ledger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Yield a stage whose ledger is on either database."""
    del either_ledger
    with pytest.MonkeyPatch.context() as patch:
        # No Prefect server is there: notices wait in the ledger, and say why.
        patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
        made = Stage(tmp_path_factory.mktemp("stage"), rate=40.0)
        yield made
        made.close()


def at_once(case: Case, orders: list[dict[str, Any]]) -> list[str]:
    """Run flows of a case at the same moment, and return how each ended."""
    lines = json.dumps([asdict(case.order(lease_s=6.0, **order)) for order in orders])
    done = subprocess.run(
        [sys.executable, str(AT_ONCE)], input=lines + "\n", capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    return [(case.folder / f"ending-{pid}.txt").read_text() for pid in said["pids"]]


def route(_alert: Alert, _news: News) -> tuple[Message, ...]:
    return (Message(block="custom-webhook/pager", subject="s", body="b"),)


def open_alert(case: Case, version: int, window_end: datetime) -> Signal:
    digest = next(d for d, release in case.releases.items() if release.spec.version == str(version))
    signal = Signal(
        application=case.application,
        release_digest=digest,
        monitor="quality",
        outcome=Outcome.FAIL,
        reason="quality 0.1 < 0.7",
        window_end=window_end,
    )
    case.stage.ledger.signal_alerts([signal], route, datetime.now(UTC))
    return signal


def alerts_of(case: Case) -> dict[str, AlertState]:
    return {alert.monitor: alert.state for alert in case.stage.ledger.alerts(case.application, every=True)}


def assert_one_rollback(case: Case, endings: list[str]) -> None:
    ledger, application = case.stage.ledger, case.application
    done = [ending for ending in endings if "RolledBack: bot 2 is out, bot 1 serves every user again" in ending]
    idle = [ending for ending in endings if ending.startswith("NothingToDo: ")]
    assert len(done) >= 1, endings
    assert len(done) + len(idle) == len(endings), endings
    assert [case.shares(plan) for plan in ledger.plans(application)] == [
        (("v1", 1000),),
        (("v2", 1000),),
        (("v1", 1000),),
    ]
    assert [act.deed for act in ledger.acts(application)] == [Deed.ROLLBACK]
    assert [row.state for row in ledger.rollouts(application)] == [State.ROLLED_BACK, State.PROMOTED]
    quarantined = [entry for entry in ledger.history(application).entries if entry.what == "quarantined"]
    assert len(quarantined) == 1
    assert not [*case.strange, *case.stage.seen_by_users(case)["failures"]]


@pytest.mark.crash
@pytest.mark.usefixtures("either_ledger")
def test_ten_events_some_at_one_moment_with_a_reconciliation_are_one_rollback(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, rate=40.0)
    try:
        (case,) = stage.cast({"at-once": FAILED_NIGHT})
        with stage.users_of(case):
            endings = at_once(case, [*[{"flow": "rollback"}] * 3, {"flow": "reconcile"}])
            endings += at_once(case, [{"flow": "rollback"}] * 7)
        assert_one_rollback(case, endings)
        assert all("serves nobody" in ending for ending in endings[4:]), endings
        assert case.run(flow="rollback") == 0
        assert case.endings == [
            f"NothingToDo: release {next(d for d in case.releases if case.name_of(d) == 'v2')[:12]} serves nobody"
        ]
    finally:
        stage.close()


def test_where_the_last_proven_release_fails_its_smoke_test_the_next_older_comes_back(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"older": NEXT_OLDER})
    with lone_stage.users_of(case):
        assert case.run(version=3) == 0, case.endings
    assert case.endings == ["RolledBack: bot 3 is out, bot 1 serves every user again: it got worse"]
    end, ledger = case.end_state(), lone_stage.ledger
    assert (end.plans[-1], end.in_effect, end.quarantine) == ((("v1", 1000),), True, ("v3",))
    assert dict(end.aliases) == {"champion": 1}
    tried = {case.name_of(row.verdict.release_digest): row for row in ledger.verdicts("older") if row.kind == "smoke"}
    assert {name: row.verdict.outcome for name, row in tried.items()} == {"v2": Outcome.FAIL, "v1": Outcome.PASS}
    assert not [*case.strange, *lone_stage.seen_by_users(case)["failures"]]


def test_where_nothing_can_come_back_it_goes_on_serving_and_one_alert_says_so(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"stranded": STRANDED})
    (case.folder / "alerts.yaml").write_text(CHANNELS)
    before, ledger = case.end_state(), lone_stage.ledger
    for _ in range(3):
        assert case.run(version=2) == 0, case.endings
    (said,) = {ending.partition(" (")[0] for ending in case.endings}
    bad = next(digest for digest in case.releases if case.name_of(digest) == "v2")
    assert said == f"NoCandidate: no proven release of stranded can come back, {bad[:12]} goes on serving: it got worse"
    assert "cannot come back: " in case.endings[0]
    after = case.end_state()
    assert (after.plans, after.quarantine, after.aliases) == (before.plans, (), before.aliases)
    (alert,) = ledger.alerts("stranded")
    assert (alert.monitor, alert.state, alert.release_digest) == (ROLLBACK, AlertState.OPEN, bad)
    (notice,) = ledger.notices(alert.alert_id)
    assert notice.message.subject == f"[fail] opened: stranded, release {bad[:12]}: rollback"
    assert (notice.delivered, notice.attempts) == (None, 1)
    assert notice.error


def test_a_rollback_closes_the_alerts_tells_once_and_an_old_night_opens_nothing_again(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"told": Scenario(name="h", proven=2, flow="rollback", version=2)})
    (case.folder / "alerts.yaml").write_text(CHANNELS)
    ledger, window_end = lone_stage.ledger, datetime.now(UTC)
    signal = open_alert(case, 2, window_end)
    assert case.run() == 0, case.endings
    assert alerts_of(case) == {"quality": AlertState.RESOLVED, ROLLBACK: AlertState.RESOLVED}
    for end in (window_end, window_end + timedelta(days=1)):
        open_alert(case, 2, end)  # the same night judged again, and the one whose first hours it still served in
    assert ledger.alerts("told") == []
    by_monitor = {alert.monitor: alert for alert in ledger.alerts("told", every=True)}
    (notice,) = ledger.notices(by_monitor[ROLLBACK].alert_id)
    assert notice.message.subject == f"[fail] rolled back: told, release {signal.release_digest[:12]}: rollback"
    assert notice.message.body.startswith("bot 2 is out, bot 1 serves every user again: it got worse\nfailed at 20")
    last = ledger.notices(by_monitor["quality"].alert_id)[-1].message
    assert last.subject.startswith("[ok] resolved: told, release")
    assert case.run() == 0
    assert len(ledger.notices(by_monitor[ROLLBACK].alert_id)) == 1


def test_a_ramp_that_takes_its_release_back_tells_the_channels_once(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"ramp-told": TAKEN_BACK})
    (case.folder / "alerts.yaml").write_text(CHANNELS)
    with lone_stage.users_of(case):
        assert case.run() == 0, case.endings
    (ending,) = case.endings
    assert ending.startswith("RolledBack: the ramp failed: "), ending
    (alert,) = lone_stage.ledger.alerts("ramp-told", every=True)
    assert (alert.monitor, alert.state, alert.who) == (ROLLBACK, AlertState.RESOLVED, "rollout")
    (notice,) = lone_stage.ledger.notices(alert.alert_id)
    assert notice.message.subject == f"[fail] rolled back: ramp-told, release {alert.release_digest[:12]}: rollback"
    assert notice.message.body.startswith("bot 2 is out, bot 1 serves everybody: the ramp failed: ")
    assert (notice.attempts, bool(notice.error)) == (1, True)  # nobody listens on this stage; it is tried again


def test_an_alert_policy_that_cannot_be_read_stops_no_rollback(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"mute-policy": Scenario(name="i", proven=2, flow="rollback", version=2)})
    (case.folder / "alerts.yaml").write_text("channels: [{blok: nope}]\n")
    assert case.run() == 0, case.endings
    assert case.endings == ["RolledBack: bot 2 is out, bot 1 serves every user again: it got worse"]


def test_a_hold_where_nobody_watches_holds_at_once_and_means_nothing_twice(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"held": PROMOTED})
    ledger = lone_stage.ledger
    assert case.run(kill_before="Watch.look") < 0
    who = f"release {next(d for d in case.releases if case.name_of(d) == 'v3')[:12]} of held"
    expiry = ledger.lease_expiry("held")
    assert expiry is not None
    time.sleep(max(0.0, (expiry - datetime.now(UTC)).total_seconds()))  # its lease outlives who was killed
    for _ in range(2):
        assert case.run(flow="hold") == 0, case.endings
    assert case.endings[1:] == [
        f"Held: {who} is held by a person: I say so; nobody watched it, and its users stay where they are",
        f"NothingToDo: {who} is held already: held by a person: I say so",
    ]
    (rollout, *_) = ledger.rollouts("held")
    assert (rollout.state, rollout.reason) == (State.HELD, "held by a person: I say so")
    assert len(ledger.decisions(rollout.rollout_id)) == 1


def test_one_bad_answer_is_no_reason_to_give_everybody_an_older_release(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"shy": SHY})
    assert case.run(version=3) == 0, case.endings
    assert case.endings == ["RolledBack: bot 3 is out, bot 2 serves every user again: it got worse"]
    tried = [row.verdict.outcome for row in lone_stage.ledger.verdicts("shy") if row.kind == "smoke"]
    assert sorted(tried) == [Outcome.FAIL, Outcome.PASS]


def test_a_rollback_that_can_change_nothing_leaves_the_lease_to_whoever_rolls_out_the_cure(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"alone": ALONE})
    lease = lone_stage.ledger.acquire("alone", "the cure", datetime.now(UTC))
    assert case.run() == 0, case.endings
    assert case.endings[0].startswith("NoCandidate: no proven release of alone can come back, ")
    lone_stage.ledger.renew(lease, datetime.now(UTC))  # it would raise
    assert [alert.monitor for alert in lone_stage.ledger.alerts("alone")] == [ROLLBACK]
    lone_stage.ledger.release_lease(lease)


def test_a_rollback_cut_short_beside_an_open_rollout_is_finished_with_its_users(lone_stage: Stage) -> None:
    (case,) = lone_stage.cast({"beside": BESIDE})
    ledger, now = lone_stage.ledger, datetime.now(UTC)
    lease = ledger.acquire("beside", "killed", now)
    fix = next(digest for digest in case.releases if case.name_of(digest) == "v3")
    ledger.remember(case.releases[fix])
    ledger.begin_rollout(lease, fix, "bot-3", now)
    latest = {case.name_of(rollout.release_digest): rollout.rollout_id for rollout in ledger.rollouts("beside")}
    ledger.fail(lease, latest["v2"], "it got worse", now, quarantined=True)
    ledger.fail(lease, latest["v3"], "release bot 2 was rolled back", now, quarantined=False)
    ledger.release_lease(lease)
    assert case.run(flow="rollback") == 0, case.endings  # of the one without users: it says nothing of the other
    assert [rollout.state for rollout in ledger.rollouts("beside")][:2] == [State.REJECTED, State.REVERTING]
    assert case.run() == 0, case.endings
    assert case.endings[-1].startswith("Reconciled: "), case.endings
    end = case.end_state()
    assert (end.plans[-1], end.in_effect, end.quarantine) == ((("v1", 1000),), True, ("v2",))
    assert [(name, state) for name, state, _ in end.rollouts[1:]] == [("v2", "rolled back"), ("v3", "rejected")]


def test_a_reason_that_is_too_long_to_keep_stops_no_rollback() -> None:
    reason = "quality 0.1 < limit 0.7; " * 400
    assert rollback.validate_parameters({"application": "faq", "reason": reason})["reason"] == reason
    kept = make_order("automation", reason).reason
    assert (len(kept), kept[:24], kept[-1]) == (2000, "quality 0.1 < limit 0.7;", "…")
    assert make_order("", "short").reason == "short"
