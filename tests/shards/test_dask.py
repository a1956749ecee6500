"""Slices of a window and log files on a Dask cluster of real processes, against the same in one process."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from distributed import LocalCluster
from prefect import flow
from sample_release import release_of
from shard_stage import EACH, HOURS, log_questions, same_bytes

from flows.ingestion import ingestion
from tasks import settings as settings_module
from tasks.errors import UnreachableError
from tasks.evaluation import steps
from tasks.evaluation.shards import pack_scored, unpack_scored
from tasks.evaluation.window import Window
from tasks.interactions.columns import SCHEMA
from tasks.interactions.gate import GatePolicy
from tasks.release.model import Release
from tasks.scoring.steps import find_plan
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.traffic.servers import free_port

pytestmark = pytest.mark.usefixtures("prefect_server")
START = datetime(2026, 1, 2, tzinfo=UTC)
NO_GATE = GatePolicy(enabled=False)
MAPPING = """
columns:
  time: {column: time, unit: s}
  model: main_model
  input_tokens: prompt_tokens
  output_tokens: completion_tokens
  user: user
constants: {application: aider}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Point the flows at stores of their own, and at slices of two hours."""
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_SHARD_CALLS", "50")
    monkeypatch.setenv("DELIVERY_SHARD_BYTES", "1")
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Run two worker processes, and return the address of their scheduler."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as made:
        yield str(made.scheduler_address)


def on_dask(monkeypatch: pytest.MonkeyPatch, address: str = "") -> None:
    monkeypatch.setenv("DELIVERY_SHARDS", "dask")
    monkeypatch.setenv("DELIVERY_SHARDS_AT_ONCE", "2")
    monkeypatch.setenv("DELIVERY_DASK_ADDRESS", address)
    settings_module.settings.cache_clear()


@flow
def score(releases: tuple[Release, ...]) -> list[bytes]:
    """Do what the evaluation does with its slices."""
    config, end = settings_module.settings(), START + timedelta(hours=HOURS)
    window = Window(start=START, end=end)
    calls = {START + timedelta(hours=hour): EACH for hour in range(HOURS)}
    slices = window.shards(calls, config.shard_calls)
    interactions, plan = steps.load_interactions.fn(config, "faq", window), find_plan.fn(config)
    return [pack_scored(part) for part in steps.score_shards(config, "faq", slices, releases, plan, interactions)]


@pytest.mark.timeout(600)
def test_slices_and_files_on_dask_come_to_the_same_bytes(
    config: Settings, cluster: str, data_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = (release_of("1"), release_of("2"))
    write_plan(tmp_path, log_questions(config, releases, data_file))
    read = watch_reads(monkeypatch)
    logs = write_usage(data_file, tmp_path / "usage")
    scored = score(releases)
    assert len(read) == len(scored), "each text is read once"
    check_what_was_seen(scored)
    taken_in = ingestion(path=logs, mapping=tmp_path / "usage" / "mapping.yaml", gate=NO_GATE)
    rows = usage_rows(config)

    on_dask(monkeypatch, cluster)
    (tmp_path / "scores.sqlite").unlink()
    read.clear()
    assert score(releases) == scored
    assert len(scored) == HOURS * EACH // 50
    assert read == [], "no text comes into the process that sends orders out"
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path / "other"))
    on_dask(monkeypatch, cluster)
    again = ingestion(path=logs, mapping=tmp_path / "usage" / "mapping.yaml", gate=NO_GATE)
    assert again == taken_in
    assert (again.read, len(again.sources)) == (2668, 4)
    assert same_bytes(usage_rows(settings_module.settings()), rows)
    assert ingestion(path=logs, mapping=tmp_path / "usage" / "mapping.yaml", gate=NO_GATE).read == 0
    for state in (tmp_path, tmp_path / "other"):
        assert list((state / "shards").iterdir()) == []


def write_plan(folder: Path, texts: Sequence[str]) -> None:
    """Write what a team adds: references to all questions, and another judge of toxicity."""
    lines = [json.dumps({"question": text, "reference": "a city"}) for text in texts]
    (folder / "references.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "evaluation.yaml").write_text("toxicity: {source: profanity}\nreferences: {file: references.jsonl}\n")


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Return a list of which columns with answers this process reads from now on."""
    seen: list[Sequence[str]] = []
    real = Lake.window

    def window(lake: Lake, application: str, start: datetime, end: datetime, columns: Sequence[str]) -> pa.Table:
        if application == "faq" and "output_text" in columns:
            seen.append(columns)
        return real(lake, application, start, end, columns)

    monkeypatch.setattr(Lake, "window", window)
    return seen


def check_what_was_seen(scored: list[bytes]) -> None:
    looked = [part.looked for packed in scored for part in unpack_scored(packed).values()]
    assert sum(one.num_rows for one in looked) == HOURS * EACH
    assert sum(one["similarity"].drop_null().length() for one in looked) > HOURS * EACH // 2
    assert sum(one["toxicity"].drop_null().length() for one in looked) == HOURS * EACH


def test_a_scheduler_that_is_not_there_is_said(config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.log_dir / "faq").mkdir(parents=True)
    (config.log_dir / "faq" / "a.jsonl").write_text("broken\n")
    monkeypatch.setattr("tasks.shards.dask_runner._CONNECT_S", 0.2)
    on_dask(monkeypatch, f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError, match=r"no scheduler answers at tcp://127.0.0.1:\d+; start one: dask sched"):
        ingestion()


def write_usage(data_file: Callable[[str], Path], folder: Path) -> Path:
    """Write a real usage log as four files, with the mapping that reads it."""
    lines = gzip.decompress(data_file("traces/aider_usage.jsonl.gz").read_bytes()).splitlines(keepends=True)
    (folder / "logs").mkdir(parents=True)
    for part in range(4):
        (folder / "logs" / f"{part}.jsonl").write_bytes(b"".join(lines[part * 667 : (part + 1) * 667]))
    (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    return folder / "logs"


def usage_rows(config: Settings) -> pa.Table:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    rows = Lake(config.lake_dir).window("aider", start, start + timedelta(days=3650), list(SCHEMA.names))
    assert rows.num_rows > 2000
    return rows
