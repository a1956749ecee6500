"""Release servers of several machines write into one folder, and never into one file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from nodes_stage import NOW, A

from tasks.interactions.schema import parse_line
from tasks.serving.backends import Capture
from tasks.serving.log import Call, Caller, InteractionLog


def call(number: int) -> Call:
    caller = Caller.of({"x-request-id": f"id-{number}"})
    capture = Capture(pieces=["yes"])
    return Call(caller=caller, time=datetime.now(UTC), question="?", capture=capture, latency_ms=1.0, status=200)


def test_two_machines_with_the_same_number_and_moment_have_files_of_their_own(tmp_path: Path) -> None:
    logs = [InteractionLog(tmp_path, A, NOW, rotate_bytes=1) for _ in range(2)]
    for number in range(6):
        logs[number % 2].write(call(number))
    for log in logs:
        log.close()
    paths = sorted(tmp_path.rglob("*.jsonl"))
    assert len(paths) == 6
    found = [parse_line(line) for path in paths for line in path.read_bytes().splitlines()]
    assert sorted(line.interaction_id for line in found if not isinstance(line, str)) == [f"id-{n}" for n in range(6)]


def test_a_log_that_is_opened_again_goes_on_in_its_file(tmp_path: Path) -> None:
    log = InteractionLog(tmp_path, A, NOW)
    for number in range(2):
        log.write(call(number))
        log.close()
    (path,) = tmp_path.rglob("*.jsonl")
    assert len(path.read_bytes().splitlines()) == 2
