"""Experiments and shadows on real users, a real HAProxy and a real ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import crash_stage
import pytest
from trial_stage import SMOKE, asked, by_version, cast, in_plain

import flows.experiment
import flows.rollback
import flows.shadow
import flows.stop
from tasks.errors import InputError, LeaseError, ServingError
from tasks.experiments import verdict as experiment_verdict
from tasks.experiments.design import ExperimentDesign
from tasks.experiments.life import Stage
from tasks.experiments.watching import ExperimentWatch
from tasks.monitors.verdict import Outcome
from tasks.release import acting
from tasks.settings import Settings
from tasks.shadows.shadow import ShadowPolicy
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.driver import HaproxyDriver


@pytest.fixture(scope="module")
def stage(either_ledger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[crash_stage.Stage]:
    """Yield a stage whose ledger is on either database."""
    del either_ledger
    stage = crash_stage.Stage(tmp_path_factory.mktemp("trials"))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def cases(stage: crash_stage.Stage) -> dict[str, Any]:
    """Return an application for each test."""
    three = dict.fromkeys(("whole", "back-2", "back-None"), ("good", 3, 1))
    two = (
        "killed-write-plan",
        "killed-apply",
        "killed-turn-experiment",
        "killed-retire",
        "stopped",
        "kept",
        "kept-short",
        "won",
    )
    bad = {"bad": ("slow", 2, 1), "mute": ("mute", 2, 1), "kept-bad": ("slow", 2, 1), "control-bad": ("slow", 2, 2)}
    return cast(stage, three | dict.fromkeys((*two, "shadow"), ("good", 2, 1)) | bad)


def design(case: Any, **changes: Any) -> ExperimentDesign:
    plain: dict[str, Any] = {
        "application": case.application,
        "name": "tone",
        "control": "1",
        "arms": [{"release": version} for version in by_version(case)],
        "users_per_arm": 10,
        "metrics": ["success", "latency"],
        "look_s": 0.1,
        "settle_s": 0.1,
        "min_requests": 5,
    }
    return ExperimentDesign.model_validate(plain | changes)


def counts(case: Any) -> dict[str, int]:
    """Return the buckets of each version, as they are in effect."""
    seen = case.stage.driver.observe(case.application)
    return {version: seen.count(release.digest) for version, release in by_version(case).items()}


def start(case: Any, **changes: Any) -> tuple[str, str]:
    state = flows.experiment.experiment.fn(design(case, **changes), SMOKE)
    return state.name or "", state.message or ""


def endings(case: Any) -> list[Stage]:
    return [
        record.stage for record in Ledger(Settings(state_dir=case.stage.folder).ledger).experiments(case.application)
    ]


def test_an_experiment_runs_to_its_sample_reports_and_gives_the_users_back(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["whole"]) as case:
        run = in_plain(monkeypatch, case)
        three = {"arms": [{"release": "1", "weight": 2}, {"release": "2"}, {"release": "3"}]}
        name, message = start(case, **three)
        assert (name, run.events) == ("Concluded", ["delivery.experiment.concluded"])
        assert message.endswith("then bot 1 has every user again")
        plans = list(reversed(stage.ledger.plans(case.application)))
        assert [case.shares(plan) for plan in plans] == [
            (("v1", 1000),),
            (("v1", 500), ("v2", 250), ("v3", 250)),
            (("v1", 1000),),
        ]
        assert all(a == b for a, b in zip(plans[0].buckets, plans[1].buckets, strict=True) if b == plans[0].buckets[0])
        assert counts(case) == {"1": 1000, "2": 0, "3": 0}
        (record,) = stage.ledger.experiments(case.application)
        assert record.stage is Stage.ENDED
        assert record.decided is not None
        assert min(record.decided.document["users"].values()) >= 10
        kinds = [(row.kind, row.verdict.outcome) for row in stage.ledger.verdicts(case.application)]
        assert kinds.count(("experiment", Outcome.INCONCLUSIVE)) == 2  # 10 users show nothing
        assert stage.driver.running(case.application) == (by_version(case)["1"].digest,)
        # Started once more it is told how it ended, and nothing happens.
        assert start(case, **three)[0] == "Concluded"
        assert len(stage.ledger.plans(case.application)) == 3
        with pytest.raises(InputError, match="was asked for otherwise; give the new one another name"):
            start(case, **three, users_per_arm=11)
        assert stage.seen_by_users(case)["failures"] == []


def test_an_arm_that_breaks_a_limit_is_out_and_in_quarantine(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["bad"]) as case:
        run = in_plain(monkeypatch, case)
        name, message = start(case, users_per_arm=10_000)
        assert name == "RolledBack"
        assert message.startswith("bot 2 broke a limit: answers slower than 100 ms")
        assert run.events == ["delivery.experiment.rolledback"]
        assert counts(case) == {"1": 1000, "2": 0}
        kept = stage.ledger.quarantined(case.application, by_version(case)["2"].digest)
        assert kept is not None
        assert kept.reason == message
        assert stage.ledger.quarantined(case.application, by_version(case)["1"].digest) is None
        assert endings(case) == [Stage.ROLLED_BACK]


def test_a_control_that_breaks_a_limit_ends_it_loudly_and_nobody_is_blamed(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["control-bad"]) as case:
        run = in_plain(monkeypatch, case)
        before = len(stage.ledger.plans(case.application))
        name, message = start(case, control="2", users_per_arm=10_000)
        assert name == "ControlFailed"
        assert message.startswith("the control bot 2 broke a limit: answers slower than 100 ms")
        assert message.endswith("; no arm is blamed")
        assert run.events == ["delivery.alert.opened", "delivery.experiment.controlfailed"]
        assert (counts(case), endings(case)) == ({"1": 0, "2": 1000}, [Stage.FALTERED])
        blamed = [v for v, r in by_version(case).items() if stage.ledger.quarantined(case.application, r.digest)]
        assert blamed == []
        (alert,) = stage.ledger.alerts(case.application)
        assert (alert.monitor, alert.release_digest) == ("latency", by_version(case)["2"].digest)
        # Nothing loops, and nothing stands in the way of a release that helps.
        assert start(case, control="2", users_per_arm=10_000)[0] == "ControlFailed"
        assert len(stage.ledger.plans(case.application)) == before + 2
        assert stage.ledger.open_experiment(case.application) is None


def test_an_arm_that_fails_its_smoke_test_meets_no_user(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["mute"]) as case:
        in_plain(monkeypatch, case)
        name, message = start(case)
        assert (name, message.startswith("bot 2: smoke test failed: ")) == ("Rejected", True)
        assert len(stage.ledger.plans(case.application)) == 1
        assert stage.ledger.quarantined(case.application, by_version(case)["2"].digest) is not None
        seen = stage.seen_by_users(case)
        assert seen["failures"] == []
        assert set(seen["releases"]) == {by_version(case)["1"].digest}


@pytest.mark.one_ledger
@pytest.mark.parametrize("point", ["write_plan", "apply", "turn_experiment", "retire"])
def test_an_experiment_that_was_killed_goes_on_where_it_was(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with asked(cases[f"killed-{point.replace('_', '-')}"]) as case:
        in_plain(monkeypatch, case)
        with monkeypatch.context() as patch:
            patch.setattr(HaproxyDriver if hasattr(HaproxyDriver, point) else Ledger, point, kill)
            with pytest.raises(Killed):
                start(case)
        assert start(case)[0] == "Concluded"
        shares = [case.shares(plan) for plan in reversed(stage.ledger.plans(case.application))]
        assert shares == [(("v1", 1000),), (("v1", 500), ("v2", 500)), (("v1", 1000),)]
        assert (counts(case), endings(case)) == ({"1": 1000, "2": 0}, [Stage.ENDED])
        assert stage.driver.running(case.application) == (by_version(case)["1"].digest,)


def under_way(case: Any, **changes: Any) -> tuple[threading.Thread, list[Any]]:
    """Start an experiment in a thread and wait until it has users."""
    ended: list[Any] = []

    def act() -> None:
        try:
            ended.append(start(case, users_per_arm=10_000, **changes))
        except LeaseError as error:
            ended.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    until = time.monotonic() + 30
    while len(stage_users(case)) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    return thread, ended


def stage_users(case: Any) -> set[str]:
    return set(case.stage.driver.observe(case.application) or ())


def test_who_stops_it_wins_and_blames_nobody(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["stopped"]) as case:
        run = in_plain(monkeypatch, case)
        thread, ended = under_way(case)
        run.name = lambda: "two"
        state = flows.stop.stop.fn(case.application, "Ada", "enough seen")
        assert (state.name, state.message) == ("Stopped", "stopped by Ada: enough seen")
        thread.join(timeout=30)
        assert isinstance(ended[0], LeaseError)
        assert (counts(case), endings(case)) == ({"1": 1000, "2": 0}, [Stage.STOPPED])
        assert stage.ledger.quarantined(case.application, by_version(case)["2"].digest) is None
        assert flows.stop.stop.fn(case.application, "Ada", "again").name == "NothingToDo"


@pytest.mark.parametrize(("bad", "back"), [("2", "1"), (None, None)])
def test_a_rollback_of_an_arm_ends_an_experiment_of_three(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch, bad: str | None, back: str | None
) -> None:
    with asked(cases[f"back-{bad}"]) as case:
        run = in_plain(monkeypatch, case)
        thread, ended = under_way(case)
        run.name = lambda: "two"
        if back is None:
            with pytest.raises(InputError, match="one of the arms of experiment tone"):
                flows.rollback.rollback.fn(case.application, "wrong answers", bad, SMOKE)
            assert flows.stop.stop.fn(case.application, "Ada", "enough").name == "Stopped"
        else:
            state = flows.rollback.rollback.fn(case.application, "wrong answers", bad, SMOKE)
            assert (state.name, endings(case)) == ("RolledBack", [Stage.ROLLED_BACK])
            kept = [v for v, r in by_version(case).items() if stage.ledger.quarantined(case.application, r.digest)]
            assert kept == [bad]
        thread.join(timeout=30)
        assert isinstance(ended[0], LeaseError)
        assert counts(case) == {"1": 1000, "2": 0, "3": 0}


def test_arms_that_keep_their_users_stand_in_the_way_until_somebody_ends_it(
    cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["kept"]) as case:
        run = in_plain(monkeypatch, case)
        ended: list[Any] = []

        def act() -> None:
            try:
                start(case, on_end="keep")
            except LeaseError as error:
                ended.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        until = time.monotonic() + 30
        while endings(case) != [Stage.KEPT]:
            assert time.monotonic() < until
            time.sleep(0.05)
        run.name = lambda: "two"
        with pytest.raises(LeaseError, match="is being changed by flow one"):
            start(case, name="other")
        assert counts(case) == {"1": 500, "2": 500}

        def answer_badly(*_: Any) -> None:
            raise ServingError("20 of 20 answers are not from the control: status 500")

        # A control that answers badly keeps nobody from ending it.
        monkeypatch.setattr(acting, "verify_answers", answer_badly)
        assert flows.stop.stop.fn(case.application, "Ada", "enough").name == "Stopped"
        thread.join(timeout=30)
        assert isinstance(ended[0], LeaseError)
        assert run.events == ["delivery.experiment.kept", "delivery.experiment.stopped"]
        assert (counts(case), endings(case)) == ({"1": 1000, "2": 0}, [Stage.STOPPED])


def test_arms_that_keep_their_users_have_them_back_with_the_control_when_the_time_is_over(
    cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["kept-short"]) as case:
        run = in_plain(monkeypatch, case)
        name, message = start(case, on_end="keep", keep_s=0.3)
        assert (name, "the arms keep their users, guarded, for 0 s or until: " in message) == ("Concluded", True)
        assert run.events == ["delivery.experiment.kept", "delivery.experiment.concluded"]
        assert (counts(case), endings(case)) == ({"1": 1000, "2": 0}, [Stage.ENDED])


@pytest.mark.one_ledger
def test_an_arm_that_keeps_its_users_is_guarded_also_after_a_kill(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with asked(cases["kept-bad"]) as case:
        in_plain(monkeypatch, case)
        with monkeypatch.context() as patch:
            patch.setattr(ExperimentWatch, "breach", lambda *_: None)
            patch.setattr(ExperimentWatch, "guard", kill)
            with pytest.raises(Killed):
                start(case, on_end="keep")
        assert (counts(case), endings(case)) == ({"1": 500, "2": 500}, [Stage.KEPT])
        name, message = start(case, on_end="keep")
        assert (name, message.startswith("bot 2 broke a limit: ")) == ("RolledBack", True)
        assert (counts(case), endings(case)) == ({"1": 1000, "2": 0}, [Stage.ROLLED_BACK])
        assert stage.ledger.quarantined(case.application, by_version(case)["2"].digest) is not None


def test_a_winner_gets_every_user_and_can_be_rolled_back(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["won"]) as case:
        in_plain(monkeypatch, case)
        winner = by_version(case)["2"]
        with monkeypatch.context() as patch:
            real = experiment_verdict.decide

            def decide(*given: Any) -> Any:
                return replace(real(*given), winner=winner.digest)

            patch.setattr("tasks.experiments.steps.decide", decide)
            assert start(case, on_end="winner")[0] == "Concluded"
        assert (counts(case), endings(case)) == ({"1": 0, "2": 1000}, [Stage.ENDED])
        assert stage.ledger.predecessor(case.application, winner.digest) == by_version(case)["1"].digest
        state = flows.rollback.rollback.fn(case.application, "wrong answers", None, SMOKE)
        assert (state.name, counts(case)) == ("RolledBack", {"1": 1000, "2": 0})


# --- shadow ---


def test_a_shadow_touches_no_user_leaves_nothing_running_and_says_what_it_saw(
    stage: crash_stage.Stage, cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(cases["shadow"]) as case:
        run = in_plain(monkeypatch, case)
        time.sleep(0.8)
        stage.driver.retire(case.application, by_version(case)["2"].digest)
        policy = ShadowPolicy(sample=40, concurrency=8, rate_per_s=200, decides=("success",), min_pairs=20)
        state = flows.shadow.shadow.fn(None, case.application, "2", None, None, policy, SMOKE)
        assert state.name in {"Passed", "Inconclusive"}
        assert run.events == [f"delivery.shadow.{state.name.lower()}"]
        assert len(stage.ledger.plans(case.application)) == 1
        assert stage.driver.running(case.application) == (by_version(case)["1"].digest,)
        seen = stage.seen_by_users(case)
        assert (set(seen["releases"]), seen["failures"]) == ({by_version(case)["1"].digest}, [])
        lines = [path.read_text() for path in (stage.folder / "interactions" / case.application).rglob("*.jsonl")]
        assert lines
        assert by_version(case)["2"].digest not in "".join(lines)
        (row,) = [row for row in stage.ledger.verdicts(case.application) if row.kind == "shadow"]
        assert row.verdict.release_digest == by_version(case)["2"].digest
        with pytest.raises(InputError, match="one without users"):
            flows.shadow.shadow.fn(None, case.application, "1", None, None, policy, SMOKE)
