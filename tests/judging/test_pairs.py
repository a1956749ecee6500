from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.judging.anchors import (
    Anchor,
    AnchorSet,
    JudgeState,
    check_judge,
    compare_anchors,
    read_anchors,
    remember_anchors,
)
from tasks.judging.budget import Budget, BudgetSpec
from tasks.judging.client import Client, EndpointSpec
from tasks.judging.judge import Judge, JudgeSpec
from tasks.judging.pairs import Pair, PairVerdict, decide_pair, judge_pairs, summarise_pairs
from tasks.monitors.verdict import Outcome
from tasks.scoring.cache import ScoreCache
from tasks.scoring.pool import Limits, State
from tasks.scoring.reading import Score


@pytest.fixture
def judge_of(model_server: Any) -> Iterator[Callable[..., Judge]]:
    with ExitStack() as opened:

        def make(**settings: Any) -> Judge:
            endpoint = EndpointSpec(url=model_server.url, model="judge")
            spec = JudgeSpec(name="better", endpoint=endpoint, rubric="The more exact answer is the better one.")
            known: dict[str, Any] = {
                "budget": Budget(BudgetSpec(tokens=10**7), ()),
                "limits": Limits(timeout_s=5),
            } | settings
            return Judge(spec=spec, client=opened.enter_context(Client(endpoint, {})), **known)

        yield make


def says(choose: Callable[[dict[str, str]], str]) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Return a judge's server that decides from the material."""

    def reply(_: str, body: dict[str, Any]) -> dict[str, Any]:
        better = choose(json.loads(body["messages"][1]["content"]))
        content = json.dumps({"reason": "so", "better": better})
        message = {"message": {"content": content}, "finish_reason": "stop"}
        return {"choices": [message], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}

    return reply


PAIRS = [Pair(question="Where?", first="x" * (at % 5), second="x" * 2) for at in range(20)]


class TestPairs:
    def test_a_judge_of_answers_keeps_its_word_when_they_are_swapped(self, judge_of: Any, model_server: Any) -> None:
        def longer(pair: dict[str, str]) -> str:
            one, other = len(pair["answer_A"]), len(pair["answer_B"])
            return "tie" if one == other else "A" if one > other else "B"

        model_server.reply = says(longer)
        found = summarise_pairs(judge_pairs(judge_of(), PAIRS))
        assert (found.first, found.second, found.ties, found.swapped, found.errors) == (8, 8, 4, 0, 0)
        assert found.win_share is not None
        assert found.win_share.value == 0.5
        assert found.first_place is None
        assert not found.biased
        assert len(model_server.asked) == 40

    def test_a_judge_of_places_decides_nothing_and_is_told(self, judge_of: Any, model_server: Any) -> None:
        model_server.reply = says(lambda _: "A")
        verdicts = judge_pairs(judge_of(), PAIRS)
        assert {verdict.winner for verdict in verdicts} == {"tie"}
        assert verdicts[0].said == ("first", "second")
        found = summarise_pairs(verdicts)
        assert (found.ties, found.swapped, found.biased) == (20, 20, True)
        assert found.first_place is not None
        assert found.first_place.value == 1.0

    def test_a_pair_without_both_answers_is_no_tie(self, judge_of: Any, model_server: Any) -> None:
        whole = says(lambda _: "A")
        model_server.reply = lambda path, body: whole(path, body) if len(model_server.asked) % 2 else (400, {})
        (found,) = judge_pairs(judge_of(limits=Limits(workers=1, timeout_s=5)), PAIRS[:1])
        assert found == PairVerdict(state=State.ERROR, reason="the endpoint answered 400")
        model_server.reply = says(lambda _: "first")
        assert judge_pairs(judge_of(), PAIRS[:1])[0].reason == "the judge's answer is not the JSON asked for"
        (found,) = judge_pairs(judge_of(budget=Budget(BudgetSpec(tokens=10), ())), PAIRS[:1])
        assert (found.state, found.winner) == (State.NOT_RUN, None)
        assert summarise_pairs([found]).win_share is None

    def test_no_pair_is_paid_for_twice(self, judge_of: Any, model_server: Any, tmp_path: Path) -> None:
        model_server.reply = says(lambda _: "B")
        with ScoreCache(tmp_path / "scores.db") as cache:
            first = judge_pairs(judge_of(cache=cache), PAIRS[:3])
            asked = len(model_server.asked)
            assert judge_pairs(judge_of(cache=cache), PAIRS[:3]) == first
        assert len(model_server.asked) == asked == 6

    @pytest.mark.parametrize(
        ("straight", "swapped", "winner"),
        [("A", "B", "first"), ("B", "A", "second"), ("A", "A", "tie"), ("tie", "tie", "tie"), ("A", "tie", "tie")],
    )
    def test_a_verdict_counts_if_it_stays(self, straight: str, swapped: str, winner: str) -> None:
        assert decide_pair(straight, swapped).winner == winner


def anchors(n: int = 40) -> list[Anchor]:
    return [Anchor(question="Where?", response=f"answer {at}") for at in range(n)]


def remembered(scores: Any) -> AnchorSet:
    known = [
        anchor.model_copy(update={"score": float(score)})
        for anchor, score in zip(anchors(len(scores)), scores, strict=True)
    ]
    return AnchorSet(judge="a" * 64, anchors=tuple(known))


def now(values: Any) -> list[Score]:
    return [
        Score(name="j", state=State.ERROR, reason="the endpoint answered 500")
        if np.isnan(value)
        else Score(name="j", state=State.SCORED, value=float(value))
        for value in values
    ]


BEFORE = np.round(np.random.default_rng(1).random(40), 1)


class TestAnchors:
    def test_the_same_judge_is_the_same(self) -> None:
        found = compare_anchors("helpful", remembered(BEFORE), now(BEFORE), seed=1)
        assert found.state is JudgeState.SAME
        assert (
            found.statement
            == "judge helpful same: 0 verdicts flipped, mean shift +0.000, mean distance 0.000 <= 0.15 (n=40)"
        )
        assert found.check.outcome is Outcome.PASS

    def test_a_little_noise_is_no_change(self) -> None:
        source = np.random.default_rng(2)
        states = [
            compare_anchors(
                "helpful", remembered(BEFORE), now(np.clip(BEFORE + source.normal(0, 0.05, 40), 0, 1)), seed
            ).state
            for seed in range(60)
        ]
        assert states.count(JudgeState.CHANGED) <= 1

    @pytest.mark.parametrize(
        ("after", "reason"),
        [
            (np.clip(BEFORE + 0.12, 0, 1), "mean shift +0.1"),
            (np.clip(BEFORE - 0.4, 0, 1), "verdicts flipped, p 0.00"),
            (1 - BEFORE, "mean distance 0."),
        ],
    )
    def test_another_judge_is_seen_and_stops_what_rests_on_it(self, after: Any, reason: str) -> None:
        found = compare_anchors("helpful", remembered(BEFORE), now(after), seed=1)
        assert found.state is JudgeState.CHANGED
        assert reason in found.statement
        assert (found.check.monitor, found.check.outcome) == ("judge:helpful", Outcome.ERROR)

    def test_flips_are_tested_exactly(self) -> None:
        after = np.where(np.arange(40) < 9, 0.9, 0.1)
        found = compare_anchors("helpful", remembered(np.full(40, 0.1)), now(after), seed=1)
        assert found.flips == 9
        assert found.p_flips == pytest.approx(2 * 0.5**9)

    def test_a_judge_that_does_not_answer_is_unknown_and_no_pass(self) -> None:
        after = np.where(np.arange(40) < 10, np.nan, BEFORE)
        found = compare_anchors("helpful", remembered(BEFORE), now(after), seed=1)
        assert found.state is JudgeState.UNKNOWN
        assert (
            found.statement
            == "judge helpful unknown: 30 of 40 anchors answered < minimum 80% (the endpoint answered 500)"
        )
        assert found.check.outcome is Outcome.ERROR

    def test_remembered_and_asked_again_past_the_cache(self, judge_of: Any, model_server: Any, tmp_path: Path) -> None:
        def score(shift: float) -> Callable[[str, dict[str, Any]], Any]:
            def reply(_: str, body: dict[str, Any]) -> Any:
                at = int(json.loads(body["messages"][1]["content"])["response"].split()[1])
                return model_server.chat(round(min(1.0, at / 40 + shift), 3))

            return reply

        model_server.reply = score(0)
        with ScoreCache(tmp_path / "scores.db") as cache:
            judge = judge_of(cache=cache)
            kept = remember_anchors(judge, anchors())
            (tmp_path / "anchors.json").write_text(kept.model_dump_json())
            assert read_anchors(tmp_path / "anchors.json") == kept
            assert check_judge(judge, kept, seed=1).state is JudgeState.SAME
            model_server.reply = score(0.3)
            assert check_judge(judge, kept, seed=1).state is JudgeState.CHANGED
        other = kept.model_copy(update={"judge": "b" * 64})
        with pytest.raises(InputError, match=r"the anchors are of judge bbbbbbbbbbbb, not .*; remember them anew"):
            check_judge(judge, other, seed=1)

    def test_anchors_without_a_score_are_not_remembered(self, judge_of: Any, model_server: Any) -> None:
        with pytest.raises(InputError, match="anchors: 19 is not allowed; allowed: 20 or more"):
            remember_anchors(judge_of(), anchors(19))
        model_server.reply = lambda _, __: (400, {})
        with pytest.raises(
            InputError, match=r"40 of 40 have no score \(the endpoint answered 400\); remember them again"
        ):
            remember_anchors(judge_of(), anchors())
        with pytest.raises(ValueError, match="an anchor has no score; remember them with the judge first"):
            AnchorSet(judge="a" * 64, anchors=tuple(anchors()))
