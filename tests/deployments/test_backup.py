"""A backup of a state that is written to meanwhile, put back: the same verdicts, plans and rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from deployments.commands.backup import MANIFEST, make_backup, restore_backup, verify_backup
from tasks.errors import DeliveryError, InputError
from tasks.interactions.columns import SCHEMA
from tasks.interactions.schema import REJECTED_SCHEMA
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.ledger.migrations import HEAD
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST = "ab" * 32


def rows_of(number: int) -> pa.Table:
    values: dict[str, list[Any]] = {name: [None] for name in SCHEMA.names}
    values |= {"interaction_id": [f"call-{number}"], "application": ["faq"], "release_digest": [DIGEST]}
    values |= {"time_utc": [NOW + timedelta(seconds=number)], "date_utc": [date(2026, 3, 1)], "status": [200]}
    return pa.table({name: pa.array(values[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)


def append(lake: Lake, number: int) -> None:
    done = lake.append(
        "faq/log.jsonl",
        expected=number,
        offset=number + 1,
        interactions=rows_of(number),
        rejected=REJECTED_SCHEMA.empty_table(),
    )
    assert done is not None


def plan_of(revision: int) -> Plan:
    return Plan(
        application="faq",
        revision=revision,
        salt="s",
        buckets=(DIGEST,) * BUCKETS,
        author="me",
        flow_run_id=None,
        reason=f"revision {revision}",
        time=NOW,
    )


@pytest.fixture
def where(tmp_path: Path) -> Settings:
    """Return the settings of a state with something of everything in it."""
    where = Settings(state_dir=tmp_path / "state", ledger_url=None)
    where.state_dir.mkdir()
    ledger, lake = Ledger(where.ledger), Lake(where.lake_dir)
    lease = ledger.acquire("faq", "me", NOW)
    for revision in (1, 2):
        ledger.write_plan(plan_of(revision), lease)
    check = Check(
        monitor="latency", outcome=Outcome.FAIL, statement="p95 2 ms > limit 1 ms (n=9)", value=2, limit=1, n=9
    )
    ledger.record_verdict(
        Verdict(
            application="faq", release_digest=DIGEST, window_start=NOW, window_end=NOW + timedelta(1), checks=(check,)
        ),
        kind="evaluation",
        recorded=NOW,
    )
    for number in range(3):
        append(lake, number)
    lake.replace("rollups", {}, pa.table({"application": ["faq"], "cost_pusd": [7]}))
    for name, text in {
        "interactions/faq/log.jsonl": '{"a": 1}\n{"half',
        "mlflow-artifacts/1/model.txt": "weights",
        "servers/abababababab.json": "{}",
        "outbox/one.jsonl": "{}\n",
        "budgets.yaml": "budgets: []\n",
        "stack.json": "{}",
        "logs/prefect.log": "noise",
        "haproxy/buckets-faq.map": "0 abababababab:2\n",
    }.items():
        (where.state_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (where.state_dir / name).write_text(text, encoding="utf-8")
    with sqlite3.connect(where.state_dir / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.execute("INSERT INTO runs VALUES ('night')")
    database.close()
    ledger.close()
    return where


def seen(where: Settings) -> tuple[Any, ...]:
    ledger, lake = Ledger(where.ledger), Lake(where.lake_dir)
    rows = lake.window("faq", NOW, NOW + timedelta(days=1), ["interaction_id", "time_utc", "status"]).to_pylist()
    found = ledger.plans("faq"), ledger.verdicts("faq"), rows, lake.offset("faq/log.jsonl"), lake.read("rollups")
    ledger.close()
    return found


@pytest.mark.sqlite_file("a ledger on a server is not in the backup")
def test_what_comes_back_is_what_was_there(where: Settings, tmp_path: Path) -> None:
    made = make_backup(where, tmp_path / "backup", NOW)
    assert (made.ledger, made.lake) == (HEAD, {"interactions": 3, "rollups": 1})
    assert made.summary.startswith(
        f"{len(made.files)} files of 2026-03-01 12:00:00 UTC: ledger at level {HEAD}; lake: int"
    )
    back = where.model_copy(update={"state_dir": tmp_path / "back"})
    assert restore_backup(tmp_path / "backup", back.state_dir) == made
    assert seen(back) == seen(where)
    assert len(seen(back)[2]) == 3
    state = back.state_dir
    assert (state / "interactions/faq/log.jsonl").read_text(encoding="utf-8") == '{"a": 1}\n'  # the half line is not
    assert (state / "mlflow-artifacts/1/model.txt").read_text(encoding="utf-8") == "weights"
    assert {path.name for path in state.iterdir()} == {
        *("ledger.db", "mlflow.db", "mlflow-artifacts", "lake", "interactions", "servers", "outbox", "budgets.yaml")
    }
    with sqlite3.connect(state / "mlflow.db") as database:
        assert database.execute("SELECT name FROM runs").fetchall() == [("night",)]
    database.close()
    append(Lake(back.lake_dir), 3)  # and it goes on
    assert len(seen(back)[2]) == 4


@pytest.mark.sqlite_file("a ledger on a server is not in the backup")
def test_writers_go_on_and_the_copy_is_of_one_moment(where: Settings, tmp_path: Path) -> None:
    lake, ledger, stop = Lake(where.lake_dir), Ledger(where.ledger), threading.Event()
    written: list[int] = []

    def write() -> None:
        number = 3
        while not stop.is_set():
            append(lake, number)
            ledger.write_plan(plan_of(number), ledger.acquire("faq", "me", NOW))
            written.append(number)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while len(written) < 2 and thread.is_alive():
            stop.wait(0.01)
        for attempt in range(50):  # until somebody has written while it was made
            backup, before = tmp_path / f"backup-{attempt}", len(written)
            made = make_backup(where, backup)
            after = len(written)
            if after > before:
                break
    finally:
        stop.set()
        thread.join()
    assert after > before >= 2, "nobody wrote meanwhile"
    back = where.model_copy(update={"state_dir": tmp_path / "back"})
    restore_backup(backup, back.state_dir)
    plans, verdicts, rows, offset, _ = seen(back)
    assert [row["interaction_id"] for row in rows] == [f"call-{number}" for number in range(offset)]
    assert made.lake["interactions"] == offset  # a commit a row, after the one that made the table
    assert [plan.revision for plan in reversed(plans)] == list(range(1, len(plans) + 1))
    assert len(verdicts) == 1
    ledger.close()


def test_nothing_is_overwritten(where: Settings, tmp_path: Path) -> None:
    make_backup(where, tmp_path / "backup")
    with pytest.raises(InputError, match="is not empty, and nothing is overwritten"):
        make_backup(where, tmp_path / "backup")
    with pytest.raises(InputError, match="is not empty, and nothing is overwritten"):
        restore_backup(tmp_path / "backup", where.state_dir)
    (tmp_path / "empty").mkdir()
    restore_backup(tmp_path / "backup", tmp_path / "empty")
    with pytest.raises(InputError, match="there is no state in"):
        make_backup(where.model_copy(update={"state_dir": tmp_path / "none"}), tmp_path / "other")


@pytest.mark.sqlite_file("a ledger on a server is not in the backup")
def test_a_damaged_backup_is_not_restored(where: Settings, tmp_path: Path) -> None:
    good, bad, target = tmp_path / "backup", tmp_path / "bad", tmp_path / "target"
    make_backup(where, good)

    def damaged(act: Any, message: str) -> None:
        shutil.copytree(good, bad)
        act()
        with pytest.raises(DeliveryError, match=message):
            restore_backup(bad, target)
        assert not target.exists()
        assert not list(tmp_path.glob(".target*"))
        shutil.rmtree(bad)

    damaged(lambda: (bad / "mlflow-artifacts/1/model.txt").write_text("weightz"), "model.txt is not what was copied")
    damaged((bad / "ledger.db").unlink, "ledger.db is missing")
    damaged(lambda: (bad / "more.txt").write_text("x"), "more.txt does not belong to it")
    damaged((bad / MANIFEST).unlink, "is no backup: it has no manifest.json, which is written last")
    other = json.loads((good / MANIFEST).read_text(encoding="utf-8")) | {"format": 2}
    damaged(lambda: (bad / MANIFEST).write_text(json.dumps(other)), "manifest.json cannot be read")


def test_only_its_owner_can_read_it(where: Settings, tmp_path: Path) -> None:
    make_backup(where, tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "back")
    for folder in (tmp_path / "backup", tmp_path / "back"):
        assert {path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))} == {0}


def test_a_ledger_that_is_elsewhere_is_left_to_its_server(where: Settings, tmp_path: Path) -> None:
    elsewhere = where.model_copy(update={"ledger_url": "postgresql+psycopg://x@127.0.0.1:1/ledger"})
    made = make_backup(elsewhere, tmp_path / "backup")
    assert made.ledger is None
    assert "ledger.db" not in made.files
    assert "no ledger (it is not in this folder)" in verify_backup(tmp_path / "backup").summary
