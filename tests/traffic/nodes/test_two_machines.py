"""Two whole nodes as programs, real release servers, registry and ledger, and the flows that change them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import crash_plain
import httpx
import pytest
from nodes_stage import TOKEN, until
from sample_release import spec_of

import flows.reconcile
import flows.rollback
import flows.rollout
from tasks.release import acting
from tasks.release.model import PromptRef
from tasks.release.ramp import RampPolicy
from tasks.settings import Settings
from tasks.smoke.suite import SmokeCase, SmokeSuite
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.nodes.driver import NodesDriver
from tasks.traffic.servers import free_port

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(240)]  # a dozen programs are started
APPLICATION = "two-machines"
AT_ONCE = RampPolicy(enabled=False)
SMOKE = SmokeSuite(cases=(SmokeCase(name="q", question="Is anybody there?", max_latency_ms=60_000),))


class Machine:
    """``delivery node``: HAProxy, supervisor, release servers and agent, in a folder of its own."""

    def __init__(self, folder: Path, mlflow_url: str, ledger_url: str) -> None:
        self.folder, self.port = folder, free_port()
        self.data_url, self.url = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{self.port}"
        self.environment = {
            "DELIVERY_STATE_DIR": str(folder),
            "DELIVERY_DATA_URL": self.data_url,
            "DELIVERY_MLFLOW_URL": mlflow_url,
            "DELIVERY_LEDGER_URL": ledger_url,
            "DELIVERY_NODE_TOKEN": TOKEN.get_secret_value(),
            "DELIVERY_NODE_LISTEN": f"127.0.0.1:{self.port}",
        }
        self.log = folder / "node.log"
        folder.mkdir()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deployments.cli", "node", "--state", str(self.folder)],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_start(self) -> Self:
        until(lambda: self.serves() or self.process.poll() is not None, "the node serves")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def serves(self) -> bool:
        return f"the node serves, its agent listens on 127.0.0.1:{self.port}" in self.log.read_text()

    def kill(self) -> None:
        """End it as a power cut does, and wait until nobody listens any more."""
        self.process.kill()
        self.process.wait()
        self.log.write_text("")
        until(lambda: self.answer() == "nobody", "the data path is gone")

    def answer(self, unit: str = "u") -> str:
        """Ask as a user; return who answers, or what went wrong."""
        body = {"messages": [{"role": "user", "content": "Is anybody there?"}]}
        url = f"{self.data_url}/{APPLICATION}/v1/chat/completions"
        with suppress(httpx.HTTPError):
            answer = httpx.post(url, json=body, headers={"X-User-Id": unit}, trust_env=False, timeout=10)
            return str(answer.headers.get("X-Release", answer.status_code))
        return "nobody"

    @contextmanager
    def watched(self) -> Iterator[Counter[str]]:
        """Ask again and again until the block ends, and count who answers."""
        seen, stop = Counter[str](), threading.Event()

        def ask() -> None:
            while not stop.wait(0.02):
                seen[self.answer(f"u{seen.total()}")] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def machines(tmp_path: Path, mlflow_url: str) -> Iterator[tuple[Machine, Machine]]:
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    made = Machine(tmp_path / "a", mlflow_url, ledger), Machine(tmp_path / "b", mlflow_url, ledger)
    for machine in made:
        machine.start()
    try:
        for machine in made:
            machine.await_start()
        yield made
    finally:
        for machine in made:
            machine.process.terminate()
        for machine in made:
            machine.process.wait(timeout=60)


class Log:
    """The log of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str, *values: object) -> None:
        self.lines.append(line % values if values else line)

    warning = info


@pytest.fixture
def log(tmp_path: Path, mlflow_url: str, machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> Log:
    """Have the flows of this process run as plain functions on both machines; return what they log."""
    where = Settings(
        state_dir=tmp_path / "flows",
        mlflow_url=mlflow_url,
        ledger_url=machines[0].environment["DELIVERY_LEDGER_URL"],
        nodes=",".join(machine.url for machine in machines),
        node_token=TOKEN,
    )
    made = Log()
    run = crash_plain.FakeRun(lambda: "one")
    registry: Any = Registry
    attributes = [*crash_plain.plain(run, registry), *crash_plain.in_settings(where)]
    for target, name, value in [*attributes, (acting, "get_run_logger", lambda: made)]:
        monkeypatch.setattr(target, name, value)
    return made


def roll_out(version: int, model_url: str) -> None:
    prompt = PromptRef(name="two-machines-prompt", text="Be kind.")
    spec = spec_of(version, application=APPLICATION, endpoint=model_url, prompt=prompt)
    state = flows.rollout.rollout.fn(spec, AT_ONCE, SMOKE)
    assert state.name == "Promoted", state.message


def test_a_rollback_while_a_machine_is_killed(
    machines: tuple[Machine, Machine], log: Log, model_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, dead = machines
    model_server.reply = lambda _path, _body: model_server.chat("Yes.")
    for version in (1, 2):
        roll_out(version, model_server.url)
    ledger = Ledger(living.environment["DELIVERY_LEDGER_URL"])
    bad, good = (row.release_digest for row in ledger.rollouts(APPLICATION))
    assert (living.answer(), dead.answer()) == (bad, bad)

    applied = NodesDriver.apply

    def power_cut(driver: NodesDriver, plan: Any) -> None:
        dead.kill()
        applied(driver, plan)

    monkeypatch.setattr(NodesDriver, "apply", power_cut)
    state = flows.rollback.rollback.fn(APPLICATION, "it got worse", bad, SMOKE)
    monkeypatch.setattr(NodesDriver, "apply", applied)
    assert state.name == "RolledBack", state.message
    assert living.answer() == good
    assert f"20 of 20 answers of the data path of node {living.url} are from release {good[:12]}" in log.lines
    behind = [line for line in log.lines if line.startswith("a node is behind: ")]
    assert any(f"revision 3 of {APPLICATION} is not in effect there" in line for line in behind)
    assert [line for line in behind if f"node {dead.url}" not in line] == []

    dead.start()
    with dead.watched() as seen:
        dead.await_start()
        until(lambda: seen[good] >= 20, "it serves again")
    assert set(seen) <= {good, "nobody"}  # never the release in quarantine, and no 503 before its servers answer
    lines = dead.log.read_text()
    assert f"revision 3 of {APPLICATION} is taken from the ledger" in lines
    assert f"release {bad[:12]} of {APPLICATION} is in quarantine and not started again" in lines

    driver = acting.driver(Settings(nodes=f"{living.url},{dead.url}", node_token=TOKEN))
    acting.verify_answers(driver, APPLICATION, good)
    assert driver.running(APPLICATION) == (good,)
    assert flows.reconcile.reconcile.fn(APPLICATION).name == "NothingToDo"
    token = TOKEN.get_secret_value()
    for machine in machines:
        texts = "".join(path.read_text() for path in (machine.log, *(machine.folder / "logs").glob("*.log")))
        assert token not in texts
        assert "Is anybody there?" not in texts
    ledger.close()
