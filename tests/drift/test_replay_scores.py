"""Who scores the replay set, what is told where somebody cannot, and the way a question takes."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from flow_stage import serve
from model_server import ModelServer, chat
from sample_release import release_of

from tasks.drift import replay_steps
from tasks.drift.replay import PairedChange, tell_apart
from tasks.drift.replay_raters import find_raters
from tasks.drift.replay_scores import REPLAYS_SCHEMA, ReplayNight, describe_replay, replay_rows, score_night
from tasks.drift.replay_set import ReplayItem, find_unit, set_digest
from tasks.evaluation.evidence import Estimate, Evidence
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Outcome
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.quality import JUDGE_VERSION
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.driver import Answer
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.plan import Plan
from tasks.traffic.servers import Server, free_port, write_server

NOW = datetime.now(UTC)
NIGHT = Window(start=NOW - timedelta(days=1), end=NOW)
CITIES = tuple(f"city{at}" for at in range(25))
ITEMS = tuple(
    ReplayItem(id=f"q{at}", question=f"Where is it, {at}?", context=f"It is in {city}.", answer=city)
    for at, city in enumerate(CITIES)
)
ANSWERS = [Answer(status=200, release_digest="", prompt_sha256="", text=city, latency_ms=1.0) for city in CITIES]
release = partial(release_of, endpoint="models:/b/1", text="t")


def plan_with(url: str, **more: Any) -> EvaluationSpec:
    judge = {"name": "helpful", "endpoint": {"url": url, "model": "judge"}, "rubric": "A good answer is in the text."}
    lost = {**judge, "name": "lost", "endpoint": {"url": url, "model": "judge", "key_env": "REPLAY_NOT_SET"}}
    plan = {
        "replay": {"file": "replay.jsonl", **more},
        "judges": [
            {"judge": judge, "budget": {"tokens": 2000}, "workers": 1},
            {"judge": lost, "budget": {"tokens": 2000}},
            {"judge": {**judge, "name": "others"}, "budget": {"tokens": 2000}, "applications": ["search"]},
        ],
        "scorers": [{"name": "gone", "path": "no_such_module:scorer"}],
    }
    return EvaluationSpec.model_validate(plan)


def test_who_cannot_score_says_why_and_never_more_than_the_budget(tmp_path: Path, model_server: ModelServer) -> None:
    model_server.reply = lambda _path, _body: chat(0.5, tokens=300)
    config = Settings(state_dir=tmp_path)
    raters = find_raters(config, "faq", NIGHT, plan_with(model_server.url), NOW)
    assert [one.name for one in raters] == ["quality", "judge:helpful", "judge:lost", "scorer:gone"]
    nights = score_night(ITEMS, ANSWERS, raters, {"judge:helpful": Estimate(value=0.5, low=0.4, high=0.6, n=50)})
    found = {version.split(" ")[0]: night for version, night in nights.items()}
    assert found[JUDGE_VERSION].unscored == 0
    assert found["judge:helpful"].anchors == found["judge:helpful"].replays == {"q0": 0.5, "q1": 0.5, "q2": 0.5}
    assert (found["judge:helpful"].unscored, found["judge:helpful"].reason) == (22, "the token budget of 2000 is spent")
    assert found["judge:lost"].reason.endswith("REPLAY_NOT_SET is not set; set it to the key of the endpoint")
    assert found["scorer:gone"].reason.startswith("scorer gone: no_such_module:scorer cannot be loaded")
    assert found["judge:helpful"].live == pytest.approx((0.5, 0.0608, 50), abs=1e-4)
    told = describe_replay(nights, nights, 0.02)
    assert (
        "Replay set by judge:helpful: changed: nothing that matters; not known: judge, provider, inputs; "
        "22 answers not scored: the token budget of 2000 is spent."
    ) in told
    asked = len(model_server.asked)
    assert score_night(ITEMS, ANSWERS, raters, {})[next(iter(nights))].anchors == found[JUDGE_VERSION].anchors
    assert len(model_server.asked) == asked, "a second run pays nobody again, and does not exceed the budget"


def test_only_those_that_are_named_score(tmp_path: Path) -> None:
    few = plan_with("http://127.0.0.1:9/v1", scores=["judge:lost"])
    assert [one.name for one in find_raters(Settings(state_dir=tmp_path), "faq", NIGHT, few, NOW)] == [
        "quality",
        "judge:lost",
    ]
    with pytest.raises(
        ValueError, match=r"replay.scores: 'judge:x' is not allowed; allowed: all, or of judge:helpful, "
    ):
        plan_with("http://127.0.0.1:9/v1", scores=["judge:x"])


def test_of_a_judge_that_may_have_changed_nothing_is_said_of_the_inputs() -> None:
    same, moved = (PairedChange(mean=mean, error=0.001, n=50) for mean in (0.0, -0.1))
    fresh = tell_apart(moved, moved, same)
    assert fresh.causes == ("judge", "inputs")
    kept = tell_apart(moved, moved, same, is_kept=True)
    assert kept.causes == ("judge",)
    assert (kept.effects[2].outcome, kept.words) == (Outcome.INCONCLUSIVE, "changed: judge; not known: inputs")
    assert tell_apart(same, same, moved, is_kept=True).causes == ("inputs",)


OLD = {"anchors": {f"q{at}": 1.0 for at in range(25)}, "replays": {}, "live": None, "asked": 25, "failed": 0}
"""A night as it was stored before there were judges: one row, without the number of what is not scored."""


def test_a_night_of_before_is_read_and_held_against(tmp_path: Path, model_server: ModelServer) -> None:
    config, one = Settings(state_dir=tmp_path), release("1")
    (tmp_path / "replay.jsonl").write_text("\n".join(item.model_dump_json() for item in ITEMS))
    keys = {"application": "faq", "release_digest": one.digest, "window": "before"}
    row = {
        **keys,
        "window_end": NIGHT.start,
        "judge_version": JUDGE_VERSION,
        "set_digest": set_digest(ITEMS),
        "content": json.dumps(OLD),
    }
    Lake(config.lake_dir).replace("replays", keys, pa.Table.from_pylist([row], schema=REPLAYS_SCHEMA))
    night = ReplayNight(anchors={f"q{at}": 0.0 for at in range(25)}, replays={}, live=None, asked=25, failed=0)
    stored = {**keys, "window": NIGHT.label}
    rows = replay_rows(stored, NIGHT.end, set_digest(ITEMS), {JUDGE_VERSION: night})
    Lake(config.lake_dir).replace("replays", stored, rows)
    nothing = Evidence(summary=Summary())
    plan = plan_with(model_server.url, scores=["judge:helpful"])
    told = replay_steps.replay_questions.fn(config, one, NIGHT, plan, nothing, nothing).remarks
    assert told[0] == "Replay set: 25 asked, 0 without an answer; quality changed: judge; not known: provider, inputs."
    assert told[-1] == "Replay set by judge:helpful: not scored, as the window was replayed without it."
    assert model_server.asked == []


class _Says(BaseHTTPRequestHandler):
    """A release that says who it is, and who asked."""

    digest = ""
    units: list[str]

    def do_GET(self) -> None:
        self._send({"digest": self.digest})

    def do_POST(self) -> None:
        self.units.append(self.headers.get("X-User-Id", ""))
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(chat("city1"))

    def _send(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("X-Release", self.digest)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """Run two releases behind HAProxy; yield the users that each was asked by, by digest."""
    units: dict[str, list[str]] = {release(version).digest: [] for version in "12"}
    servers = []
    for number, (digest, seen) in enumerate(units.items(), start=1):
        handler = type("Says", (_Says,), {"digest": digest, "units": seen})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        port = servers[-1].server_address[1]
        write_server(tmp_path / "servers", Server(application="faq", registry_version=number, digest=digest, port=port))
    yield units
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.stack
def test_the_data_path_is_asked_as_a_user_who_has_the_release(tmp_path: Path, served: dict[str, list[str]]) -> None:
    one, two, three = release("1"), release("2"), release("3")
    config = Settings(state_dir=tmp_path, data_url=f"http://127.0.0.1:{free_port()}")
    serve(config, (one,), (one, two))
    with closing(Ledger(config.ledger)) as ledger:
        plan = ledger.plan("faq")
    assert plan is not None
    assert find_unit(plan, three.digest, "q") is None
    driver = HaproxyDriver(folder=config.haproxy_dir, servers=config.servers_dir, url=config.data_url)
    process = subprocess.Popen(driver.prepare(), cwd=driver.folder, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if _is_up(config.data_url):
                break
            time.sleep(0.02)
        driver.apply(plan)
        spec = plan_with("http://127.0.0.1:9/v1", via="data_path", scores=[]).replay
        assert spec is not None
        ask = replay_steps._asking(config, two, spec)
        answers = [ask(item, 5.0) for item in ITEMS]
        assert {answer.release_digest for answer in answers} == {two.digest}
        assert served[one.digest] == []
        assert len(set(served[two.digest])) == len(ITEMS), "each question is another user's, so all replicas are asked"
        driver.apply(_moved(plan, one.digest))
        late = ask(ITEMS[0], 5.0)
        assert (late.status, late.text, late.error) == (0, "", "it was not this release's answer")
    finally:
        process.terminate()
        process.wait(timeout=10)


def _moved(plan: Plan, digest: str) -> Plan:
    return replace(plan, revision=plan.revision + 1, buckets=(digest,) * 1000)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.HTTPError:
        return False
