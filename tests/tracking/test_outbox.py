"""A tracker that sends to a receiver, which is not always there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tasks import tracking
from tasks.interactions.ingest import ingest_folder
from tasks.receiver.app import create_app
from tasks.settings import settings
from tasks.stores.lake import Lake
from tasks.tracking import Tracker
from tasks.tracking.outbox import MAX_POST_BYTES, Outbox
from tasks.tracking.spool import Line, Spool

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
DAY = (datetime(2024, 3, 5, tzinfo=UTC), datetime(2024, 3, 6, tzinfo=UTC))
TOKEN = "a-token-of-some-length"  # noqa: S105 - of this test
NOWHERE = "http://127.0.0.1:9"
Serve = Callable[[Starlette], str]


def outbox(folder: Path, url: str) -> Outbox:
    return Outbox(folder, url, TOKEN, lambda: NOW)


def waiting(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if path.name != "lock" and path.is_file())


def receiver(logs: Path) -> Starlette:
    return create_app(Spool(logs, "received", lambda: NOW), token=TOKEN)


def line(number: int, kind: Any = "interactions", size: int = 0) -> Line:
    call = {"interaction_id": f"i{number}", "application": "faq", "time": NOW.isoformat(), "status": 200}
    return Line(kind, "faq", json.dumps(call | {"output_text": "x" * size}).encode())


def stored_ids(tmp_path: Path) -> list[str]:
    lake = Lake(tmp_path / "lake")
    ingest_folder(lake, tmp_path / "logs", NOW)
    return list(lake.window("faq", *DAY, ["interaction_id"])["interaction_id"].to_pylist())


def test_calls_and_feedback_reach_the_receiver(tmp_path: Path, serve: Serve) -> None:
    url = serve(receiver(tmp_path / "logs"))
    with Tracker(tmp_path / "out", url=url, token=TOKEN, application="faq", clock=lambda: NOW) as tracked:
        name = tracked.track_interaction(output_text="yes", user="ann")
        tracked.track_feedback(name, value=1, comment="fine")
        tracked.track_interaction(latency_ms="slow")
    assert waiting(tmp_path / "out") == []
    assert stored_ids(tmp_path) == [name]
    lake = Lake(tmp_path / "lake")
    assert lake.feedback(*DAY, "faq")["interaction_id"].to_pylist() == [name]
    assert lake.rejected().num_rows == 1


def test_what_cannot_be_sent_waits_on_the_disk_for_the_next_process(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    with Tracker(folder, url=NOWHERE, token=TOKEN, application="faq", clock=lambda: NOW) as tracked:
        names = [tracked.track_interaction(), tracked.track_interaction()]
        assert tracked.flush()
    assert waiting(folder) == [".interactions"]
    assert "the receiver cannot be reached and is tried again: ConnectError (said once)" in caplog.messages
    (told,) = {text for text in caplog.messages if text.startswith("calls wait in ")}
    assert told.endswith("/out for the receiver; the next process sends them (said once)")
    code = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from tasks.tracking import Tracker
tracked = Tracker(Path(sys.argv[1]), url=sys.argv[2], application="faq", durable=True)
print(tracked.track_interaction(time=datetime(2024, 3, 5, tzinfo=UTC)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", code, str(folder), NOWHERE], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -9
    assert waiting(folder) == [".interactions", ".interactions"]
    url = serve(receiver(tmp_path / "logs"))
    with Tracker(folder, url=url, token=TOKEN, application="faq", clock=lambda: NOW) as tracked:
        names.append(tracked.track_interaction())
    assert waiting(folder) == []
    assert sorted(stored_ids(tmp_path)) == sorted([*names, killed.stdout.strip()])


def test_a_lost_answer_doubles_nothing(tmp_path: Path, serve: Serve) -> None:
    url = serve(receiver(tmp_path / "logs"))
    for _ in range(2):  # the second time is what a client does whose answer was lost
        box = outbox(tmp_path / "out", url)
        assert box.store([line(1), line(2)]) == ([], None)
        assert box.close()
    assert stored_ids(tmp_path) == ["i1", "i2"]
    assert sum(path.read_bytes().count(b"\n") for path in (tmp_path / "logs").rglob("*.jsonl")) == 4


@pytest.mark.parametrize(("status", "kept"), [(400, "refused"), (413, "refused"), (401, "."), (404, "."), (503, ".")])
def test_what_is_refused_for_good_is_put_aside_and_the_rest_tried_again(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture, status: int, kept: str
) -> None:
    async def refuse(_: Request) -> Response:
        return Response("private", status_code=status)

    box = outbox(tmp_path, serve(Starlette(routes=[Route("/v1/interactions", refuse, methods=["POST"])])))
    box.store([line(1)])
    box.close()
    assert [path.read_bytes() for path in (tmp_path / kept).glob("*.interactions")] == [line(1).content + b"\n"]
    assert any(str(status) in text for text in caplog.messages)
    assert "private" not in caplog.text


def test_two_trackers_that_begin_at_once_share_no_batch(tmp_path: Path) -> None:
    boxes = [outbox(tmp_path, NOWHERE) for _ in range(2)]
    for number, box in enumerate(boxes):
        box.store([line(number)])
        box.renew()  # as a fork does within the same moment
        box.store([line(number)])
    assert waiting(tmp_path) == [".interactions"] * 4
    for box in boxes:
        box.close()


def test_batches_are_small_enough_to_be_sent(tmp_path: Path) -> None:
    box = outbox(tmp_path, NOWHERE)
    lines = [line(number, size=10**6) for number in range(10)] + [line(11, "feedback")]
    assert box.store(lines) == ([], None)
    files = sorted(path for path in tmp_path.iterdir() if path.suffix in {".interactions", ".feedback"})
    assert [path.suffix for path in files].count(".feedback") == 1
    assert len(files) == 4
    assert max(path.stat().st_size for path in files) <= MAX_POST_BYTES
    box.close()


def test_the_functions_of_the_module_write_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    settings.cache_clear()
    monkeypatch.setattr(tracking, "_tracker", None)
    name = tracking.track_interaction(application="faq", output_text="yes")
    tracking.track_feedback(name, application="faq", value=1)
    first = tracking.configure(application="faq")
    tracking.track_interaction(output_text="again")
    assert first.close()
    found = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.jsonl")}
    assert found == {("interactions", "faq")}
    assert sum(path.read_bytes().count(b"\n") for path in tmp_path.rglob("*.jsonl")) == 3
    monkeypatch.setenv("DELIVERY_RECEIVER_URL", NOWHERE)
    away = tracking.configure(application="faq")
    away.track_interaction()
    away.close()
    assert waiting(tmp_path / "outbox") == [".interactions"]
    settings.cache_clear()


ROOT = Path(__file__).parents[2]


def test_the_snippets_of_the_documents_run(tmp_path: Path, serve: Serve) -> None:
    text = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 4
    url = serve(receiver(tmp_path / "interactions"))
    environment = {**os.environ, "DELIVERY_STATE_DIR": str(tmp_path), "DELIVERY_RECEIVER_TOKEN": TOKEN}
    code = "\n".join(snippets).replace("http://127.0.0.1:4318", url)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[:1] == ["slow answer: latency 4200 ms > limit 2000 ms (n=1)"]
    assert done.returncode == 0, done.stderr
    counted = ingest_folder(Lake(tmp_path / "lake"), tmp_path / "interactions", NOW)
    assert (counted.stored, counted.rejected) == (counted.read, 0)
    assert counted.read == 7


def test_an_outbox_has_an_end_and_takes_calls_again_once_the_receiver_has_some(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tracking.outbox._MEASURE_S", 0.0)
    logs = tmp_path / "logs"
    box = Outbox(tmp_path / "out", NOWHERE, TOKEN, lambda: NOW, max_bytes=5000)
    assert box.store([line(1, size=6000)]) == ([], None)
    left, problem = box.store([line(2), line(3)])
    assert [one.content for one in left] == [line(2).content, line(3).content]
    assert problem is not None
    assert problem.strerror == f"5000 bytes wait for the receiver {NOWHERE}"
    box.close()
    again = Outbox(tmp_path / "out", serve(receiver(logs)), TOKEN, lambda: NOW, max_bytes=5000)
    assert again.store([line(2)])[0]
    assert again.send()
    assert again.store([line(2)]) == ([], None)
    assert again.close()
    assert sorted(stored_ids(tmp_path)) == ["i1", "i2"]


def test_a_tracker_whose_outbox_is_full_counts_what_it_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.tracking.outbox._MEASURE_S", 0.0)
    monkeypatch.setattr("tasks.tracking.outbox.Outbox.__init__.__defaults__", (10,))
    tracked = Tracker(tmp_path / "out", url=NOWHERE, token=TOKEN, application="faq", max_pending=1)
    tracked.track_interaction()
    assert tracked.flush()
    tracked.track_interaction()
    assert not tracked.flush()
    tracked.track_interaction()
    assert tracked.lost == 1
    assert not tracked.close()
    assert any("bytes wait for the receiver" in text for text in caplog.messages)
