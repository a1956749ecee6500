"""Processes that are killed anywhere, and several at once, store every line once; the counts of all add up."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tasks.interactions.counts import Ingested
from tasks.interactions.gate import GatePolicy
from tasks.interactions.ingest import Job, ingest_folder
from tasks.stores.lake import Lake

NOW = datetime(2024, 3, 5, tzinfo=UTC)
START = datetime(2024, 3, 1, tzinfo=UTC)
CHILD = """
import os, sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tasks.interactions import ingest, reading
from tasks.stores import lake, lake_files, lake_rows, lake_side, lake_ids, lake_table

def run(root, logs, size, at):
    os.setsid()
    left = [at]
    def killing(real):
        def step(*values, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), 9)
            done = real(*values, **named)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), 9)
            return done
        return step
    for module, name in ((lake_side, "append_rejected"), (lake_side, "append_feedback"), (lake_rows, "fresh"),
                         (lake_rows, "append_files"), (lake_files, "write_file"), (lake_files, "commit_files"),
                         (lake_side, "write_deltalake"), (lake_ids, "_write"), (lake_ids, "_merge"),
                         (lake_table, "open_table"), (ingest, "rejected_table")):
        setattr(module, name, killing(getattr(module, name)))
    ingest.read_batches = partial(reading.read_batches, batch_lines=size)
    ingest.ingest_folder(lake.Lake(Path(root)), Path(logs), datetime(2024, 3, 5, tzinfo=UTC))

# One process imports; each run is a copy of it that is killed on its own.
root, logs, *runs = sys.argv[1:]
for pair in runs:
    size, at = map(int, pair.split(":"))
    child = os.fork()
    if child == 0:
        try:
            run(root, logs, size, at)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    print(int(os.WIFSIGNALED(status)), flush=True)
"""
WRITER = """
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tasks.interactions import ingest, reading
from tasks.stores.lake import Lake
ingest.read_batches = partial(reading.read_batches, batch_lines=int(sys.argv[3]))
lake = Lake(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
counted = ingest.ingest_folder(lake, Path(sys.argv[2]), datetime(2024, 3, 5, tzinfo=UTC))
print(counted.read, counted.stored, counted.duplicates, counted.rejected, flush=True)
"""


def lines(first: int, count: int) -> list[str]:
    """Return lines over ten days, of which some are broken, feedback, or an earlier call on a later day."""
    made = []
    for number in range(first, first + count):
        time = START + timedelta(seconds=600 * number)
        call = {"interaction_id": f"i{number}", "application": "a", "time": time.isoformat(), "status": 200}
        if number % 17 == 0:
            made.append(f"broken {number}")
        elif number % 13 == 0:
            made.append(json.dumps(call | {"interaction_id": f"i{number - 1}"}))
        elif number % 11 == 0:
            word = {"feedback_id": f"f{number}", "interaction_id": f"i{number - 1}", "application": "a", "value": 1.0}
            made.append(json.dumps(word | {"time": time.isoformat()}))
        else:
            made.append(json.dumps(call))
    return made


def write_log(path: Path, content: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(f"{line}\n" for line in content))


def raw_rows(lake: Lake, name: str) -> int:
    return int(DeltaTable(lake.root / name).to_pyarrow_table().num_rows)


def assert_each_once(lake: Lake, content: Sequence[str], files: int) -> None:
    calls = {json.loads(line)["interaction_id"] for line in content if line[0] == "{" and "feedback_id" not in line}
    words = {json.loads(line)["feedback_id"] for line in content if "feedback_id" in line}
    found = lake.window("a", START, START + timedelta(days=300), ["interaction_id"])["interaction_id"].to_pylist()
    assert sorted(found) == sorted(calls)
    assert raw_rows(lake, "interactions") == len(calls)
    assert raw_rows(lake, "feedback") == len(words)
    broken = [line.encode() for line in content if line[0] == "b"]
    assert sorted(lake.rejected()["line"].to_pylist()) == sorted(broken * files)
    assert raw_rows(lake, "rejected") == len(broken) * files


def kill_and_go_on(folder: Path, kills: int, calls: int) -> None:
    """Kill copies at chosen points, then take the rest in; everything must be there once."""
    lake, content, half = Lake(folder / "lake"), lines(1, calls), calls // 2
    write_log(folder / "logs" / "a.jsonl", content[: half + 50])
    write_log(folder / "logs" / "b.jsonl", content[half - 50 :])
    draw = random.Random(20240305)
    points = [at % 21 + 1 for at in range(kills)]  # every point of a batch
    draw.shuffle(points)
    runs = [f"{draw.choice((40, 70, 110))}:{at}" for at in points]
    command = [sys.executable, "-c", CHILD, str(lake.root), str(folder / "logs"), *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split().count("1") >= kills * 3 // 4, done.stderr[-2000:]
    last = ingest_folder(lake, folder / "logs", NOW)
    assert last.read == last.stored + last.duplicates + last.rejected
    twice = [line for line in content[half - 50 : half + 50] if line[0] == "b"]
    broken = [line for line in content if line[0] == "b"]
    assert lake.rejected().num_rows == raw_rows(lake, "rejected") == len(broken) + len(twice)
    ids = {json.loads(line)["interaction_id"] for line in content if line[0] == "{" and "feedback_id" not in line}
    found = lake.window("a", START, START + timedelta(days=300), ["interaction_id"])["interaction_id"].to_pylist()
    assert sorted(found) == sorted(ids)
    assert raw_rows(lake, "interactions") == len(ids)
    assert raw_rows(lake, "feedback") == sum("feedback_id" in line for line in content)
    assert ingest_folder(lake, folder / "logs", NOW).read == 0


def test_a_kill_at_every_kind_of_point_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, kills=21, calls=300)


@pytest.mark.crash
def test_a_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, kills=105, calls=3000)


def test_three_writers_of_overlapping_files_store_each_line_once(tmp_path: Path) -> None:
    lake, content = Lake(tmp_path / "lake"), lines(1, 400)
    write_log(tmp_path / "logs" / "a.jsonl", content)
    write_log(tmp_path / "logs" / "b.jsonl", content)
    children = []
    for size in (90, 120, 150):
        arguments = [sys.executable, "-c", WRITER, str(lake.root), str(tmp_path / "logs"), str(size)]
        children.append(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    counts = [[int(value) for value in child.communicate(timeout=120)[0].split()] for child in children]
    for read, stored, duplicates, rejected in counts:
        assert read == stored + duplicates + rejected
    read, stored, _, rejected = (sum(values) for values in zip(*counts, strict=True))
    broken = sum(line[0] == "b" for line in content)
    words = sum("feedback_id" in line for line in content)
    calls = len({json.loads(x)["interaction_id"] for x in content if x[0] == "{" and "feedback_id" not in x})
    assert (read, rejected) == (2 * 400, 2 * broken)
    # Whose feedback was stored by a writer that then came second is a duplicate to the one that came first.
    assert calls <= stored <= calls + words
    assert_each_once(lake, content, files=2)


def test_counts_of_set_aside_batches_add_up_over_runs(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    bad = [json.dumps({"interaction_id": f"x{n}", "application": "a", "time": "2031-01-01T00:00:00Z", "status": 200})
           for n in range(80)]  # fmt: skip
    write_log(tmp_path / "logs" / "a.jsonl", bad)
    job = Job(gate=GatePolicy(), pages=tmp_path / "data-docs")
    seen: list[Ingested] = []
    for extra in ([], lines(1, 200)):
        write_log(tmp_path / "logs" / "a.jsonl", [*bad, *extra])
        seen.append(ingest_folder(lake, tmp_path / "logs", NOW, job=job))
    assert (seen[0].read, seen[0].stored, seen[0].rejected, seen[0].set_aside) == (80, 0, 80, 80)
    assert all(one.read == one.stored + one.duplicates + one.rejected for one in seen)
    assert seen[1].read == 200
    (batch,) = lake.set_aside()
    assert batch.reasons == ("ahead_share 1 > limit 0.01",)
    assert (tmp_path / "data-docs" / f"{batch.report}").is_file()
    assert lake.release_set_aside(batch.aside_id).stored == 80


@pytest.mark.parametrize("grown", [0, 1, 2])
def test_a_file_that_grows_between_runs_is_read_on(tmp_path: Path, grown: int) -> None:
    lake, content = Lake(tmp_path / "lake"), lines(1, 60)
    write_log(tmp_path / "logs" / "a.jsonl", content[:20])
    with (tmp_path / "logs" / "a.jsonl").open("a") as handle:
        handle.write(content[20][: 5 * grown])
    assert ingest_folder(lake, tmp_path / "logs", NOW).read == 20
    write_log(tmp_path / "logs" / "a.jsonl", content)
    assert ingest_folder(lake, tmp_path / "logs", NOW).read == 40
    assert_each_once(lake, content, files=1)
