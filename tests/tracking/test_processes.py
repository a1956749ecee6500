"""What processes leave behind that end, are killed, or fork."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.interactions.ingest import ingest_folder
from tasks.stores.lake import Lake

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
HEAD = """
import atexit, multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from tasks.tracking import Tracker
options = {"flush_interval_s": float(sys.argv[2]), "durable": sys.argv[3] == "durable"}
tracker = Tracker(Path(sys.argv[1]), application="faq", **options)
def track(name, count):
    for number in range(count):
        tracker.track_interaction(interaction_id=f"{name}-{number}")
"""
ENDS = {
    "a call at exit": 'atexit.register(tracker.track_interaction, interaction_id="a-499"); track("a", 499)',
    "an exception": 'sys.stderr = open(os.devnull, "w"); track("a", 500); raise ValueError',
    "SIGTERM that ends the program": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); track('a', 500); os.kill(os.getpid(), signal.SIGTERM)"
    ),
}
FORKS = """
track("parent", 300)
start = multiprocessing.get_context("fork").Process
children = [start(target=track, args=(f"child{number}", 300)) for number in range(3)]
for child in children:
    child.start()
track("late", 300)
for child in children:
    child.join()
pid = os.fork()
if not pid:
    track("raw", 300)
    tracker.close()
    os._exit(0)
os.waitpid(pid, 0)
"""
KILLED = """
print("ready", flush=True)
number = 0
while True:
    tracker.track_interaction(interaction_id=f"i{number}", output_text="x" * 3000)
    number += 1
    if number % 10 == 0:
        print(number, flush=True)
"""


def run(folder: Path, code: str, interval_s: float = 60, mode: str = "") -> None:
    arguments = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        HEAD + code,
        str(folder),
        str(interval_s),
        mode,
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def ids(folder: Path) -> list[str]:
    lines = [line for path in folder.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    return [json.loads(line)["interaction_id"] for line in lines]


@pytest.mark.parametrize("ending", ENDS)
def test_a_clean_exit_loses_nothing(tmp_path: Path, ending: str) -> None:
    run(tmp_path, ENDS[ending])
    assert ids(tmp_path) == [f"a-{number}" for number in range(500)]


def test_forked_processes_write_files_of_their_own_and_lose_and_double_nothing(tmp_path: Path) -> None:
    run(tmp_path, FORKS)
    names = ["parent", "late", "child0", "child1", "child2", "raw"]
    assert sorted(ids(tmp_path)) == sorted(f"{name}-{number}" for name in names for number in range(300))
    assert len(list(tmp_path.rglob("*.jsonl"))) == 5


@pytest.mark.parametrize(("mode", "interval_s"), [("durable", 60.0), ("", 0.01)])
def test_a_kill_loses_at_most_the_last_interval(tmp_path: Path, mode: str, interval_s: float) -> None:
    logs = tmp_path / "logs"
    arguments = [sys.executable, "-c", HEAD + KILLED, str(logs), str(interval_s), mode]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = 0
    for line in child.stdout:
        told = 0 if line == "ready\n" else int(line)
        # The calls go on while the signal is on its way.
        if told >= 200 and any(path.stat().st_size for path in logs.rglob("*.jsonl")):
            child.send_signal(signal.SIGKILL)
            break
    child.stdout.close()
    child.wait()
    run(logs, 'tracker.track_interaction(interaction_id="after")', 0.01)
    counted = ingest_folder(Lake(tmp_path / "lake"), logs, NOW)
    assert counted.read == counted.stored + counted.rejected
    assert counted.rejected <= 1
    found = set(ids_of_whole_lines(logs)) - {"after"}
    # What is there has no gap: a kill takes from the end only.
    assert found == {f"i{number}" for number in range(len(found))}
    if mode == "durable":
        assert len(found) >= told


def ids_of_whole_lines(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*.jsonl"):
        assert path.read_bytes().endswith(b"\n")
        lines = path.read_bytes().splitlines()
        found += [json.loads(line)["interaction_id"] for line in lines if line.endswith(b"}")]
    return found
