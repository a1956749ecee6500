"""One machine that serves - the data path and its release servers - and nothing else.

``python -m deployments.stack.node`` runs it.

Prefect, MLflow and the ledger are elsewhere (``PREFECT_API_URL``, ``DELIVERY_MLFLOW_URL``, ``DELIVERY_LEDGER_URL``). A
worker beside it, with the same state folder and the same loopback, runs the flows that change what is served.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.commands.shell import end_on_signals
from deployments.stack.services import Layout, Ports, haproxy_service
from deployments.stack.stack import only_one, reconcile
from deployments.stack.supervisor import Supervisor
from tasks.errors import DeliveryError
from tasks.settings import Settings
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.scaler import Scaler


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout(Layout):
    """Where one node keeps its state, and where the others are."""

    where: Settings

    @property
    def mlflow_url(self) -> str:
        """The registry, elsewhere."""
        return self.where.mlflow_url

    @property
    def data_url(self) -> str:
        """The data path: the address it listens on."""
        return self.where.data_url

    def variables(self) -> dict[str, str]:
        """Return what the release servers need to know; the rest comes from the environment."""
        return {
            "DELIVERY_STATE_DIR": str(self.state),
            "DELIVERY_MLFLOW_URL": self.mlflow_url,
            "DELIVERY_DATA_URL": self.data_url,
        }


@contextmanager
def running_node(where: Settings, say: Callable[[str], None] = print) -> Iterator[NodeLayout]:
    """Serve while the block runs; nothing is left afterwards, however the block ends.

    Args:
        where: The settings; ``data_url`` is the address to listen on, such as ``http://0.0.0.0:8080``.
        say: Prints one line of progress.

    Raises:
        StackError: Another node or stack uses the folder, the port is taken, or the data path does not start.
    """
    state = where.state_dir.absolute()
    os.umask(0o077)  # prompts and answers are in there
    state.mkdir(parents=True, exist_ok=True)
    with only_one(state):
        here = replace_state(where, state)
        layout = NodeLayout(state=state, ports=Ports(prefect=0, mlflow=0, data=0), mark=uuid.uuid4().hex, where=here)
        driver = HaproxyDriver(folder=here.haproxy_dir, servers=here.servers_dir, url=here.data_url)
        supervisor = Supervisor(layout=layout, servers=driver.servers, say=say)
        try:
            supervisor.start([haproxy_service(layout, driver.prepare(), driver.folder)])
            supervisor.watch(Scaler(driver, say).look)
            supervisor.await_releases()
            reconcile(here.ledger, driver, say)
            yield layout
        finally:
            supervisor.stop()


def replace_state(where: Settings, state: Path) -> Settings:
    """Return the settings with an absolute state folder: servers run in folders of their own."""
    return where.model_copy(update={"state_dir": state})


def main() -> int:
    """Serve until the process is told to stop."""
    end_on_signals()
    try:
        with running_node(Settings(), say=lambda line: print(line, flush=True)):
            print("the node serves", flush=True)
            threading.Event().wait()
    except DeliveryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
