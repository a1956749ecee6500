"""Shadow by replay: what is drawn, what pairs show, and that no text gets into a report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_release import release_of

from tasks.costs.prices import PriceBook, find_rates
from tasks.experiments.experiment import Finding, experiment_outcomes
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.verdict import Outcome
from tasks.release.model import Price, Release
from tasks.shadows.replay import Inputs, compare_answers, find_inputs, send
from tasks.shadows.report import Replayed, shadow_markdown, shadow_verdict
from tasks.shadows.shadow import FAILED, LONG, REST, PairedEffect, ShadowPolicy, compare_pairs, draw
from tasks.stores.lake import Lake
from tasks.traffic.driver import Answer, Driver, Question

OUTCOMES = experiment_outcomes(1000)
POLICY = ShadowPolicy(decides=("success", "quality"), rate_per_s=1000, concurrency=1, passage_share=0)
ALLOWING = POLICY.model_copy(update={"passage_share": 0.99})
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
OLD, NEW = (release_of(version, text="hi", price=PRICE) for version in (1, 2))


# --- what is drawn ---


def test_failures_and_long_inputs_are_drawn_and_weigh_what_they_are() -> None:
    failed = np.array([True] * 4 + [False] * 196)
    letters = np.array([10] * 180 + [500] * 20)
    drawn = draw([f"i{at}" for at in range(200)], failed, letters, 50, seed=0)
    assert drawn.found == {FAILED: 4, LONG: 20, REST: 176}
    assert drawn.taken == {FAILED: 4, LONG: 10, REST: 36}
    assert drawn.weights.sum() == pytest.approx(1)
    share = sum(weight for weight, name in zip(drawn.weights, drawn.strata, strict=True) if name == FAILED)
    assert share == pytest.approx(4 / 200)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=1, max_size=60), st.integers(1, 80))
def test_as_many_are_drawn_as_asked_for_each_once(calls: list[tuple[bool, int]], size: int) -> None:
    ids = [f"i{at}" for at in range(len(calls))]
    failed, letters = np.array([bad for bad, _ in calls]), np.array([length for _, length in calls])
    drawn = draw(ids, failed, letters, size, seed=1)
    assert len(drawn.chosen) == len(set(drawn.chosen)) == min(size, len(calls)) == sum(drawn.taken.values())
    assert drawn.chosen == draw(ids, failed, letters, size, seed=1).chosen
    whole = draw(ids, failed, letters, len(ids), seed=1)
    assert whole.weights.sum() == pytest.approx(1)


# --- pairs ---


def table(units: list[str | None], **columns: Any) -> pa.Table:
    n = len(units)
    calls: dict[str, Any] = {
        "unit": pa.array(units, pa.string()),
        "status": pa.array([200] * n, pa.int32()),
        "error_type": pa.array([None] * n, pa.string()),
        "latency_ms": np.full(n, 100.0),
        "quality": np.full(n, 0.8),
        "toxicity": np.zeros(n),
        "cost_pusd": np.full(n, 1e6),
    }
    return pa.table(calls | columns)


def compared(first: pa.Table, second: pa.Table, weights: Any = None, **policy: Any) -> dict[str, PairedEffect]:
    n = len(first)
    share = np.full(n, 1 / n) if weights is None else weights
    rules = POLICY.model_copy(update=policy)
    return {effect.outcome.name: effect for effect in compare_pairs(first, second, share, OUTCOMES, rules)}


def alone(n: int) -> list[str | None]:
    return [f"u{at}" for at in range(n)]


def test_equal_answers_are_no_difference_once_there_are_enough_and_never_before() -> None:
    many, few = table(alone(300)), table(alone(40))
    found = compared(many, many)["success"]
    assert (found.finding, found.effect, found.n) == (Finding.SAME, 0.0, 300)
    assert 0 < found.high < 0.03
    assert compared(few, few)["success"].finding is Finding.OPEN
    least = compared(table(alone(29)), table(alone(29)))["success"]
    assert (least.finding, least.because) == (Finding.OPEN, "29 pairs < minimum 30")


def test_a_candidate_that_fails_where_the_log_did_not_is_worse_and_the_other_way_round_better() -> None:
    bad = table(alone(200), status=pa.array([500] * 40 + [200] * 160, pa.int32()))
    worse = compared(table(alone(200)), bad)["success"]
    assert (worse.finding, worse.n_worse, worse.n_better) == (Finding.WORSE, 40, 0)
    assert worse.effect == pytest.approx(-0.2)
    assert worse.p_sign == pytest.approx(2 * 0.5**40)
    assert compared(bad, table(alone(200)))["success"].finding is Finding.BETTER


def test_an_effect_is_that_of_the_traffic_and_not_of_the_sample() -> None:
    status = pa.array([500] * 50 + [200] * 50, pa.int32())
    weights = np.array([0.01 / 50] * 50 + [0.99 / 50] * 50)
    found = compared(table(alone(100), status=status), table(alone(100)), weights)["success"]
    assert found.effect == pytest.approx(0.01)
    assert found.finding is not Finding.BETTER  # one point does not matter, however many failures were replayed


def test_inputs_of_one_user_are_one_piece_of_evidence() -> None:
    quality = np.where(np.arange(200) % 2 == 0, 0.6, 0.8)
    apart = compared(table(alone(200)), table(alone(200), quality=quality))["quality"]
    two: list[str | None] = [f"u{at % 2}" for at in range(200)]
    together = compared(table(two), table(two, quality=quality))["quality"]
    assert apart.effect == together.effect == pytest.approx(-0.1)
    assert apart.finding is Finding.WORSE
    assert together.finding is Finding.OPEN


def test_a_loss_that_other_passages_may_explain_is_not_called_worse() -> None:
    quality = np.where(np.arange(300) % 20 == 0, 0.0, 0.8)  # 4 points
    allowed = compared(table(alone(300)), table(alone(300), quality=quality), passage_share=0.1)["quality"]
    assert (allowed.finding, allowed.note) == (Finding.OPEN, "other passages may explain up to 10 points")
    assert compared(table(alone(300)), table(alone(300), quality=quality))["quality"].finding is Finding.WORSE
    awful = compared(table(alone(300)), table(alone(300), quality=np.zeros(300)), passage_share=0.1)["quality"]
    assert (awful.finding, awful.note) == (Finding.WORSE, "")


def test_cost_is_relative_and_unknown_is_no_pair() -> None:
    dearer = table(alone(100), cost_pusd=np.full(100, 1.5e6))
    assert compared(table(alone(100)), dearer)["cost"].effect == pytest.approx(0.5)
    unknown = table(alone(100), cost_pusd=np.full(100, np.nan))
    assert compared(table(alone(100)), unknown)["cost"].because == "0 pairs < minimum 30"


def test_the_interval_covers_and_equal_releases_are_seldom_called_different() -> None:
    rng, rounds, covered, called = np.random.default_rng(5), 400, 0, 0
    for _ in range(rounds):
        units: list[str | None] = [f"u{u}" for u in rng.integers(0, 60, 150)]
        first, second = (
            table(units, status=pa.array(np.where(rng.random(150) < 0.1, 500, 200), pa.int32())) for _ in "ab"
        )
        found = compared(first, second, decides=("success",))["success"]
        covered += found.low <= 0 <= found.high
        called += found.finding in {Finding.BETTER, Finding.WORSE}
    assert covered / rounds >= 0.93
    assert called / rounds <= 0.07


# --- from the lake to the report ---


@dataclass
class Path:
    """A data path whose candidate answers as told."""

    text: str = "Paris is the capital."
    status: int = 200
    context: str | None = "Paris is the capital of France."
    asked: list[Question] = field(default_factory=list)

    def probe(self, candidate: Release, question: Question, timeout_s: float) -> Answer:
        assert timeout_s == POLICY.timeout_s
        self.asked.append(question)
        fine = self.status == 200
        return Answer(
            status=self.status,
            release_digest=candidate.digest,
            prompt_sha256="",
            text=self.text if fine else "",
            latency_ms=5.0,
            error="" if fine else "ReadTimeout",
            input_tokens=100 if fine else None,
            output_tokens=50 if fine else None,
            context=self.context if fine else None,
        )


ASKED = "What is the capital of France?"


@pytest.fixture
def inputs(tmp_path: Any) -> Inputs:
    lake = Lake(tmp_path / "lake")
    calls = [
        Interaction(
            interaction_id=f"i{at:03}",
            application="faq",
            release_digest=(OLD if at < 90 else NEW).digest,
            time=NOW.replace(minute=at % 60),
            unit=f"u{at}",
            model="bot",
            input_text=None if at in {0, 1} else ASKED,
            context_text="Paris is the capital of France.",
            output_text="Paris is the capital.",
            input_tokens=100,
            output_tokens=10,
            latency_ms=50.0,
            status=400 if at == 2 else 200,
        )
        for at in range(100)
    ]
    rejected = rejected_table("s", [], NOW)
    lake.append("s", expected=0, offset=1, interactions=as_table(calls), rejected=rejected)
    end = NOW.replace(hour=13)
    return find_inputs(lake, NEW, OLD, start=NOW, end=end, policy=POLICY, book=PriceBook())


def test_only_what_the_champion_was_asked_and_was_logged_is_replayed(inputs: Inputs) -> None:
    ids = inputs.calls["interaction_id"].to_pylist()
    assert sorted(ids) == [f"i{at:03}" for at in range(3, 90)]  # 2 without input, one caller's own mistake
    assert inputs.without_input == 2
    assert set(inputs.calls["cost_pusd"].to_pylist()) == {120e6}


def replayed(inputs: Inputs, path: Path, policy: ShadowPolicy = POLICY) -> Replayed:
    sent = send(cast("Driver", path), NEW, inputs, policy)
    found = compare_answers(inputs, sent, policy)
    return Replayed(
        candidate=NEW,
        champion=OLD,
        start=inputs.start,
        end=inputs.end,
        drawn=inputs.drawn,
        answered=len(sent.answers),
        without_input=inputs.without_input,
        cost_usd=None if sent.cost_pusd is None else str(sent.cost_pusd),
        stopped=sent.stopped,
        latency_ms=found.latency_ms,
        effects=found.effects,
        own_passages=found.own_passages,
        lost=found.lost,
    )


def test_an_equal_candidate_is_not_worse_and_no_text_gets_into_the_report(inputs: Inputs) -> None:
    path = Path()
    result = replayed(inputs, path)
    verdict = shadow_verdict(result)
    assert path.asked == [ASKED] * 87
    assert [check.monitor for check in verdict.checks] == ["success", "quality"]
    assert verdict.outcome in {Outcome.PASS, Outcome.INCONCLUSIVE}
    costs = {effect.outcome.name: effect for effect in result.effects}["cost"]
    assert costs.effect == pytest.approx((200 - 120) / 120)
    assert not costs.decides
    shown = shadow_markdown(result, verdict)
    assert "capital" not in shown
    assert "nowhere" in shown
    assert "87 of 87 inputs sent" in shown
    assert "latency is an indication only" in shown
    assert "only the last message of a user is logged" in shown


def test_a_candidate_that_answers_wrong_is_worse_and_shown_by_ids(inputs: Inputs) -> None:
    result = replayed(inputs, Path(text="Bananas grow on trees."))
    verdict = shadow_verdict(result)
    assert (verdict.outcome, verdict.deciding[0].monitor) == (Outcome.FAIL, "quality")
    shown = shadow_markdown(result, verdict)
    assert shown.startswith("# Shadow of bot 2: Worse")
    assert len(result.lost) == 10
    assert all(f"- `{name}`" in shown for name in result.lost)
    assert "Bananas" not in shown


def test_an_answer_is_judged_by_the_passage_it_rests_on(inputs: Inputs) -> None:
    text = "The capital of France lies on the Seine and is called Lutetia."
    own = replayed(inputs, Path(text=text, context=f"{text} So say the Romans."))
    effect = {effect.outcome.name: effect for effect in own.effects}["quality"]
    assert effect.finding in {Finding.SAME, Finding.BETTER}
    assert own.own_passages == 87
    assert "87 of 87 answers were judged by the passage the candidate says" in shadow_markdown(own, shadow_verdict(own))
    untold = replayed(inputs, Path(text=text, context=None))
    assert {effect.outcome.name: effect for effect in untold.effects}["quality"].finding is Finding.WORSE
    assert untold.own_passages == 0


@pytest.mark.parametrize(("context", "finding"), [("Paris is the capital.", Finding.WORSE), (None, Finding.OPEN)])
def test_what_other_passages_may_explain_is_allowed_for_only_where_none_is_told(
    inputs: Inputs, context: str | None, finding: Finding
) -> None:
    result = replayed(inputs, Path(text="Bananas grow on trees.", context=context), ALLOWING)
    found = {effect.outcome.name: effect for effect in result.effects}["quality"]
    assert found.finding is finding
    assert found.note == ("" if context else "other passages may explain up to 99 points")


def test_a_replay_stops_at_its_budget_and_when_nobody_answers(inputs: Inputs) -> None:
    path = Path()
    stopped = replayed(inputs, path, POLICY.model_copy(update={"max_cost_usd": Decimal("0.001")}))
    assert (len(path.asked), stopped.answered) == (5, 5)  # 0.0002 USD each
    assert stopped.stopped == "the budget of 0.001 USD is used up"
    silent = Path(status=0)
    result = replayed(inputs, silent)
    assert (len(silent.asked), result.stopped) == (20, "no answer came 20 times in a row")
    assert result.effects[0].because == "20 pairs < minimum 30"


def test_an_answer_the_champion_gave_and_the_candidate_refuses_is_the_candidates_failure(inputs: Inputs) -> None:
    result = replayed(inputs, Path(status=400))
    assert shadow_verdict(result).outcome is Outcome.FAIL
    assert result.effects[0].candidate == 0


def test_without_a_price_the_cost_is_unknown(inputs: Inputs) -> None:
    assert find_rates(PriceBook(), "nobody", "nothing", NOW.date()) == ()
    assert send(cast("Driver", Path()), NEW, replace(inputs, rates=()), POLICY).cost_pusd is None
