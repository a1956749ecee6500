"""Bring the stack up and down."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field, TypeAdapter

from deployments.stack.auth import is_wanted, prepare_login, read_login
from deployments.stack.services import (
    WORK_POOL,
    Layout,
    Ports,
    haproxy_service,
    mlflow_service,
    nursery_service,
    prefect_service,
    worker_service,
)
from deployments.stack.supervisor import Supervisor
from deployments.stack.sweep import sweep
from tasks.errors import ServingError, StackError
from tasks.settings import Settings
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.scaler import Scaler
from tasks.traffic.servers import write_whole

ROOT = Path(__file__).resolve().parents[2]
PREFECT_FILE = Path("deployments/prefect.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a running stack leaves in its state folder, for commands that want to talk to it."""

    pid: Annotated[int, Field(gt=0, lt=2**31)]
    started: float
    mark: Annotated[str, Field(min_length=1)]
    state: str
    ports: Ports
    has_login: bool = False

    @property
    def layout(self) -> Layout:
        """Where this stack listens, and what it asks for."""
        login = read_login(Path(self.state)) if self.has_login else None
        return Layout(state=Path(self.state), ports=self.ports, mark=self.mark, login=login)

    @property
    def is_running(self) -> bool:
        """Whether the process that started the stack still lives."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1
        except psutil.Error:
            return False


def read_record(state: Path) -> Record | None:
    """Return the record of the stack of a state folder, None where there is none that can be read."""
    try:
        return TypeAdapter(Record).validate_json((state / "stack.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def running_stack(state: Path, ports: Ports, say: Callable[[str], None] = print) -> Iterator[Layout]:
    """Run the stack while the block runs; nothing of it is left afterwards, however the block ends.

    Args:
        state: The one folder everything is written to; made if missing.
        ports: Where to listen.
        say: Prints one line of progress.

    Raises:
        StackError: Another stack uses the folder, a port is taken, or a server does not start.
    """
    state = state.absolute()
    os.umask(0o077)  # prompts, answers and tokens are in there
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    with only_one(state):
        login = prepare_login(state, os.environ) if is_wanted() else None
        layout = Layout(state=state, ports=ports, mark=uuid.uuid4().hex, login=login)
        driver = HaproxyDriver(folder=state / "haproxy", servers=state / "servers", url=layout.data_url)
        supervisor = Supervisor(layout=layout, servers=driver.servers, say=say)
        _write_record(layout)
        try:
            data_path = haproxy_service(layout, driver.prepare(), driver.folder)
            supervisor.start([mlflow_service(layout), prefect_service(layout), data_path])
            _deploy(layout)
            say("every flow is deployed")
            supervisor.start([nursery_service(layout), worker_service(layout)])
            supervisor.watch(Scaler(driver, say).look)
            supervisor.await_releases()
            reconcile(Settings(state_dir=layout.state).ledger, driver, say)
            yield layout
        finally:
            supervisor.stop()
            (state / "stack.json").unlink(missing_ok=True)


def _write_record(layout: Layout) -> None:
    record = Record(
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        mark=layout.mark,
        state=str(layout.state),
        ports=layout.ports,
        has_login=layout.login is not None,
    )
    write_whole(layout.state / "stack.json", json.dumps(asdict(record)))


def reconcile(ledger_url: str, driver: HaproxyDriver, say: Callable[[str], None]) -> None:
    """Put the plans on record into effect: a crash may have come between the two."""
    from tasks.stores.ledger import Ledger

    ledger = Ledger(ledger_url)
    for application in ledger.applications():
        plan = ledger.plan(application)
        if plan is not None and driver.observe(application) != plan.buckets:
            try:
                driver.apply(plan)
            except ServingError as error:
                say(f"revision {plan.revision} of {application} is not in effect: {error}")
            else:
                say(f"revision {plan.revision} of {application} was on record and not in effect: applied")
    ledger.close()


def stop(state: Path, patience_s: float = 40.0) -> bool:
    """End the stack of a state folder from outside.

    Returns:
        Whether there was anything to end.
    """
    record = read_record(state)
    if record is None:
        return False
    if record.is_running:
        with suppress(psutil.Error):
            process = psutil.Process(record.pid)
            process.terminate()
            process.wait(timeout=patience_s)
    sweep(record.mark)
    (state / "stack.json").unlink(missing_ok=True)
    return True


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold a state folder alone, with what an earlier stack left in it ended.

    Raises:
        StackError: Another one holds it.
    """
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackError(
                f"a stack already runs in {state}; use it, or end it with: delivery down --state {state}"
            ) from None
        old = read_record(state)
        if old is not None:
            sweep(old.mark)  # it was killed so hard that not even its guard could clean up
        yield


def _deploy(layout: Layout) -> None:
    """Make the work pool and deploy every flow with its schedules and triggers."""
    pool = ["work-pool", "create", WORK_POOL, "--type", "process", "--overwrite"]
    for arguments in (pool, ["--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=layout.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
