"""A window before a judge: the sample, the mean over all answers, and what follows for a release."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.judging.agreement import estimate_mean, estimate_with_predictor
from tasks.judging.anchors import Anchor, AnchorResult, AnchorSet, JudgeState
from tasks.judging.budget import Budget
from tasks.judging.client import Client
from tasks.judging.conclusions import Before, conclude, find_before, judge_rows
from tasks.judging.judge import Judge, Material
from tasks.judging.night import Candidates, Judgement, judge_window
from tasks.judging.plan import JudgePlan
from tasks.judging.sample import Kinds
from tasks.monitors.verdict import Outcome

N = 200
BAD = np.arange(N) % 20 == 0
NIGHT = "2026-01-02T00:00:00Z/2026-01-03T00:00:00Z"
Ask = Callable[..., Judgement]


@pytest.fixture
def plan(model_server: Any) -> JudgePlan:
    def reply(_: str, body: dict[str, Any]) -> Any:
        return model_server.chat(0.1 if json.loads(body["messages"][1]["content"])["response"] == "bad" else 0.9)

    model_server.reply = reply
    judge = {
        "name": "helpful",
        "endpoint": {"url": model_server.url, "model": "judge"},
        "rubric": "A good answer says where it is.",
    }
    return JudgePlan.model_validate({"judge": judge, "budget": {"tokens": 10**6}, "sample": 60, "threshold": 0.8})


@pytest.fixture
def ask(plan: JudgePlan) -> Iterator[Ask]:
    with ExitStack() as stack:

        def run(plan: JudgePlan = plan, anchors: AnchorSet | None = None, releases: Sequence[str] = "a") -> Judgement:
            client = stack.enter_context(Client(plan.judge.endpoint, {}))
            judge = Judge(spec=plan.judge, client=client, budget=Budget(plan.budget, ()), limits=plan.limits)
            return judge_window(plan, judge, anchors, {name: candidates(name) for name in releases}, load, NIGHT)

        yield run


def candidates(release: str) -> Candidates:
    routes = tuple(("search" if at < 150 else "chat", "en") for at in range(N))
    ids = tuple(f"{release}-{at}" for at in range(N))
    return Candidates(ids=pa.array(ids), kinds=Kinds.of(routes), always=BAD, quality=np.where(BAD, 0.0, 1.0))


def load(ids: Sequence[str]) -> dict[str, Material]:
    return {
        name: Material(question="Where?", response="bad" if BAD[int(name.split("-")[1])] else "Delhi") for name in ids
    }


def test_failures_are_always_judged_and_do_not_bend_the_mean(plan: JudgePlan, ask: Ask) -> None:
    judgement = ask()
    found = judgement.releases["a"]
    assert len(found.ids) == 60 + BAD.sum() == 70
    assert {f"a-{at}" for at in np.flatnonzero(BAD)} < set(found.ids)
    assert found.mean is not None
    assert found.mean.value == pytest.approx(0.9 - 0.8 * BAD.mean())
    assert judgement.models == {"judge-2026-01-01 fp": 70}
    checks, shown = conclude(plan, judgement, "a", None, None)
    assert [(one.monitor, one.outcome) for one in checks] == [("judge:helpful", Outcome.PASS)]
    assert checks[0].statement == "mean helpful 0.86 >= limit 0.8 (n=70)"
    assert "70 of 200 answers in its sample" in shown.statement
    assert "agreement with people: not measured" in shown.statement


def test_a_budget_that_ends_leaves_out_any_and_no_release(plan: JudgePlan, ask: Ask) -> None:
    poor = plan.model_copy(update={"budget": plan.budget.model_copy(update={"tokens": 3000}), "workers": 1})
    judgement = ask(poor, releases=("a", "b"))
    scored = {name: found.mean.n for name, found in judgement.releases.items() if found.mean}
    assert set(scored) == {"a", "b"}
    assert 0 < sum(scored.values()) < 140
    assert judgement.spent is not None
    assert judgement.spent.tokens <= 3000
    for name, found in judgement.releases.items():
        (check,), _ = conclude(poor, judgement, name, None, None)
        assert (
            f"; {len(found.ids) - scored[name]} were not judged: the token budget of 3000 is spent" in check.statement
        )


def test_a_judge_that_is_down_is_an_error_without_a_threshold_too(plan: JudgePlan, ask: Ask, model_server: Any) -> None:
    model_server.reply = lambda _, __: (400, {})
    (check,), shown = conclude(plan.model_copy(update={"threshold": None}), ask(), "a", None, None)
    assert (check.outcome, check.limit) == (Outcome.ERROR, 0.0)
    assert check.statement == "helpful: none of 70 answers has a score: the endpoint answered 400"
    assert "no score; 70 of 200 answers in its sample; 70 failed: the endpoint answered 400" in shown.statement


def test_a_judge_that_changed_decides_nothing_and_its_own_move_is_told_apart(plan: JudgePlan, ask: Ask) -> None:
    known = tuple(Anchor(response=f"answer {at}", score=0.7) for at in range(20))
    judgement = ask(anchors=AnchorSet(judge=plan.judge.digest, anchors=known))
    before = Before(served=frozenset(["judge-old fp"]), means={"a": 0.6}, window="the night before")
    (check,), shown = conclude(plan, judgement, "a", before, "kappa 0.5")
    assert (check.monitor, check.outcome) == ("judge:helpful", Outcome.ERROR)
    assert check.statement.startswith("judge helpful changed: mean shift +0.200, p 0.000")
    moved = "its mean moved by +0.260: +0.200 is the judge's own, by its anchors, and +0.060 the answers'"
    assert f"since the night before {moved}" in shown.statement
    assert "answered as judge-2026-01-01 fp; ANOTHER MODEL than in the night before, which was judge-old fp" in (
        shown.statement
    )
    assert "agreement with people: kappa 0.5" in shown.statement


def test_anchors_of_another_judge_decide_nothing(plan: JudgePlan, ask: Ask) -> None:
    known = tuple(Anchor(response=f"answer {at}", score=0.7) for at in range(20))
    (check,), _ = conclude(plan, ask(anchors=AnchorSet(judge="b" * 64, anchors=known)), "a", None, None)
    assert check.outcome is Outcome.ERROR
    assert "the anchors are of judge bbbbbbbbbbbb, not" in check.statement
    assert check.statement.endswith("remember them anew; what it says decides nothing")


def test_what_came_before_is_the_last_window_of_the_same_judge(plan: JudgePlan, ask: Ask) -> None:
    judgement = ask()
    end = datetime(2026, 1, 3, tzinfo=UTC)
    keys = {"application": "faq", "window": NIGHT, "judge": "helpful", "judge_digest": plan.judge.digest}
    rows = judge_rows(keys, end, replace(judgement, anchors=result(JudgeState.SAME)))
    assert rows["anchors"].to_pylist() == ["same"]
    found = find_before(rows, plan.judge.digest, end)
    assert found is not None
    assert (found.window, found.served) == (NIGHT, frozenset(["judge-2026-01-01 fp"]))
    assert found.means == {"a": pytest.approx(0.86)}
    assert find_before(rows, plan.judge.digest, datetime(2026, 1, 2, tzinfo=UTC)) is None
    assert find_before(rows, "b" * 64, end) is None
    assert find_before(None, plan.judge.digest, end) is None


def result(state: JudgeState) -> AnchorResult:
    return AnchorResult(judge="helpful", state=state, statement="", n=20, shift=0.0)


def test_a_predictor_makes_the_interval_narrower_and_its_bias_costs_nothing() -> None:
    source, truth, rounds = np.random.default_rng(5), 4 / 6, 300
    hits, widths = np.zeros(3), np.zeros(2)
    for _ in range(rounds):
        quality = source.beta(4, 2, 2000)
        judge = np.clip(quality + source.normal(0, 0.1, 2000), 0, 1)
        biased = np.clip(quality - 0.3, 0, 1)
        sampled = np.where(np.arange(2000) < 150, judge, np.nan)
        weights = np.where(np.isnan(sampled), 0.0, 2000 / 150)
        both = estimate_with_predictor(sampled, biased, weights, level=0.9)
        alone, blind = estimate_mean(sampled, level=0.9), estimate_mean(biased, level=0.9)
        assert both is not None
        assert alone is not None
        assert blind is not None
        hits += [one.low <= truth <= one.high for one in (both, alone, blind)]
        widths += [both.high - both.low, alone.high - alone.low]
    assert hits[0] / rounds >= 0.87
    assert hits[2] == 0
    assert widths[0] < 0.75 * widths[1]


def test_a_predictor_that_knows_nothing_is_left_out() -> None:
    source = np.random.default_rng(6)
    judged = np.where(np.arange(500) < 120, source.random(500), np.nan)
    weights = np.where(np.isnan(judged), 0.0, 500 / 120)
    plain = estimate_mean(judged, weights=weights, level=0.9)
    assert estimate_with_predictor(judged, np.full(500, np.nan), weights, level=0.9) == plain
    few = np.where(np.arange(500) < 99, judged, np.nan)
    assert estimate_with_predictor(few, source.random(500), weights, level=0.9) == estimate_mean(
        few, weights=np.where(np.isnan(few), 0.0, weights), level=0.9
    )
    assert estimate_with_predictor(np.full(5, np.nan), np.ones(5), np.zeros(5)) is None
