from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tasks.errors import NotFoundError
from tasks.interactions import ingest
from tasks.interactions.counts import SourceCount
from tasks.interactions.ingest import find_logs, ingest_folder
from tasks.stores.lake import Lake

NOW = datetime(2024, 3, 5, tzinfo=UTC)
START = datetime(2024, 3, 1, tzinfo=UTC)
CHILD = """
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


def write_log(path: Path, first: int, count: int) -> None:
    """Write lines of which every 17th cannot be read."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("a") as handle:
        for number in range(first, first + count):
            time_of = START + timedelta(seconds=20 * number)
            call = {"interaction_id": f"i{number}", "application": "a", "time": time_of.isoformat(), "status": 200}
            handle.write(f"broken {number}\n" if number % 17 == 0 else json.dumps(call) + "\n")


def start_child(root: Path, logs: Path, batch_lines: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, str(root), str(logs), str(batch_lines)]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def release(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def assert_each_once(lake: Lake, logs: Path, count: int) -> None:
    broken = [number for number in range(count) if number % 17 == 0]
    found = lake.window("a", START, START + timedelta(days=30), ["interaction_id"])["interaction_id"].to_pylist()
    assert found == [f"i{number}" for number in range(count) if number % 17]
    assert DeltaTable(lake.root / "interactions").to_pyarrow_table(columns=["interaction_id"]).num_rows == len(found)
    rejected = lake.rejected()
    assert rejected["line"].to_pylist() == [f"broken {number}".encode() for number in broken]
    assert rejected["line_number"].to_pylist() == [number + 1 for number in broken]
    assert DeltaTable(lake.root / "rejected").to_pyarrow_table().num_rows == len(broken)
    assert ingest_folder(lake, logs, NOW).read == 0


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "lake", tmp_path / "logs"


def test_counts_add_up_by_source_and_in_total(places: tuple[Path, Path]) -> None:
    lake, logs = Lake(places[0]), places[1]
    write_log(logs / "a" / "one.jsonl", 0, 40)
    write_log(logs / "a" / "two.jsonl", 30, 20)
    write_log(logs / "a" / "ignored.log", 0, 5)
    first = ingest_folder(lake, logs, NOW)
    assert first.sources == (
        SourceCount(logs / "a" / "one.jsonl", read=40, stored=37, duplicates=0, rejected=3),
        SourceCount(logs / "a" / "two.jsonl", read=20, stored=10, duplicates=9, rejected=1),
    )
    assert (first.read, first.stored, first.duplicates, first.rejected) == (60, 47, 9, 4)
    again = ingest_folder(lake, logs / "a", NOW)
    assert (again.read, again.stored, len(again.sources)) == (0, 0, 2)


def test_a_growing_file_goes_on_where_it_was(places: tuple[Path, Path]) -> None:
    lake, logs = Lake(places[0]), places[1]
    seen: list[int] = []
    for first in range(0, 60, 20):
        write_log(logs / "a.jsonl", first, 20)
        assert ingest_folder(lake, logs, NOW, lambda path, done: seen.append(done)).read == 20  # noqa: ARG005
    assert seen[-1] == (logs / "a.jsonl").stat().st_size
    assert_each_once(lake, logs, 60)


def test_files_with_nothing_new_are_not_looked_into(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lake, logs = Lake(places[0]), places[1]
    for number in range(5):
        write_log(logs / f"{number}.jsonl", 100 * number, 20)
    (logs / "empty.jsonl").touch()
    ingest_folder(lake, logs, NOW)
    read, opened = [], []
    real_read, real_open = ingest.read_batches, Lake._open
    monkeypatch.setattr(
        ingest, "read_batches", lambda path, begin, **how: read.append(path) or real_read(path, begin, **how)
    )
    monkeypatch.setattr(Lake, "_open", lambda self, name: opened.append(name) or real_open(self, name))

    again = ingest_folder(lake, logs, NOW)
    assert (again.read, len(again.sources), read, opened) == (0, 6, [], ["interactions"])

    write_log(logs / "3.jsonl", 20, 1)
    assert (ingest_folder(lake, logs, NOW).read, read) == (1, [logs / "3.jsonl"])


def test_a_copy_a_moved_file_and_one_begun_anew_store_nothing_twice(places: tuple[Path, Path]) -> None:
    lake, logs = Lake(places[0]), places[1]
    write_log(logs / "a.jsonl", 1, 40)
    ingest_folder(lake, logs, NOW)
    (logs / "a.jsonl").rename(logs / "b.jsonl")
    assert ingest_folder(lake, logs, NOW).stored == 0
    (logs / "b.jsonl").write_text("")
    write_log(logs / "b.jsonl", 1, 10)
    with (logs / "b.jsonl").open("a") as handle:
        handle.write("broken new\n")
    again = ingest_folder(lake, logs, NOW)
    assert (again.read, again.stored, again.rejected) == (11, 0, 1)
    write_log(logs / "b.jsonl", 50, 1)
    assert ingest_folder(lake, logs, NOW).stored == 1


def test_a_missing_folder_holds_nothing_and_a_missing_path_is_named(places: tuple[Path, Path]) -> None:
    assert ingest_folder(Lake(places[0]), places[1], NOW).sources == ()
    with pytest.raises(NotFoundError, match="is neither a file nor a folder"):
        find_logs(places[1])


def test_kills_at_random_moments_lose_nothing_and_double_nothing(places: tuple[Path, Path]) -> None:
    root, logs = places
    write_log(logs / "a.jsonl", 0, 2000)
    draw, killed = random.Random(20240305), 0
    for _ in range(4):
        child = start_child(root, logs, batch_lines=60)
        release(child)
        time.sleep(draw.uniform(0.02, 0.4))
        killed += child.poll() is None
        child.kill()
        child.communicate()
    assert killed > 0
    ingest_folder(Lake(root), logs, NOW)
    assert_each_once(Lake(root), logs, 2000)


def test_two_writers_of_one_file_store_each_line_once(places: tuple[Path, Path]) -> None:
    root, logs = places
    write_log(logs / "a.jsonl", 0, 900)
    children = [start_child(root, logs, batch_lines=size) for size in (50, 70)]
    for child in children:
        release(child)
    counts = [[int(value) for value in child.communicate(timeout=60)[0].split()] for child in children]
    assert [sum(values) for values in zip(*counts, strict=True)] == [900, 847, 0, 53]
    assert_each_once(Lake(root), logs, 900)
