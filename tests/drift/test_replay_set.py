"""The replay set, asked of a real server on loopback over several nights: whose change was it?"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, chat
from sample_release import release_of

from tasks.drift import replay_steps
from tasks.drift.findings import Drift
from tasks.drift.replay_set import ReplayItem, ReplaySpec, ask_items, read_replay_set
from tasks.errors import InputError
from tasks.evaluation.evidence import Estimate, Evidence
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import DAY, Window
from tasks.monitors.verdict import Outcome
from tasks.release.model import Release
from tasks.scoring.extra import read_evaluation_file
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.traffic.driver import Answer

CITIES = ("Delhi", "Lisbon", "Hanoi", "Quito", "Accra", "Oslo", "Lima", "Tunis", "Minsk", "Dhaka")
ITEMS = 40
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def item(at: int) -> dict[str, str]:
    city = CITIES[at % len(CITIES)]
    return {
        "id": f"q{at}",
        "question": f"In what city does company {at} have its head office?",
        "context": f"Company {at} is a hotel company with its head office in {city}.",
        "answer": city,
    }


def night_of(days_ago: int) -> Window:
    end = MIDNIGHT - days_ago * DAY
    return Window(start=end - DAY, end=end)


def evidence_of(quality: float) -> Evidence:
    return Evidence(summary=Summary(n=500), quality=Estimate(value=quality, low=quality - 0.005, high=1.0, n=500))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "replay.jsonl").write_text("\n".join(json.dumps(item(at)) for at in range(ITEMS)))
    (tmp_path / "evaluation.yaml").write_text(f"replay: {{file: replay.jsonl, most: {ITEMS - 5}}}\n")
    return Settings(state_dir=tmp_path, driver="replay_driver:make")


def replay_it(config: Settings, release: Release, window: Window, evidence: Evidence) -> Drift:
    plan = read_evaluation_file(config.state_dir)
    return replay_steps.replay_questions.fn(config, release, window, plan, evidence, evidence)


def answer(*, wrong: bool) -> Any:
    def reply(_path: str, body: dict[str, Any]) -> dict[str, Any]:
        at = int(body["messages"][0]["content"].split()[5])
        return chat(CITIES[(at + wrong) % len(CITIES)])

    return reply


def test_a_change_of_the_provider_is_told_from_one_of_the_users(config: Settings, model_server: ModelServer) -> None:
    release = release_of(endpoint=model_server.url, text="t")
    replay = replay_it
    model_server.reply = answer(wrong=False)
    first = replay(config, release, night_of(1), evidence_of(1.0))
    assert first.checks == ()
    assert first.remarks == (
        "Replay set: 35 asked, 0 without an answer; the first night of this set, which later ones are held against.",
    )
    assert len(model_server.asked) == ITEMS - 5, "no more than it may cost"
    quiet = replay(config, release, night_of(0), evidence_of(1.0))
    assert quiet.remarks[0] == ("Replay set: 35 asked, 0 without an answer; quality changed: nothing that matters.")
    asked = len(model_server.asked)
    assert replay(config, release, night_of(0), evidence_of(1.0)) == quiet
    assert len(model_server.asked) == asked, "a night that is judged again is not asked again"
    users = replay(config, release, Window(start=MIDNIGHT, end=MIDNIGHT + DAY), evidence_of(0.5))
    assert users.remarks[0].endswith("quality changed: inputs.")
    model_server.reply = answer(wrong=True)
    later = Window(start=MIDNIGHT + DAY, end=MIDNIGHT + 2 * DAY)
    provider = replay(config, release, later, evidence_of(0.0))
    assert provider.remarks[0].endswith("quality changed: provider.")
    assert provider.remarks[2].startswith("Replay: provider score -1 [")
    rows = Lake(config.lake_dir).read("replays", {"application": "faq"})
    assert rows is not None
    assert rows.num_rows == 4
    assert not any(city in str(rows.to_pylist()) for city in CITIES), "scores are kept, never an answer"


def test_a_release_that_does_not_answer_is_not_known_and_old_windows_are_not_asked(
    config: Settings, model_server: ModelServer
) -> None:
    release = release_of(endpoint=model_server.url, text="t")
    model_server.reply = answer(wrong=False)
    replay_it(config, release, night_of(1), evidence_of(0.9))
    model_server.reply = lambda _path, _body: (503, {})
    down = replay_it(config, release, night_of(0), evidence_of(0.9))
    assert down.remarks[0].startswith("Replay set: 35 asked, 35 without an answer; quality changed: nothing that ")
    assert down.remarks[0].endswith("matters; not known: provider, inputs.")
    old = replay_it(config, release, night_of(9), evidence_of(0.9))
    assert old.remarks == ("Replay set: not asked, as today's answers say nothing about a window that long ago.",)


def test_without_a_set_nothing_is_asked_and_one_that_cannot_be_read_is_an_error(
    config: Settings, model_server: ModelServer
) -> None:
    release = release_of(endpoint=model_server.url, text="t")
    (config.state_dir / "replay.jsonl").write_text('{"id": "a", "question": "q", "secret": "text"}\n')
    (check,) = replay_it(config, release, night_of(0), evidence_of(0.9)).checks
    assert (check.monitor, check.outcome) == ("drift:replay", Outcome.ERROR)
    assert check.statement == (
        "drift: the replay set could not be asked: replay set replay.jsonl, line 1, secret: Extra inputs are not "
        "permitted (n=0)"
    )
    (config.state_dir / "evaluation.yaml").unlink()
    assert replay_it(config, release, night_of(0), evidence_of(0.9)).checks == ()
    assert model_server.asked == []


def test_a_set_is_read_strictly_and_asked_within_its_time(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "a", "question": "q"}\n\n{"id": "a", "question": "r"}\n')
    with pytest.raises(InputError, match="one item or more, each with its own id"):
        read_replay_set(tmp_path, ReplaySpec(file="r.jsonl"))
    (one,) = read_replay_set(tmp_path, ReplaySpec(file="r.jsonl", most=1))
    with pytest.raises(InputError, match="replay set gone: FileNotFoundError; write a JSONL file there"):
        read_replay_set(tmp_path, ReplaySpec(file="gone"))
    with pytest.raises(ValueError, match="below the state folder"):
        ReplaySpec(file="../x")
    ticks = iter((0.0, 1.0, 6.0))
    asked: list[float] = []
    spec = ReplaySpec(file="r.jsonl", total_s=5, timeout_s=30)
    fine = Answer(status=200, release_digest="", prompt_sha256="", text="t", latency_ms=1.0)

    def ask(_item: ReplayItem, left_s: float) -> Answer:
        asked.append(left_s)
        return fine

    assert ask_items([one, one], spec, ask, lambda: next(ticks)) == [fine, None]
    assert asked == [4.0]
    assert timedelta(days=2) == replay_steps.RECENT
