"""The nightly flow with judges, feedback, checks, a moderator, anchors and people's labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from flow_stage import CITIES, DAY, START, N, call, log, register, serve
from prefect.client.orchestration import get_client
from typer.testing import CliRunner

from deployments.cli import app
from flows.evaluation import evaluation
from tasks import settings as settings_module
from tasks.interactions.feedback import Feedback, feedback_table
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release.model import Release
from tasks.stores.lake import Lake
from tasks.stores.metrics import Metrics

pytestmark = pytest.mark.usefixtures("prefect_server")
KEY = "sk-very-secret"
SCORES = ("scores.sqlite", "judges.sqlite")
RUBRIC = "A good answer is supported by the context."


def make_plan(url: str) -> dict[str, Any]:
    """Return what stands in evaluation.yaml: a judge, one without money, one without a key, and one of others."""
    endpoint = {"url": url, "model": "judge", "key_env": "JUDGE_KEY", "provider": "openai"}
    judge = {"name": "helpful", "endpoint": endpoint, "rubric": RUBRIC}
    budget = {"tokens": 1_000_000, "usd": 1}
    return {
        "checks": {"truncated": 0.01},
        "feedback": {"threshold": 0.1},
        "references": {"file": "references.jsonl"},
        "toxicity": {"source": "endpoint", "endpoint": {"url": url, "model": "moderator"}, "retries": 0},
        "judges": [
            {"judge": judge, "budget": budget, "sample": 40, "threshold": 0.95, "anchors": "anchors/helpful.json"},
            {"judge": {**judge, "name": "poor", "rubric": f"{RUBRIC} Be strict."}, "budget": {"tokens": 10}},
            {"judge": {**judge, "name": "lost", "endpoint": {**endpoint, "key_env": "NOT_SET"}}, "budget": budget},
            {"judge": {**judge, "name": "elsewhere"}, "budget": budget, "applications": ["another"]},
        ],
    }


class Panel:
    """What the model server answers: a judge that looks into the context, and a moderator that flags nothing.

    Attributes:
        shift: What the judge adds to every score, as another model would.
        fingerprint: As what it says it answers.
        judged: The ids of what was asked: the text of each answer or anchor.
        moderated: How many texts were moderated.
        down: Whether the moderator is down.
    """

    def __init__(self, chat: Callable[..., dict[str, Any]], url: str) -> None:
        self.chat, self.url = chat, url
        self.shift = 0.0
        self.fingerprint = "fp"
        self.judged: list[str] = []
        self.moderated = 0
        self.down = False

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/moderations":
            self.moderated += len(body["input"])
            result = {"flagged": False, "category_scores": {"hate": 0.1}}
            return (503, {}) if self.down else {"results": [result] * len(body["input"])}
        material = json.loads(body["messages"][1]["content"])
        self.judged.append(material["response"])
        good = material["response"] in material.get("context", "anchor good")
        score = round((0.9 if good else 0.1) + self.shift, 3)
        return {**self.chat(score), "system_fingerprint": self.fingerprint}


def write_state(folder: Path, url: str, references: dict[str, str]) -> None:
    """Write ``evaluation.yaml`` and what it names."""
    (folder / "evaluation.yaml").write_text(json.dumps(make_plan(url)))
    lines = [json.dumps({"question": asked, "reference": wanted}) for asked, wanted in references.items()]
    (folder / "references.jsonl").write_text("\n".join(lines))


def write_items(path: Path) -> Path:
    """Write the answers that anchors are made of."""
    lines = [json.dumps({"response": f"anchor {'good' if at % 2 else 'bad'}", "question": str(at)}) for at in range(24)]
    path.write_text("\n".join(lines))
    return path


def write_labels(folder: Path, calls: list[Interaction]) -> Path:
    """Write what people say: the wrong answers are bad."""
    labels = ["bad" if at % 10 == 0 else "good" for at in range(len(calls))]
    lines = [
        json.dumps({"interaction_id": one.interaction_id, "label": word})
        for one, word in zip(calls, labels, strict=True)
    ]
    (folder / "labels.jsonl").write_text("\n".join(lines))
    return folder / "labels.jsonl"


def say(lake: Lake, application: str, words: dict[str, float], when: datetime) -> None:
    """Store what users said of calls, 1 for thumbs up and 0 for down."""
    rows = [
        Feedback(
            feedback_id=f"f-{name}", interaction_id=name, application=application, time=when, kind="thumbs", value=value
        )
        for name, value in words.items()
    ]
    lake.append(
        f"feedback-{application}",
        expected=0,
        offset=1,
        interactions=as_table(list[Interaction]()),
        rejected=rejected_table("none", [], when),
        feedback=feedback_table(rows),
    )


@pytest.fixture
def config(tmp_path: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[settings_module.Settings]:
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_MLFLOW_URL", mlflow_url)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.delenv("NOT_SET", raising=False)
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


@pytest.fixture
def panel(model_server: Any) -> Panel:
    found = Panel(model_server.chat, model_server.url)
    model_server.reply = found.reply
    return found


def test_judges_people_and_a_moderator_in_the_nightly_flow(
    config: settings_module.Settings, panel: Panel, model_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    release, folder = register(config, "judged", "1", monitors={"quality": 0.5}), config.state_dir
    serve(config, (release,))
    nights = [[made_call(release, at, night) for at in range(N)] for night in range(2)]
    for calls in nights:
        log(config, calls)
    write_state(folder, model_server.url, {str(one.input_text): str(one.output_text) for one in nights[0][:60]})
    words = {one.interaction_id: float(at >= 12) for at, one in enumerate(nights[0][:40])}
    say(Lake(config.lake_dir), "judged", words, START)
    told = shell("evaluate", "anchors", "helpful", str(write_items(folder / "items.jsonl")), state=folder)
    assert re.fullmatch("24 anchors of judge [0-9a-f]{12} remembered in anchors/helpful.json\n", told)
    (first,) = judge(START)
    check_first_night(config, first, panel)
    check_that_no_text_is_told(config, nights[0], caplog.text)
    asked, moderated = len(panel.judged), panel.moderated
    assert judge(START) == [first]
    assert (len(panel.judged), panel.moderated) == (asked, moderated), "a rerun pays for nothing again"
    check_labels(config, nights[0])
    panel.shift, panel.fingerprint, panel.down = -0.08, "fp-2", True
    (second,) = judge(START + DAY)
    check_second_night(config, second)


def judge(start: datetime) -> list[Verdict]:
    return cast("list[Verdict]", evaluation("judged", start))


def made_call(release: Release, at: int, night: int) -> Interaction:
    """Return a call: one in ten is wrong, the first five of a night are cut off."""
    cut, route = "length" if at < 5 else "stop", "a" if at % 3 else "b"
    made = call(release, at, START + night * DAY, wrong=at % 10 == 0, finish_reason=cut, route=route)
    # Other texts the second night: what was moderated before is not moderated again.
    return made.model_copy(update={"output_text": f"{made.output_text}{'.' * night}"})


def check_first_night(config: settings_module.Settings, verdict: Verdict, panel: Panel) -> None:
    said = {check.monitor: (check.outcome, check.statement) for check in verdict.checks}
    assert said["check:truncated"] == (Outcome.FAIL, "answers cut off 3.333 % > limit 1 % (n=150)")
    assert said["feedback"] == (Outcome.FAIL, "negative feedback 30 % > limit 10 % (n=40)")
    outcome, statement = said["judge:helpful"]
    assert (outcome, statement.split(" 0.", 1)[0]) == (Outcome.FAIL, "mean helpful")
    assert statement.endswith("< limit 0.95 (n=52)"), "40 drawn, and the 12 complaints, 5 of them cut off as well"
    assert said["judge:poor"][1] == "poor: none of 150 answers has a score: the token budget of 10 is spent"
    missing = f"endpoint {panel.url}: NOT_SET is not set; set it to the key of the endpoint"
    assert said["judge:lost"] == (Outcome.ERROR, f"lost was not asked: {missing}")
    assert "judge:elsewhere" not in said
    assert said["toxicity"] == (Outcome.PASS, "toxic answers 0 % <= limit 10 % (n=150)")
    assert panel.moderated == N
    lake = Lake(config.lake_dir)
    rows = lake.read("judgements", {"judge": "helpful"})
    assert rows is not None
    scores = {row["interaction_id"].split("-")[-1]: row["value"] for row in rows.to_pylist()}
    assert {at: scores[str(at)] for at in range(12)} == {at: 0.1 if at % 10 == 0 else 0.9 for at in range(12)}
    segment = Metrics(lake).series("judged", "scorer.feedback", segment="route=a").to_pylist()
    assert [(row["n"], round(row["value"], 3)) for row in segment] == [(26, 0.308)]
    page = report_of(config, "20260102")
    assert "<td>feedback</td><td>30 % [19.66 %, 42.87 %] of the rated answers negative (n=40)" in page
    assert "answered as judge-2026-01-01 fp; " in page
    assert "judge helpful same: 0 verdicts flipped" in page
    assert "<td>by the endpoint: 150 of 150 answers have a score</td><td>As moderator of 127.0.0.1" in page
    assert "<td>mean 1 [1, 1] (n=60)</td>" in page


def check_that_no_text_is_told(config: settings_module.Settings, calls: list[Interaction], logged: str) -> None:
    with get_client(sync_client=True) as client:
        shown = " ".join(str(one.data) for one in client.read_artifacts() if one.key == "evaluation-judged")
    assert "judge:helpful" in shown
    told = report_of(config, "20260102") + shown + logged
    stored = [Lake(config.lake_dir).read(name) for name in ("judgements", "judges", "metrics")]
    told += " ".join(str(rows.to_pylist()) for rows in stored if rows is not None)
    told += "".join((config.state_dir / name).read_bytes().decode(errors="replace") for name in SCORES)
    assert not any(text in told for one in calls[:30] for text in (str(one.input_text), str(one.context_text)))
    assert not any(text in told for text in (*CITIES, KEY, RUBRIC))


def check_labels(config: settings_module.Settings, calls: list[Interaction]) -> None:
    command = ("evaluate", "calibrate", "judged", str(write_labels(config.state_dir, calls[:30])), "--days", "3660")
    refused = shell(*command, state=config.state_dir, code=1)
    assert "labels: 30 is not allowed; allowed: 50 or more; let people label more answers; 30 labels were" in refused
    write_labels(config.state_dir, calls[:100])
    told = shell(*command, "--ask", state=config.state_dir)
    assert "of 100 labels, 90 good" in told
    assert "applied from the next evaluation on" in told
    assert "agreement of judge:helpful: kappa 1.000 [1.000, 1.000] (n=100)" in told
    assert "agreement of judge:lost: it was not asked: endpoint" in told
    assert "agreement of check:truncated: kappa " in told
    assert not any(city in told for city in CITIES)


def check_second_night(config: settings_module.Settings, verdict: Verdict) -> None:
    said = {check.monitor: (check.outcome, check.statement) for check in verdict.checks}
    outcome, statement = said["judge:helpful"]
    assert outcome is Outcome.ERROR
    assert statement.startswith("judge helpful changed: mean shift -0.080, p 0.000")
    assert statement.endswith("; what it says decides nothing")
    assert said["toxicity"] == (
        Outcome.ERROR,
        "toxicity: 0 of 150 answers have a score: 150 times the endpoint answered 503",
    )
    assert said["feedback"][1] == "negative feedback: 0 interactions < minimum 30 (n=0)"
    page = report_of(config, "20260103")
    assert "ANOTHER MODEL than in 2026-01-02T00:00:00Z/2026-01-03T00:00:00Z, which was judge-2026-01-01 fp" in page
    assert re.search(
        r"its mean moved by -0\.\d+: -0\.080 is the judge&#x27;s own, by its anchors, and [+-]0\.\d+", page
    )
    assert "agreement with people: kappa 1.000" in page
    assert re.search(r"the chance that people call it good, by calibration people \([0-9a-f]{12}\) of 100 labels", page)


def report_of(config: settings_module.Settings, day: str) -> str:
    (path,) = (config.state_dir / "reports" / "judged").glob(f"{day}T*.html")
    return path.read_text(encoding="utf-8")


def shell(*words: str, state: Path, code: int = 0) -> str:
    ended = CliRunner().invoke(app, [*words, "--state", str(state)])
    assert ended.exit_code == code, ended.output
    return ended.output
