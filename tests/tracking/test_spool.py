"""What stands on the disk: whole lines, in files of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.interactions.ingest import ingest_folder
from tasks.stores.lake import Lake
from tasks.tracking import Tracker
from tasks.tracking.spool import Line, Spool, append_lines, end_half_line, folder_name

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)


def tracker(folder: Path, flush_interval_s: float = 60) -> Tracker:
    return Tracker(folder, application="faq", flush_interval_s=flush_interval_s, clock=lambda: NOW)


def test_files_end_with_their_size_and_with_the_day(tmp_path: Path) -> None:
    now = [NOW]
    spool = Spool(tmp_path, "tracked", lambda: now[0], rotate_bytes=100)
    for number in range(4):
        assert spool.store([Line("interactions", "a", b"x" * 60 + bytes([48 + number]))]) == ([], None)
    now[0] += timedelta(days=1)
    spool.store([Line("interactions", "a", b"y")])
    found = sorted(path.relative_to(tmp_path / "a") for path in tmp_path.rglob("*.jsonl"))
    assert [path.parts[0] for path in found] == ["2024-03-05", "2024-03-05", "2024-03-06"]
    assert [path.stem.rpartition("-")[2] for path in found][:2] == ["0", "1"]
    assert len({path.name.rpartition("-")[0] for path in found}) == 1


@pytest.mark.parametrize("name", ["..", ".", "../../etc", "a/b", "x" * 200, "é" * 200, "plain", "with space"])
def test_an_application_is_one_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    with tracker(tmp_path / "logs") as tracked:
        tracked.track_interaction(application=name)
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.parents[2] == tmp_path / "logs"
    assert json.loads(path.read_text())["application"] == name
    assert (folder_name(name) == name) == (name in {"plain", "with space"})


def test_half_a_line_of_a_killed_writer_spoils_no_other(tmp_path: Path) -> None:
    lake, logs = Lake(tmp_path / "lake"), tmp_path / "logs"
    half = logs / "faq" / "2024-03-05" / "tracked-host-1-x-0.jsonl"
    half.parent.mkdir(parents=True)
    whole = '{"interaction_id":"i1","application":"faq","time":"2024-03-05T00:00:00Z","status":200}\n'
    half.write_text(whole + '{"interaction_id":"i2","appl')
    foreign = half.with_name("0123-other.jsonl")
    foreign.write_text("half")
    with tracker(logs, flush_interval_s=0.001) as tracked:
        tracked.track_interaction()
    assert foreign.read_text() == "half"
    counted = ingest_folder(lake, logs, NOW)
    assert (counted.read, counted.stored, counted.rejected) == (3, 2, 1)
    assert not end_half_line(half)
    half.write_text("half")
    assert append_lines(half, [b"whole"]).stored == 1
    assert half.read_text() == "half\nwhole\n"


CROWDED = """
import logging, resource, sys
from pathlib import Path
from tasks.tracking.spool import append_lines
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
lines = [b"%03d" % number for number in range(10)]
first = append_lines(path, lines)
assert path.read_bytes() == b"".join(line + b"\\n" for line in lines[: first.stored]), path.read_bytes()
print(first.stored, first.problem.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
rest = append_lines(path, lines[first.stored :])
print(rest.stored, rest.problem)
"""


@pytest.mark.parametrize("limit", [1, 4, 17, 38])
def test_a_disk_that_takes_a_part_gets_whole_lines(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "x.jsonl"
    if limit == 17:
        path.write_bytes(b"")
    arguments = [sys.executable, "-c", CROWDED, str(path), str(limit)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == [f"{limit // 4} File too large", f"{10 - limit // 4} None"]
    assert path.read_bytes() == b"".join(b"%03d\n" % number for number in range(10))
