"""Shards on a work pool: a real server, and two real workers, one of which is killed with what it works on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from flow_stage import START
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL
from prefect.states import Cancelled
from shard_stage import EACH, HOURS, left_behind, put_on_stage, same_bytes

from flows.evaluation import evaluation
from flows.shard import shard
from tasks import settings as settings_module
from tasks.errors import NotFoundError, UnreachableError
from tasks.settings import Settings
from tasks.shards.dispatch import Errand, Seen, Stage
from tasks.shards.handover import HandOver
from tasks.shards.orders import ScoringOrder
from tasks.shards.pool import PoolRunner
from tasks.shards.steps import send_out
from tasks.shards.work import handover_of

pytestmark = pytest.mark.stack
ROOT = Path(__file__).resolve().parents[2]
POOL = "shards"
PATIENCE_S = 200.0
SLICES = HOURS * EACH // 50
ORDER = ScoringOrder(application="faq", start=START, end=START.replace(hour=1), releases=())
# Says that it works, then waits for as long as it is told to; what it gives follows from the answer alone.
SCORER = """
import os, time
from pathlib import Path
HERE = Path(__file__).parent

def held(outputs):
    (HERE / f"{os.getpid()}.at-work").write_text(os.environ.get("PREFECT__FLOW_RUN_ID", ""))
    while (HERE / "hold").exists():
        time.sleep(0.05)
    return len(outputs) / 7
"""
PLAN = """
toxicity: {source: profanity}
references: {file: references.jsonl}
scorers:
  - {name: held, path: 'held_scorer:held', workers: 1, timeout_s: 300, threshold: 0.1}
"""


@pytest.fixture(scope="module", autouse=True)
def pool(prefect_server: None) -> None:
    """Make the work pool and the deployment of shards."""
    del prefect_server
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    deploy()


@pytest.fixture
def config(tmp_path: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Point the flows at stores of their own, and at slices of two hours."""
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_MLFLOW_URL", mlflow_url)
    monkeypatch.setenv("DELIVERY_SHARD_CALLS", "50")
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


def deploy() -> None:
    command = ["--no-prompt", "deploy", "--name", "shard", "--prefect-file", "deployments/prefect.yaml"]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or "", "DELIVERY_WORK_POOL": POOL}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


class Workers:
    """Two workers of one run each, in sessions of their own, and the warm process that runs are copies of."""

    def __init__(self, folder: Path) -> None:
        self.folder, python = folder, Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OPENBLAS_NUM_THREADS": "1",
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
        }
        self.nursery = self.start("deployments.stack.nursery")
        worker = ("prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1")
        self.first, self.second = (self.start(*worker, "--name", name) for name in ("first", "second"))

    def start(self, *module: str) -> psutil.Popen:
        with (self.folder / "workers.log").open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-m", *module],
                cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill_in_the_middle(self, killed: list[int]) -> None:
        """Once both are in the middle of a shard, kill the process of one, and the other with its process."""
        limit = time.monotonic() + PATIENCE_S
        while len(at_work := list(self.folder.glob("*.at-work"))) < 2 and time.monotonic() < limit:
            time.sleep(0.05)
        process_of = {path.read_text(): int(path.stem) for path in at_work}
        first, second = (process_of[run_of(worker)] for worker in (self.first, self.second))
        for pid in (first, self.second.pid, *(one.pid for one in self.second.children(recursive=True)), second):
            with suppress(ProcessLookupError):  # a copy whose asker was killed is ended by the nursery
                os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        (self.folder / "hold").unlink()

    def close(self) -> None:
        for process in (self.first, self.second, self.nursery):
            left = process.children(recursive=True) if process.is_running() else []
            for one in (*left, process):
                with suppress(psutil.NoSuchProcess):
                    os.kill(one.pid, signal.SIGKILL)
            process.wait()


def run_of(worker: psutil.Popen) -> str:
    """Return the flow run that a worker's child is for."""
    (asker,) = worker.children()
    return str(asker.environ()["PREFECT__FLOW_RUN_ID"])


@pytest.fixture
def workers(tmp_path: Path, config: Settings) -> Iterator[Workers]:
    assert config.state_dir == tmp_path
    made = Workers(tmp_path)
    yield made
    made.close()


def shard_runs() -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["shard"])))


@flow
def parent() -> list[bytes]:
    return send_out(settings_module.settings(), [ORDER])


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"S": "pool", "_WAIT_S": "0.5", "_RETRIES": "1"}.items():
        monkeypatch.setenv(f"DELIVERY_SHARD{name}", value)
    settings_module.settings.cache_clear()


def test_a_pool_without_a_worker_is_said_with_the_command_that_starts_one(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    before = {run.id for run in shard_runs()}
    with pytest.raises(UnreachableError) as caught:
        parent()
    said = f"{ORDER.label}: given up after 2 attempts; the last one: nobody took it in 0.5 s: work pool {POOL} has no "
    assert str(caught.value).startswith(said)
    runs = [run for run in shard_runs() if run.id not in before]
    assert Counter(run.state_name for run in runs) == {"Cancelled": 2}
    assert handover_of(config).sweep(time.time() + 1) == 0


def test_the_trouble_of_a_pool_is_said(config: Settings) -> None:
    runner = PoolRunner(handover_of(config), "1", "empty")
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="empty", type="process"))
        assert runner.trouble() == (
            "work pool empty has no worker; start one: prefect worker start --pool empty --type process"
        )
        client.create_work_pool(WorkPoolCreate(name="idle", type="process", is_paused=True))
    runner.pool = "idle"
    assert runner.trouble() == "work pool idle is paused; resume it: prefect work-pool resume idle"


def test_a_run_that_a_person_cancels_is_lost_and_a_result_counts_whatever_prefect_says(
    config: Settings,
) -> None:
    handover = handover_of(config)
    runner = PoolRunner(handover, "1")
    name = handover.put_order("0" * 8 + "-0000-4000-8000-" + "0" * 12, ORDER)
    run = runner.start(Errand(name, ORDER.label))
    assert runner.start(Errand(name, ORDER.label)) == run  # the same attempt is the same run
    assert runner.pool == POOL
    assert runner.look([run]) == [Seen(Stage.WAITING)]
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.run_id, Cancelled())
        assert runner.look([run]) == [Seen(Stage.LOST, 0, f"flow run {run.run_id} ended Cancelled; its log says why")]
        shard(name)  # as a worker would that knew nothing of it
        assert runner.look([run]) == [Seen(Stage.DONE)]
        client.delete_flow_run(run.run_id)
    handover.clear([name])
    assert runner.look([run]) == [Seen(Stage.LOST, 0, f"its flow run {run.run_id} was deleted")]


def test_a_shard_whose_parent_is_gone_fails_and_says_so(config: Settings) -> None:
    assert config.shards == "here"
    with pytest.raises(NotFoundError, match="its parent has ended, or this worker has another state folder"):
        shard("0" * 8 + "-0000-4000-8000-" + "0" * 12 + "/" + "a" * 32)


def test_a_flow_of_shards_that_is_not_deployed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.shards.pool.DEPLOYMENT", "shard/none")
    with pytest.raises(NotFoundError, match="deployment shard/none is not there; deploy every flow: prefect deploy"):
        PoolRunner(HandOver(tmp_path), "1").start(Errand("x", "x"))


@pytest.mark.timeout(600)
def test_two_workers_of_which_one_is_lost_leave_the_bytes_of_one_process(
    config: Settings,
    workers: Workers,
    data_file: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "held_scorer.py").write_text(SCORER)
    (tmp_path / "evaluation.yaml").write_text(PLAN)
    monkeypatch.syspath_prepend(tmp_path)
    texts = put_on_stage(config, data_file)
    lines = [json.dumps({"question": text, "reference": "a city"}) for text in texts]
    (tmp_path / "references.jsonl").write_text("\n".join(lines), encoding="utf-8")
    verdicts = evaluation("faq", START)
    here = left_behind(config)
    for path in tmp_path.glob("*.at-work"):
        path.unlink()
    (tmp_path / "scores.sqlite").unlink()  # or nothing would be left to score
    (tmp_path / "hold").touch()
    for name, value in {"S": "pool", "S_AT_ONCE": "3", "_SILENT_S": "6", "_RETRIES": "5"}.items():
        monkeypatch.setenv(f"DELIVERY_SHARD{name}", value)
    settings_module.settings.cache_clear()

    before, killed = {run.id for run in shard_runs()}, list[int]()
    killer = threading.Thread(target=workers.kill_in_the_middle, args=(killed,))
    killer.start()
    try:
        again = evaluation("faq", START)
    finally:
        killer.join()
    assert len(killed) == 4
    assert again == verdicts
    there = left_behind(config)
    assert [name for name in here if not same_bytes(here[name], there[name])] == []
    runs = [run for run in shard_runs() if run.id not in before]
    ended = Counter(str(run.state_name) for run in runs)
    assert ended["Completed"] >= SLICES
    assert ended["Crashed"] >= 2  # more where the machine is so busy that one which lives is silent for seconds
    assert sum("attempt 2" in run.name for run in runs) >= 2
    assert "score faq 2026-01-02T00:00/2026-01-02T02:00" in {run.name for run in runs}
    assert list((tmp_path / "shards").iterdir()) == []
    assert b"cannot be copied" not in (tmp_path / "workers.log").read_bytes()  # what is warm has one thread
    check_that_nothing_was_told(texts)


def check_that_nothing_was_told(texts: list[str]) -> None:
    """No text of a user is in Prefect's database."""
    path = Path((PREFECT_SERVER_DATABASE_CONNECTION_URL.value() or "").removeprefix("sqlite+aiosqlite:///"))
    held = b"".join(part.read_bytes() for part in path.parent.glob(f"{path.name}*"))
    assert b"score faq 2026-01-02T00:00" in held
    assert not [text for text in texts if text.encode() in held]
