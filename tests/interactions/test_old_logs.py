"""Log files are deleted once their day is over and every byte of them is in the lake, and no other."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

from tasks.interactions.counts import Cared
from tasks.interactions.ingest import ingest_folder
from tasks.interactions.old_logs import drop_logs
from tasks.stores.lake import Lake

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def line(name: str) -> str:
    call = {"interaction_id": name, "application": "faq", "time": "2026-03-08T10:00:00Z", "status": 200}
    return json.dumps(call) + "\n"


def test_what_is_closed_and_stored_goes_and_all_else_stays(tmp_path: Path) -> None:
    lake, logs = Lake(tmp_path / "lake"), tmp_path / "logs"
    old, today, own = logs / "faq" / "2026-03-08", logs / "faq" / "2026-03-10", logs / "faq" / "import"
    for folder in (old, today, own):
        folder.mkdir(parents=True)
    (old / "a.jsonl").write_text(line("a") + line("b"))
    (old / "packed.jsonl.gz").write_bytes(gzip.compress(line("c").encode()))
    (old / "cut.jsonl").write_text(line("d") + '{"interaction_id": "half')
    (old / "note.txt").write_text("not a log")
    (today / "e.jsonl").write_text(line("e"))
    (own / "f.jsonl").write_text(line("f"))
    ingest_folder(lake, logs, NOW)
    (old / "late.jsonl").write_text(line("g"))
    size = (old / "a.jsonl").stat().st_size + (old / "packed.jsonl.gz").stat().st_size
    before = sorted(path for path in logs.rglob("*") if path.is_file())

    would = drop_logs(lake, logs, date(2026, 3, 10), dry_run=True)
    assert would == Cared(table="log files", files_before=4, files_after=2, rows=size)
    assert sorted(path for path in logs.rglob("*") if path.is_file()) == before
    assert drop_logs(lake, logs, date(2026, 3, 8), dry_run=False).files_before == 0
    assert drop_logs(lake, logs, date(2026, 3, 10), dry_run=False) == would
    left = {path.relative_to(logs / "faq").as_posix() for path in logs.rglob("*") if path.is_file()}
    assert left == {
        "2026-03-08/cut.jsonl",
        "2026-03-08/late.jsonl",
        "2026-03-08/note.txt",
        "2026-03-10/e.jsonl",
        "import/f.jsonl",
    }
    assert ingest_folder(lake, logs, NOW).stored == 1  # the late one; nothing is read twice


def test_an_empty_day_goes_and_a_missing_folder_has_nothing(tmp_path: Path) -> None:
    lake, day = Lake(tmp_path / "lake"), tmp_path / "logs" / "faq" / "2026-03-08"
    assert drop_logs(lake, tmp_path / "logs", date(2026, 3, 10), dry_run=False) == Cared(table="log files")
    day.mkdir(parents=True)
    (day / "a.jsonl").write_text(line("a"))
    ingest_folder(lake, tmp_path / "logs", NOW)
    drop_logs(lake, tmp_path / "logs", date(2026, 3, 10), dry_run=False)
    assert not day.exists()
