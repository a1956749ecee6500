"""The replay set in the nightly flow, by a judge, a scorer and the built-in quality: whose change was it?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from flow_stage import CITIES, call, log, serve
from model_server import ModelServer, chat
from sample_release import spec_of

from flows.evaluation import evaluation
from tasks import settings as settings_module
from tasks.interactions.schema import Interaction
from tasks.monitors.verdict import Verdict
from tasks.release.model import PromptRef, Release
from tasks.stores.lake import Lake
from tasks.stores.registry import Registry

pytestmark = pytest.mark.usefixtures("prefect_server")
ITEMS = 30
CALLS = 60
HOURS_6 = timedelta(hours=6)
FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 4 * HOURS_6
RUBRIC = "A good answer is supported by the context."
SCORER = "def right(inputs, outputs):\n    return float(outputs in inputs['context'])\n"


class World:
    """What the server answers, as the release's endpoint and as its judge.

    Attributes:
        shift: What the judge adds to every score, as another model behind the same name would.
        is_wrong: Whether the endpoint answers with the wrong city.
        replayed, judged: How often each was asked.
    """

    def __init__(self) -> None:
        self.shift, self.is_wrong = 0.0, False
        self.replayed = self.judged = 0

    def reply(self, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("model") != "judge":
            self.replayed += 1
            at = int(body["messages"][0]["content"].split()[5])
            return chat(CITIES[(at + self.is_wrong) % len(CITIES)])
        self.judged += 1
        material = json.loads(body["messages"][1]["content"])
        score = 0.9 if material["response"] in material["context"] else 0.1
        return chat(round(score + self.shift, 3), tokens=100)


@pytest.fixture
def config(
    tmp_path: Path, mlflow_url: str, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[settings_module.Settings]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "replay_scorer.py").write_text(SCORER)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for name, value in (("STATE_DIR", str(tmp_path)), ("MLFLOW_URL", mlflow_url), ("DRIVER", "replay_driver:make")):
        monkeypatch.setenv(f"DELIVERY_{name}", value)
    settings_module.settings.cache_clear()
    judge = {"name": "helpful", "endpoint": {"url": model_server.url, "model": "judge"}, "rubric": RUBRIC}
    plan = {
        "replay": {"file": "replay.jsonl"},
        "judges": [{"judge": judge, "budget": {"tokens": 10**6}, "sample": 200}],
        "scorers": [{"name": "right", "path": "replay_scorer:right"}],
    }
    (tmp_path / "evaluation.yaml").write_text(json.dumps(plan))
    (tmp_path / "replay.jsonl").write_text("\n".join(json.dumps(item(at)) for at in range(ITEMS)))
    yield settings_module.settings()
    settings_module.settings.cache_clear()


def item(at: int) -> dict[str, str]:
    city = CITIES[at % len(CITIES)]
    return {
        "id": f"q{at}",
        "question": f"In what city does company {at} have its head office?",
        "context": f"Company {at} is a hotel company with its head office in {city}.",
        "answer": city,
    }


def calls_of(release: Release, window: int, *, wrong: bool) -> list[Interaction]:
    """Return the calls of a window; other questions each time, so that no score of an answer is known before."""
    start = FIRST + window * HOURS_6
    made = []
    for at in range(CALLS):
        plain = call(release, at, start, wrong=wrong, time=start + timedelta(minutes=at))
        more = {"interaction_id": f"w{window}-{at}", "input_text": f"{plain.input_text} Please, number {window}."}
        made.append(plain.model_copy(update=more))
    return made


def judge(window: int) -> Verdict:
    start = FIRST + window * HOURS_6
    (verdict,) = cast("list[Verdict]", evaluation("replayed", start, start + HOURS_6))
    return verdict


def said_of(config: settings_module.Settings, window: int) -> str:
    start = FIRST + window * HOURS_6
    (page,) = (config.state_dir / "reports" / "replayed").glob(f"{start:%Y%m%dT%H%M%SZ}-*.html")
    return page.read_text(encoding="utf-8")


def test_a_judge_a_provider_and_users_that_changed_are_each_named_by_every_score_that_sees_them(
    config: settings_module.Settings, model_server: ModelServer
) -> None:
    world = World()
    model_server.reply = world.reply
    prompt = PromptRef(name="replayed-prompt", text="Answer from the context.")
    spec = spec_of(application="replayed", endpoint=model_server.url, prompt=prompt)
    release = Registry(config.mlflow_url).register(spec)[0]
    serve(config, (release,))
    for window, wrong in enumerate((False, False, True, True)):
        log(config, calls_of(release, window, wrong=wrong))
    judge(0)
    assert world.replayed == ITEMS
    assert world.judged == CALLS + ITEMS, "tonight's answers are the stored ones, and asked about once"
    assert "Replay set by judge:helpful: the first night of this set" in said_of(config, 0)

    world.shift = -0.08
    judge(1)
    page = said_of(config, 1)
    assert "Replay set: 30 asked, 0 without an answer; quality changed: nothing that matters." in page
    assert "Replay set by scorer:right: changed: nothing that matters." in page
    assert "Replay set by judge:helpful: changed: judge; not known: inputs." in page
    assert "Replay by judge:helpful: judge score -0.08 [-0.08, -0.08] wholly beyond" in page
    assert "Replay by judge:helpful: provider score +0 [" in page

    world.shift, world.is_wrong = 0.0, True
    judge(2)
    page = said_of(config, 2)
    assert "quality changed: provider." in page
    assert "Replay set by scorer:right: changed: provider." in page
    assert "Replay set by judge:helpful: changed: provider." in page
    assert "Replay by judge:helpful: provider score -0.8 [" in page

    world.is_wrong = False
    judge(3)
    page = said_of(config, 3)
    assert "quality changed: inputs." in page
    assert "Replay set by scorer:right: changed: inputs." in page
    assert "Replay set by judge:helpful: changed: inputs." in page

    rows = Lake(config.lake_dir).read("replays", {"application": "replayed"})
    assert rows is not None
    assert rows.num_rows == 4 * 3
    assert not any(city in str(rows.to_pylist()) for city in CITIES), "scores are kept, never an answer"
