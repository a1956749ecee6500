from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from tasks.errors import InputError
from tasks.judging.anchors import Anchor, AnchorSet
from tasks.judging.judge import JudgeSpec
from tasks.monitors.verdict import Outcome
from tasks.scoring.cache import ScoreCache
from tasks.scoring.check_rules import make_rules
from tasks.scoring.checks import describe_checks
from tasks.scoring.pool import State
from tasks.scoring.table import ScoringPlan, Surroundings, check_plan, score_table
from tasks.scoring.toxicity import LIMITS

N = 200
BAD = [at % 20 == 0 for at in range(N)]
TABLE = pa.table(
    {
        "interaction_id": [f"call-{at}" for at in range(N)],
        "input_text": ["Where is the head office of the group?"] * N,
        "context_text": ["The head office is in Delhi."] * N,
        "output_text": ["bad " * 30 if bad else f"In Delhi, room {at}." for at, bad in enumerate(BAD)],
        "finish_reason": ["length" if bad else "stop" for bad in BAD],
        "route": ["search"] * 150 + ["chat"] * 50,
        "language": ["en"] * N,
    }
)
AROUND = Surroundings(rules=make_rules(None), environment={})


@pytest.fixture
def judge(model_server: Any) -> dict[str, Any]:
    def reply(_: str, body: dict[str, Any]) -> Any:
        material = json.loads(body["messages"][1]["content"])
        return model_server.chat(0.1 if material["response"].startswith("bad") else 0.9)

    model_server.reply = reply
    return {
        "name": "helpful",
        "endpoint": {"url": model_server.url, "model": "judge"},
        "rubric": "A good answer says where the head office is.",
    }


def plan(judge: dict[str, Any], **more: Any) -> ScoringPlan:
    return ScoringPlan.model_validate(
        {"judges": [{"judge": judge, "budget": {"tokens": 10**6}, "sample": 60, "threshold": 0.8} | more]}
    )


def test_one_call_scores_a_table(judge: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scorers.py").write_text("def short(outputs):\n    return len(outputs) < 50\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    whole = plan(judge).model_dump() | {
        "checks": {"truncated": 0.02, "empty": 0.01},
        "scorers": [{"name": "short", "path": "my_scorers:short", "threshold": 0.5}],
    }
    found = score_table(TABLE, ScoringPlan.model_validate(whole), AROUND)
    assert sorted(found.scores) == ["helpful", "short", "toxicity"]
    assert [(check.monitor, check.outcome) for check in found.checks] == [
        ("check:empty", Outcome.PASS),
        ("check:truncated", Outcome.FAIL),
        ("scorer:short", Outcome.PASS),
        ("scorer:helpful", Outcome.PASS),
    ]
    rows = found.as_table(TABLE["interaction_id"].to_pylist())
    assert rows.num_rows == 3 * N
    assert set(rows["state"].to_pylist()) == {"scored", "not run"}
    del sys.modules["my_scorers"]


def test_failures_are_always_judged_and_do_not_bend_the_mean(judge: dict[str, Any]) -> None:
    complaints = np.array([at == 7 for at in range(N)])
    around = Surroundings(rules=make_rules(None), environment={}, complaints=complaints)
    found = score_table(TABLE, plan(judge), around)
    scores, judged = found.scores["helpful"], found.judged["helpful"]
    assert all(scores[at].value == 0.1 for at in range(N) if BAD[at])
    assert scores[7].state is State.SCORED
    assert sum(score.state is State.SCORED for score in scores) == 60 + sum(BAD) + 1
    assert judged.mean is not None
    assert judged.mean.value == pytest.approx(0.9 - 0.8 * sum(BAD) / N, abs=0.001)
    assert judged.missing == 0
    assert judged.models == {"judge-2026-01-01 fp": 71}
    assert (judged.spent.calls, judged.spent.usd) == (71, None)


def test_a_judge_that_changed_decides_nothing(judge: dict[str, Any]) -> None:
    known = tuple(Anchor(response=f"answer {at}", score=0.2) for at in range(20))
    anchors = AnchorSet(judge=JudgeSpec.model_validate(judge).digest, anchors=known)
    found = score_table(TABLE, plan(judge, anchors=anchors.model_dump()), AROUND)
    (check,) = found.checks
    assert (check.monitor, check.outcome) == ("judge", Outcome.ERROR)
    assert check.statement.startswith("judge changed: 20 verdicts flipped, p 0.0000 <= 0.005; mean shift +0.700")
    same = anchors.model_copy(update={"anchors": tuple(one.model_copy(update={"score": 0.9}) for one in known)})
    found = score_table(TABLE, plan(judge, anchors=same.model_dump()), AROUND)
    assert [check.outcome for check in found.checks] == [Outcome.PASS, Outcome.PASS]


def test_a_judge_that_is_down_is_an_error(judge: dict[str, Any], model_server: Any) -> None:
    model_server.reply = lambda _, __: (400, {})
    (check,) = score_table(TABLE, plan(judge), AROUND).checks
    assert check.outcome is Outcome.ERROR
    assert check.statement == "helpful: 0 of 70 answers have a score < minimum 50%: the endpoint answered 400"


def test_a_budget_that_ends_is_told(judge: dict[str, Any], model_server: Any) -> None:
    (check,) = score_table(TABLE, plan(judge, budget={"tokens": 1500}, workers=1), AROUND).checks
    asked = len(model_server.asked)
    assert 0 < asked < 70
    assert f"(n={asked}); {70 - asked} were not judged: the token budget of 1500 is spent" in check.statement
    (check,) = score_table(TABLE, plan(judge, budget={"tokens": 10}), AROUND).checks
    assert (check.outcome, check.statement) == (
        Outcome.ERROR,
        "helpful: it ran on none of 200 answers; 70 were not judged: the token budget of 10 is spent",
    )


def test_a_second_run_asks_nothing(judge: dict[str, Any], model_server: Any, tmp_path: Path) -> None:
    with ScoreCache(tmp_path / "scores.db") as cache:
        around = Surroundings(rules=make_rules(None), environment={}, cache=cache)
        first = score_table(TABLE, plan(judge), around)
        asked = len(model_server.asked)
        again = score_table(TABLE, plan(judge), around)
    assert again.scores == first.scores
    assert len(model_server.asked) == asked == 70


def test_no_answers_are_no_trouble(judge: dict[str, Any]) -> None:
    found = score_table(TABLE.slice(0, 0), plan(judge), AROUND)
    assert [check.outcome for check in found.checks] == [Outcome.INCONCLUSIVE]
    assert found.as_table([]).num_rows == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checks": {"toxic": 0.1}}, "scoring.checks: 'toxic' is not allowed; allowed: empty, "),
        ({"scorers": [{"name": "toxicity", "path": "a:b"}]}, "two scores are named 'toxicity'; give each its own name"),
        ({"scorers": [{"name": "s", "path": "no_module:b"}]}, "scorer s: no_module:b cannot be loaded"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_plan(ScoringPlan.model_validate(fields))


def test_the_document_says_what_the_code_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
    assert describe_checks() in text
    assert LIMITS in text
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    (read,) = [ScoringPlan.model_validate(yaml.safe_load(block)) for block in blocks]
    assert read.judges[0].budget.usd == 2.5
