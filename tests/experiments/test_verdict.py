"""What an experiment comes to, and what its calls cost."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tasks.experiments.design import ExperimentDesign
from tasks.experiments.experiment import ArmEffect, Finding, experiment_outcomes
from tasks.experiments.life import Decided, ExperimentRecord, Stage
from tasks.experiments.report import effect_line
from tasks.experiments.verdict import Sampled, arm_verdict, decide, sampled, winner_of
from tasks.monitors.verdict import Outcome

A, B, C = "a" * 64, "b" * 64, "c" * 64
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OUTCOMES = {outcome.name: outcome for outcome in experiment_outcomes(1000)}
LABELS = {A: "bot 1", B: "bot 2", C: "bot 3"}
SOUND = Sampled(users={A: 120, B: 110, C: 115}, p_value=0.8, is_reached=True, start=NOW, end=NOW + timedelta(hours=1))


def record(on_end: str = "control") -> ExperimentRecord:
    design = ExperimentDesign.model_validate(
        {
            "application": "faq",
            "name": "tone",
            "control": "1",
            "arms": [{"release": "1"}, {"release": "2"}, {"release": "3"}],
            "users_per_arm": 100,
            "on_end": on_end,
        }
    )
    return ExperimentRecord(
        experiment_id="e",
        application="faq",
        name="tone",
        control=A,
        arms={A: 1.0, B: 1.0, C: 1.0},
        users_per_arm=100,
        design=design,
        stage=Stage.RUNNING,
        started=NOW,
        changed=NOW,
        reason="",
    )


def effect(arm: str, metric: str, finding: Finding, value: float = 0.1) -> ArmEffect:
    return ArmEffect(
        arm=arm,
        outcome=OUTCOMES[metric],
        n_control=120,
        n_arm=110,
        control=0.8,
        value=0.8 + value,
        effect=value,
        low=value - 0.05,
        high=value + 0.05,
        p_value=0.01,
        p_holm=0.02,
        finding=finding,
    )


BETTER = (
    effect(B, "success", Finding.BETTER, 0.05),
    effect(B, "quality", Finding.SAME, 0.0),
    effect(C, "success", Finding.BETTER, 0.1),
    effect(C, "quality", Finding.OPEN, 0.02),
)


def test_the_winner_is_better_in_the_primary_metric_and_worse_in_none() -> None:
    assert winner_of(record(), BETTER) == C
    assert winner_of(record(), (*BETTER, effect(C, "latency", Finding.WORSE))) == B
    assert winner_of(record(), (effect(B, "quality", Finding.BETTER), effect(C, "success", Finding.OPEN))) is None


@pytest.mark.parametrize(
    ("on_end", "winner", "end"),
    [
        ("control", None, "bot 1 has every user again"),
        ("keep", None, "the arms keep their users, guarded, for 7 days or until: delivery experiment stop faq"),
        ("winner", C, "bot 3 wins"),
    ],
)
def test_who_gets_the_users_is_what_was_asked_for(on_end: str, winner: str | None, end: str) -> None:
    decided = decide(record(on_end), BETTER, SOUND, LABELS)
    assert (decided.ending, decided.winner, decided.message.endswith(f"; then {end}")) == ("Concluded", winner, True)
    assert decided.message.startswith("bot 2: better in success; no difference that matters in quality; bot 3: better")
    assert decided.document["best"] == C


@pytest.mark.parametrize(
    ("doubt", "said"),
    [
        ({"p_value": 1e-5}, "users are not shared out as planned: 120 : 110 : 115, p 1e-05 < 0.001"),
        ({"is_reached": False}, "users of the smallest arm 110 < the sample of 100"),
    ],
)
def test_nobody_wins_a_sample_that_is_not_sound(doubt: dict[str, Any], said: str) -> None:
    decided = decide(record("winner"), BETTER, replace(SOUND, **doubt), LABELS)
    assert (decided.ending, decided.winner) == ("Inconclusive", None)
    assert said in decided.message
    assert decided.message.endswith("bot 1 has every user again")


def test_the_verdict_of_an_arm_asks_first_how_users_were_shared_out() -> None:
    verdict = arm_verdict(record(), B, (*BETTER, effect(B, "toxicity", Finding.WORSE, 0.04)), SOUND)
    assert [check.monitor for check in verdict.checks] == ["ratio", "sample", "success", "quality", "toxicity"]
    assert (verdict.release_digest, verdict.outcome) == (B, Outcome.FAIL)
    assert verdict.reason == (
        "toxicity 80.0% -> 84.0%: +4.0 points, 95 % -1.0 points to +9.0 points, worse (n=120 and 110 users)"
    )
    mixed = arm_verdict(record(), B, BETTER, replace(SOUND, p_value=1e-9))
    assert (mixed.outcome, mixed.deciding[0].monitor) == (Outcome.ERROR, "ratio")


def test_what_was_decided_comes_back_as_it_was_written_without_a_nan() -> None:
    blank = replace(effect(B, "cost", Finding.OPEN), effect=math.nan, low=math.nan, because="3 users < minimum 50")
    decided = decide(record(), (*BETTER, blank), SOUND, LABELS)
    assert Decided.from_json(decided.to_json()) == decided
    assert json.loads(decided.to_json())["document"]["effects"][-1]["effect"] is None
    assert effect_line(blank) == "cost: inconclusive: 3 users < minimum 50"


def test_who_met_two_arms_and_whose_own_mistake_it_was_count_for_nobody() -> None:
    def calls(units: list[str | None], status: int = 200) -> pa.Table:
        n = len(units)
        return pa.table(
            {
                "unit": pa.array(units, pa.string()),
                "status": pa.array([status] * n, pa.int32()),
                "error_type": pa.array([None] * n, pa.string()),
            }
        )

    tables = {A: calls(["u", "u", "v", None]), B: calls(["v", "w"]), C: calls(["x"], status=400)}
    found = sampled(record(), tables, NOW, NOW, is_reached=False)
    assert found.users == {A: 2, B: 1, C: 0}
    assert not found.is_sound
