"""A release that asks for an A/B test: the experiment its file makes, and what a rollout says before it is through."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sample_release import release_of

from tasks.errors import InputError, UntestedError
from tasks.experiments.design import ExperimentDesign, design_of
from tasks.experiments.life import Decided, ExperimentRecord, Stage, lack_of_test
from tasks.release.admission import Request, find_missing_test
from tasks.release.model import AbTest, Release
from tasks.settings import Settings
from tasks.stores.ledger import Ledger

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CONTROL = "c" * 64


def release(share: float | None = 0.25) -> Release:
    ab_test = AbTest(name="tone", share=share) if share is not None else None
    return release_of(2, endpoint="models:/bot/2", ab_test=ab_test)


MINE = release().digest


def record(stage: Stage = Stage.ENDED, ending: str = "Concluded", finding: str = "better") -> ExperimentRecord:
    effects: list[dict[str, Any]] = [
        {"arm": MINE, "metric": "quality", "finding": finding},
        {"arm": "d" * 64, "metric": "cost", "finding": "worse"},
    ]
    decided = Decided(
        ending=ending, winner=None, message="too few users", document={"effects": effects}, markdown="text"
    )
    return ExperimentRecord(
        experiment_id="1",
        application="faq",
        name="tone",
        control=CONTROL,
        arms={CONTROL: 3.0, MINE: 1.0},
        users_per_arm=100,
        design=design_of(release().spec, CONTROL, 100),
        stage=stage,
        started=NOW,
        changed=NOW,
        reason="",
        decided=decided,
    )


def test_a_release_file_makes_an_experiment_against_the_release_that_serves() -> None:
    made = design_of(release().spec, CONTROL, 500)
    assert (made.application, made.name, made.control, made.users_per_arm) == ("faq", "tone", CONTROL, 500)
    assert [(arm.release, arm.weight) for arm in made.arms] == [(CONTROL, 0.75), ("2", 0.25)]
    assert isinstance(made, ExperimentDesign)


@pytest.mark.parametrize("share", [None, 0.0, 1.0])
def test_a_file_without_a_test_or_with_an_empty_arm_makes_none(share: float | None) -> None:
    with pytest.raises(InputError, match="ab_test"):
        design_of(release(share).spec, CONTROL, 500)


@pytest.mark.parametrize(
    ("found", "lack"),
    [
        (None, "has not been run"),
        (replace(record(), arms={CONTROL: 1.0, "d" * 64: 1.0}), "compared other releases"),
        (record(stage=Stage.RUNNING), "is running"),
        (record(stage=Stage.STOPPED), "is stopped"),
        (replace(record(), decided=None), "is ended"),
        (record(ending="Inconclusive"), "ended Inconclusive: too few users"),
        (record(finding="worse"), "found it worse in quality"),
        (record(finding="no difference that matters"), ""),
        (record(finding="inconclusive"), ""),
        (record(), ""),
    ],
)
def test_what_a_test_lacks_is_said_in_words(found: ExperimentRecord | None, lack: str) -> None:
    assert lack_of_test(found, MINE) == lack


def test_a_rollout_is_refused_until_the_test_is_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(Settings(state_dir=tmp_path).ledger)
    request = Request(who="", override_reason="", time=NOW)
    with pytest.raises(UntestedError, match="bot 2 asks for the A/B test 'tone', which has not been run; run it with"):
        find_missing_test(ledger, release(), request)
    monkeypatch.setattr(Ledger, "experiments", lambda *_: [record()])
    assert not find_missing_test(ledger, release(), request)
    monkeypatch.setattr(Ledger, "experiments", lambda *_: [record(finding="worse")])
    with pytest.raises(UntestedError, match="found it worse in quality"):
        find_missing_test(ledger, release(), request)
