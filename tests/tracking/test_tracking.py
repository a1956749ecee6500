from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.interactions.ingest import ingest_folder
from tasks.interactions.schema import Interaction, parse_line
from tasks.monitors.verdict import Check
from tasks.stores.lake import Lake
from tasks.tracking import Monitors, Tracker
from tasks.tracking.buffer import Buffer
from tasks.tracking.records import Kept, interaction_of, new_id
from tasks.tracking.spool import Line

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
DAY = (datetime(2024, 3, 5, tzinfo=UTC), datetime(2024, 3, 6, tzinfo=UTC))


def logged(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of all files under a folder."""
    files = sorted(folder.rglob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def tracker(folder: Path, **options: Any) -> Tracker:
    """Return a tracker whose thread does nothing before it is told to."""
    values: dict[str, Any] = {"application": "faq", "flush_interval_s": 60, "clock": lambda: NOW}
    return Tracker(folder, **(values | options))


def test_a_call_is_one_line_with_what_is_missing_filled_in(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:
        name = tracked.track_interaction(
            input_text="Where?", output_text="Here.", latency_ms=1500, user="ann", session=7, tags={"b": 2, "a": "x"}
        )
    assert logged(tmp_path) == [
        {
            "interaction_id": name,
            "application": "faq",
            "time": "2024-03-05T11:59:58.500000Z",
            "unit": "ann",
            "unit_kind": "user",
            "input_text": "Where?",
            "output_text": "Here.",
            "latency_ms": 1500.0,
            "status": 200,
            "session_id": "7",
            "user_hash": sha256(b"ann").hexdigest(),
            "tags": ["a=x", "b=2"],
        }
    ]
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.relative_to(tmp_path).parts[:2] == ("faq", "2024-03-05")
    assert path.stat().st_mode & 0o777 == 0o600


def test_ids_are_new_and_sort_by_time() -> None:
    ids = [new_id(NOW + timedelta(milliseconds=number)) for number in range(50)]
    assert ids == sorted(set(ids))
    assert {(len(name), name[12], name[16] in "89ab") for name in ids} == {(32, "7", True)}


def test_a_bad_call_breaks_nobody_and_is_set_aside_by_ingestion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake, logs = Lake(tmp_path / "lake"), tmp_path / "logs"
    with tracker(logs) as tracked, caplog.at_level(logging.WARNING):
        good = tracked.track_interaction(output_text="yes")
        for latency in ("a secret", "another secret"):
            tracked.track_interaction(latency_ms=latency)
        tracked.track_interaction(outptu_text="what the user wrote")
        tracked.track_interaction(input_tokens=Decimal(3), output_text="\ud800")
        tracked.track_interaction(tags=5)
        tracked.track_feedback(good, value=float("nan"))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5
    (feedback,) = logs.rglob("*.feedback.jsonl")
    assert json.loads(feedback.read_text())["rejected_because"] == "value: Input should be a finite number"
    assert said[0].startswith(
        "a line is not accepted and will be set aside: latency_ms: Input should be a valid number"
    )
    assert not [text for text in said if "secret" in text or "wrote" in text or "outptu" in text]
    counted = ingest_folder(lake, logs, NOW)
    assert (counted.read, counted.stored, counted.duplicates, counted.rejected) == (7, 1, 0, 6)
    reasons = [json.loads(line)["rejected_because"] for line in lake.rejected()["line"].to_pylist()]
    assert "call: holds a field that is no column of the log" in reasons


def test_a_strict_tracker_raises_and_says_what_is_wrong(tmp_path: Path) -> None:
    with tracker(tmp_path, strict=True) as tracked:
        with pytest.raises(InputError, match=r"^track_interaction: status: Input should be less than or equal to 599$"):
            tracked.track_interaction(status=1000)
        with pytest.raises(InputError, match=r"not among the columns: outptu_text; see docs/interactions\.md$"):
            tracked.track_interaction(outptu_text="x")
        with pytest.raises(InputError, match=r"^track_feedback: value: "):
            tracked.track_feedback("i", value="good")  # type: ignore[arg-type]  # the mistake under test
    assert logged(tmp_path) == []
    with pytest.raises(InputError, match="flush_interval_s: 0 is not allowed"):
        Tracker(tmp_path, flush_interval_s=0)
    with pytest.raises(InputError, match="content: 'some' is not allowed; allowed: off, hash, full"):
        Tracker(tmp_path, content="some")  # type: ignore[arg-type]  # the mistake under test


def test_feedback_joins_its_call(tmp_path: Path) -> None:
    lake, logs = Lake(tmp_path / "lake"), tmp_path / "logs"
    with tracker(logs) as tracked:
        name = tracked.track_interaction(output_text="yes")
        said = tracked.track_feedback(name, value=True, kind="thumbs", comment="fine", source="user")
    assert len(list(logs.rglob("*.feedback.jsonl"))) == 1
    counted = ingest_folder(lake, logs, NOW)
    assert (counted.read, counted.stored, counted.rejected) == (2, 2, 0)
    (row,) = lake.feedback(*DAY, "faq").to_pylist()
    assert (row["feedback_id"], row["interaction_id"], row["value"], row["kind"]) == (said, name, 1.0, "thumbs")
    assert (row["comment"], row["source"], row["time_utc"]) == ("fine", "user", NOW)


@pytest.mark.parametrize(
    ("content", "kept"),
    [("full", ("mail [x]", None)), ("hash", (None, sha256(b"mail [x]").hexdigest())), ("off", (None, None))],
)
def test_texts_are_kept_as_the_policy_says(tmp_path: Path, content: Any, kept: tuple[str | None, str | None]) -> None:
    with tracker(tmp_path, content=content, redact=lambda text: text.replace("a@b.c", "[x]")) as tracked:
        tracked.track_interaction(input_text="mail a@b.c", context_text="a@b.c", output_text="mail a@b.c")
        tracked.track_feedback("i", comment="mail a@b.c")
        tracked.track_interaction(output_text="mail a@b.c", latency_ms="a@b.c", extra="a@b.c")
    assert "a@b.c" not in "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    call = next(line for line in logged(tmp_path) if "latency_ms" not in line and "status" in line)
    assert (call.get("output_text"), call.get("output_sha256")) == kept
    assert (call.get("input_text"), call.get("input_sha256")) == kept
    feedback = next(line for line in logged(tmp_path) if "feedback_id" in line)
    assert (feedback.get("comment"), feedback.get("comment_sha256")) == kept


def test_a_redactor_that_fails_lets_no_text_through(tmp_path: Path) -> None:
    with tracker(tmp_path, redact=lambda text: text[1000]) as tracked:
        tracked.track_interaction(output_text="private", user="ann", input_tokens=3, tags={"a": "private"})
    (call,) = logged(tmp_path)
    assert (call["input_tokens"], call["unit"]) == (3, sha256(b"ann").hexdigest())
    assert not {"output_text", "tags"} & call.keys()


def test_a_text_too_long_for_a_line_costs_only_the_text(tmp_path: Path) -> None:
    text = "x" * 5 * 2**20
    with tracker(tmp_path) as tracked:
        tracked.track_interaction(output_text=text, output_tokens=9)
    (call,) = logged(tmp_path)
    assert (call["output_tokens"], call["output_sha256"]) == (9, sha256(text.encode()).hexdigest())
    assert "output_text" not in call


def test_monitors_tell_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []
    limits = Monitors(max_latency_ms=1000, max_cost_usd=0.01, input_usd_per_mtok=5, output_usd_per_mtok=15)
    options = {"monitors": limits, "on_breach": lambda call, check: told.append((call.interaction_id, check.statement))}
    with tracker(tmp_path, **options) as tracked:
        tracked.track_interaction(interaction_id="fine", latency_ms=1000, input_tokens=500, output_tokens=500)
        tracked.track_interaction(interaction_id="slow", latency_ms=1340)
        tracked.track_interaction(interaction_id="dear", input_tokens=1000, output_tokens=1000)
        tracked.track_interaction(interaction_id="unknown", input_tokens=10**9)
        tracked.track_interaction(interaction_id="callers", status=400)
        tracked.track_interaction(interaction_id="broken", error_type="RateLimit")
        assert told == [
            ("slow", "latency 1340 ms > limit 1000 ms (n=1)"),
            ("dear", "cost 0.020000 USD > limit 0.010000 USD (n=1)"),
            ("broken", "status 500 RateLimit >= limit 400 (n=1)"),
        ]
    with tracker(tmp_path, monitors=limits) as tracked:
        tracked.track_interaction(interaction_id="slow", latency_ms=2000, output_text="private")
    assert caplog.messages == ["interaction slow: latency 2000 ms > limit 1000 ms (n=1)"]

    def fail(_: Interaction, __: Check) -> None:
        raise KeyError("private")

    with tracker(tmp_path, monitors=limits, on_breach=fail) as tracked:
        assert tracked.track_interaction(interaction_id="still", latency_ms=2000) == "still"
    assert caplog.messages[1:] == ["on_breach failed: KeyError (said once)"]
    with pytest.raises(InputError, match="max_cost_usd: -1 is not allowed"):
        Monitors(max_cost_usd=-1)


def test_a_block_measures_and_passes_its_error_on(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:
        with tracked.interaction(model="m", user="ann") as call:
            call.question, call.answer = "Where?", "Here."
            call.note(input_tokens=4)
        with pytest.raises(ValueError, match="private"), tracked.interaction():
            raise ValueError("private")
        with pytest.raises(asyncio.CancelledError), tracked.interaction():
            raise asyncio.CancelledError
    answered, failed, left = logged(tmp_path)
    assert (answered["interaction_id"], answered["input_tokens"], answered["status"]) == (call.interaction_id, 4, 200)
    assert (answered["input_text"], answered["output_text"], answered["time"]) == (
        "Where?",
        "Here.",
        "2024-03-05T12:00:00Z",
    )
    assert answered["latency_ms"] >= 0
    assert (failed["status"], failed["error_type"]) == (500, "ValueError")
    assert (left["status"], left["error_type"]) == (499, "ClientDisconnect")
    assert "private" not in json.dumps(failed)


def test_a_decorated_function_is_tracked_by_its_runs(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:

        @tracked.interaction(model="m")
        def answer(question: str) -> str:
            return question.upper()

        @tracked.interaction(model="n")
        async def answer_later(question: str) -> str:
            await asyncio.sleep(0)
            return question.upper()

        async def ask_many() -> list[str]:
            return await asyncio.gather(*(answer_later(f"q{number}") for number in range(20)))

        assert answer("x") == "X"
        assert asyncio.run(ask_many())[3] == "Q3"
    lines = logged(tmp_path)
    assert len({line["interaction_id"] for line in lines}) == 21
    assert sorted(line["output_text"] for line in lines) == sorted(["X", *(f"Q{number}" for number in range(20))])


def test_a_generator_is_not_decorated(tmp_path: Path) -> None:
    def stream() -> Any:
        yield "a"

    with tracker(tmp_path) as tracked, pytest.raises(InputError, match="stream: a generator cannot be decorated"):
        tracked.interaction()(stream)


class Rude:
    """An object that raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError("private")

    def __iter__(self) -> Any:
        raise RuntimeError("private")


def test_no_object_of_the_application_breaks_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracker(tmp_path) as tracked:
        tracked.track_interaction(user=Rude())
        tracked.track_interaction(tags=Rude(), output_text=Rude(), latency_ms=Rude())
        tracked.track_feedback("i", comment=Rude())  # type: ignore[arg-type]  # the mistake under test
    assert [line.get("output_text", line.get("comment")) for line in logged(tmp_path)].count("<Rude>") == 2
    assert "private" not in caplog.text


def test_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    with tracker(tmp_path, flush_interval_s=0.001) as tracked:

        def track(first: int) -> None:
            for number in range(first, first + 500):
                tracked.track_interaction(interaction_id=f"i{number}")

        threads = [threading.Thread(target=track, args=(1000 * number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ids = [line["interaction_id"] for line in logged(tmp_path)]
    assert len(ids) == len(set(ids)) == 4000
    assert tracked.lost == 0


class Stuck:
    """A disk that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.is_free = False

    def store(self, lines: Any) -> tuple[list[Line], OSError | None]:
        if not self.is_free:
            return list(lines), OSError(28, "No space left on device")
        self.lines += lines
        return [], None

    def end_half_lines(self) -> int:
        return 0

    def renew(self) -> None: ...

    def close(self) -> bool:
        return True


def test_what_the_disk_refuses_is_kept_to_the_bound_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    disk = Stuck()
    buffer = Buffer(disk, Kept(), flush_interval_s=0.001, max_pending=50)
    for number in range(60):
        buffer.put(interaction_of({"interaction_id": f"i{number}", "application": "a"}, NOW))
    assert not buffer.flush()
    assert buffer.lost == 10
    disk.is_free = True
    assert buffer.close()
    assert [json.loads(line.content)["interaction_id"] for line in disk.lines] == [f"i{number}" for number in range(50)]
    assert sorted(caplog.messages) == [
        "10 calls were lost",
        "calls are lost: the log cannot be written as fast as calls come (said once)",
        "the log cannot be written and is tried again: No space left on device (said once)",
    ]


def test_a_call_does_not_wait_for_the_disk(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """How long it takes is kept with the report, not judged: it is the machine's as much as the code's."""
    taken = []
    with tracker(tmp_path) as tracked:
        for _ in range(2000):
            began = time.thread_time_ns()
            tracked.track_interaction(input_text="q" * 200, output_text="a" * 800, input_tokens=100, latency_ms=500)
            taken.append(time.thread_time_ns() - began)
        assert logged(tmp_path) == []
    assert len(logged(tmp_path)) == 2000
    record_property("p99_us", sorted(taken)[1980] / 1000)


def test_every_line_is_one_of_the_log(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:
        tracked.track_interaction(other_usage={"searches": 2}, reported_cost_pusd=5, tags=["b=1", "a=1"])
    (path,) = tmp_path.rglob("*.jsonl")
    read = parse_line(path.read_bytes())
    assert isinstance(read, Interaction)
    assert (read.tags, read.other_usage, read.reported_cost_pusd) == (("a=1", "b=1"), {"searches": 2}, 5)
