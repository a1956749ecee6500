"""A judge is opened with what is left of its budget: that of one window of one application."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.judging.judge import Material, judge_answers
from tasks.judging.opening import open_judge, window_key
from tasks.judging.plan import JudgePlan
from tasks.scoring.pool import State
from tasks.settings import Settings

NOW = datetime(2026, 1, 3, 2, tzinfo=UTC)
NIGHT = "2026-01-02T00:00:00Z/2026-01-03T00:00:00Z"


@pytest.fixture
def plan(model_server: Any) -> JudgePlan:
    model_server.reply = lambda _path, _body: model_server.chat(0.5, tokens=300)
    endpoint = {"url": model_server.url, "model": "judge"}
    judge = {"name": "helpful", "endpoint": endpoint, "rubric": "A good answer says where it is."}
    return JudgePlan.model_validate({"judge": judge, "budget": {"tokens": 2000}, "workers": 1})


def test_each_application_has_the_budget_of_its_window_and_a_rerun_has_no_more(tmp_path: Path, plan: JudgePlan) -> None:
    config = Settings(state_dir=tmp_path)

    def ask(application: str, window: str, words: str) -> tuple[int, int, str | None]:
        materials = [Material(question=None, response=f"{words} {at}") for at in range(6)]
        with open_judge(config, plan, window_key(application, window), NOW) as judge:
            scores = judge_answers(judge, materials)
            spent = judge.budget.spent
        scored = sum(one.state is State.SCORED for one in scores)
        return scored, spent.tokens, next((one.reason for one in scores if one.reason), None)

    spent = "the token budget of 2000 is spent"
    first = ask("faq", NIGHT, "first")
    assert first == (3, 1800, spent)
    assert ask("search", NIGHT, "second") == first, "another application has a budget of its own"
    assert ask("faq", NIGHT, "first") == first, "a rerun looks up what was paid for, and pays for nothing more"
    assert ask("faq", NIGHT, "new") == (0, 1800, spent)
    assert ask("faq", "another night", "third")[0] == 3
