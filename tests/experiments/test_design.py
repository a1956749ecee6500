"""What may be asked of an experiment, and how many users an effect takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from tasks.errors import DeliveryError, InputError
from tasks.experiments.design import ExperimentDesign, forecast, read_experiment_file, users_needed
from tasks.experiments.experiment import MIN_USERS
from tasks.experiments.life import OVER, TURNS, UNDOING, Stage, Turn, stage_after
from tasks.release.preview import TrafficSeen

PLAIN: dict[str, Any] = {
    "application": "faq",
    "name": "tone",
    "control": "1",
    "arms": [{"release": "1"}, {"release": "2"}],
    "users_per_arm": 100,
}
EFFECT = {name: value for name, value in PLAIN.items() if name != "users_per_arm"}
QUIET = TrafficSeen(requests=0, users=0, failed_share=None)


def design(**changes: Any) -> ExperimentDesign:
    return ExperimentDesign.model_validate(PLAIN | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": [{"release": "1"}]}, "arms: Tuple should have at least 2 items"),
        ({"arms": [{"release": "1"}, {"release": "1"}]}, "arms name a release twice: 1, 1"),
        ({"control": "3"}, "control 3 is none of the arms: 1, 2"),
        ({"users_per_arm": None}, "give either users_per_arm or interest, the smallest effect to be found"),
        ({"interest": {"effect": 0.03}}, "give either users_per_arm or interest"),
        ({"metrics": ["quality"]}, "primary success is none of the metrics: quality"),
        ({"arms": [{"release": "1", "weight": 0}, {"release": "2"}]}, "arms.0.weight: Input should be greater than 0"),
        ({"arms": [{"release": "1", "weight": 1e5}, {"release": "2"}]}, "at least one of 1000 buckets"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"on_end": "best"}, "on_end: Input should be 'control', 'keep' or 'winner'"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused_by_file_and_field(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(PLAIN | changes), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_experiment_file(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)


def test_a_number_names_a_version_as_in_a_release_file() -> None:
    read = design(control=1, arms=[{"release": 1}, {"release": 2}])
    assert (read.control, [arm.release for arm in read.arms]) == ("1", ["1", "2"])


def test_the_sample_is_the_one_asked_for_or_what_the_effect_takes() -> None:
    assert users_needed(design(), QUIET) == 100
    seen = TrafficSeen(requests=10_000, users=5_000, failed_share=0.1)
    wanted = ExperimentDesign.model_validate(EFFECT | {"interest": {"effect": 0.05}, "metrics": ["success"]})
    # Two shares, 10 % and 15 %: the textbook's 683 for a two-sided 5 % and a power of 80 %.
    assert users_needed(wanted, seen) == 683
    more = ExperimentDesign.model_validate(EFFECT | {"interest": {"effect": 0.05}})
    assert users_needed(more, seen) > 683  # six comparisons share alpha
    large = ExperimentDesign.model_validate(EFFECT | {"interest": {"effect": 0.9}})
    assert users_needed(large, seen) == MIN_USERS


def test_the_sample_finds_the_effect_as_often_as_its_power_says() -> None:
    seen = TrafficSeen(requests=1, users=1, failed_share=0.1)
    wanted = ExperimentDesign.model_validate(EFFECT | {"interest": {"effect": 0.05}, "metrics": ["success"]})
    n, rng, rounds = users_needed(wanted, seen), np.random.default_rng(3), 2000
    first, second = rng.binomial(n, 0.1, rounds) / n, rng.binomial(n, 0.15, rounds) / n
    error = np.sqrt((first * (1 - first) + second * (1 - second)) / n)
    found = float((2 * stats.norm.sf(np.abs(second - first) / error) <= 0.05).mean())
    assert 0.77 <= found <= 0.83


def test_the_forecast_counts_the_smallest_arm_and_says_when_it_is_too_long() -> None:
    assert forecast(design(), QUIET).endswith(
        "no traffic was seen in the last day: how long it takes cannot be foretold"
    )
    seen = TrafficSeen(requests=2000, users=1000, failed_share=0.0)
    halves = forecast(design(), seen)
    assert halves == "100 users of each arm, about 5 h at the 1000 users seen in the last day"
    tenth = design(arms=[{"release": "1", "weight": 9}, {"release": "2"}], max_duration_s=3600)
    assert forecast(tenth, seen).endswith(
        "about 24 h at the 1000 users seen in the last day > 60 min, the longest it may"
    )


# --- the life of an experiment ---


def test_every_stage_leads_to_an_end_and_ends_lead_nowhere() -> None:
    after = {stage: {to for (at, _), to in TURNS.items() if at is stage} for stage in Stage}
    assert {stage for stage, to in after.items() if not to} == OVER
    for stage in Stage:
        seen, todo = {stage}, [stage]
        while todo:
            new = after[todo.pop()] - seen
            seen |= new
            todo += new
        assert seen & OVER, stage


@pytest.mark.parametrize("stage", [Stage.PREPARING, Stage.RUNNING, Stage.ENDING, Stage.KEPT])
def test_whatever_an_experiment_is_doing_it_can_be_stopped_and_can_fail(stage: Stage) -> None:
    assert stage_after(stage, Turn.STOP) is Stage.STOPPING
    assert stage_after(stage, Turn.FAIL) in UNDOING


def test_what_is_over_is_over() -> None:
    with pytest.raises(DeliveryError, match="that is stopped cannot fail; possible: nothing: it is over"):
        stage_after(Stage.STOPPED, Turn.FAIL)
    with pytest.raises(DeliveryError, match="that is preparing cannot decide; possible: fail, share users out, stop"):
        stage_after(Stage.PREPARING, Turn.DECIDE)
