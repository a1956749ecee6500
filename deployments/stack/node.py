"""One machine that serves - the data path and its release servers - and nothing else: ``delivery node``.

Prefect, MLflow and the ledger are elsewhere (``PREFECT_API_URL``, ``DELIVERY_MLFLOW_URL``, ``DELIVERY_LEDGER_URL``).
Who runs the flows that change what is served: a worker beside it, with the same state folder and the same loopback; or,
where ``DELIVERY_NODE_TOKEN`` is set, workers anywhere, which speak to the agent of this node and of others.
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
from deployments.stack.services import Layout, Ports, Service, haproxy_service
from deployments.stack.stack import only_one
from deployments.stack.supervisor import Supervisor
from tasks.errors import DeliveryError, InputError
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.nodes.agent import check_token
from tasks.traffic.nodes.following import Follower
from tasks.traffic.scaler import Scaler

_PATIENCE_S = 30.0


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

    HAProxy takes users once the plans on record are its own and their releases answer.

    Args:
        where: The settings; ``data_url`` is the address to listen on, such as ``http://0.0.0.0:8080``.
        say: Prints one line of progress.

    Raises:
        StackError: Another node or stack uses the folder, the port is taken, or the data path does not start.
        InputError: The agent has a token that is none, or no ledger to follow.
    """
    state = where.state_dir.absolute()
    os.umask(0o077)  # prompts and answers are in there
    state.mkdir(parents=True, exist_ok=True)
    with only_one(state):
        here = replace_state(where, state)
        _check(here)
        layout = NodeLayout(state=state, ports=Ports(prefect=0, mlflow=0, data=0), mark=uuid.uuid4().hex, where=here)
        driver = HaproxyDriver(folder=here.haproxy_dir, servers=here.servers_dir, url=here.data_url)
        follower = Follower(driver, Ledger(here.ledger), say)
        supervisor = Supervisor(layout=layout, servers=driver.servers, say=say)
        try:
            _start_data_path(layout, supervisor, follower)
            follower.try_to_look()
            if here.node_token is not None:
                supervisor.start([agent_service(layout)])
            with follower.following():
                yield layout
        finally:
            supervisor.stop()
            follower.ledger.close()


def _start_data_path(layout: NodeLayout, supervisor: Supervisor, follower: Follower) -> None:
    driver, is_up = follower.driver, threading.Event()
    scaler = Scaler(driver, follower.say)
    follower.prepare()
    command = driver.prepare()
    supervisor.start([])  # its guard, before any server
    supervisor.watch(lambda: scaler.look() if is_up.is_set() else None)
    supervisor.await_releases(_PATIENCE_S)
    if follower.prepare():  # somebody was quicker
        command = driver.prepare()
    supervisor.start([haproxy_service(layout, command, driver.folder)])
    is_up.set()


def _check(where: Settings) -> None:
    if where.node_token is None:
        return
    check_token(where.node_token.get_secret_value())
    if where.ledger_url is None:
        raise InputError(
            "DELIVERY_LEDGER_URL is not set: a node of several comes up with the plans on record; give it the ledger "
            "of the flows, such as postgresql+psycopg://delivery@db/ledger"
        )


def agent_service(layout: NodeLayout) -> Service:
    """Return the agent, which speaks to flows on other machines."""
    host, _, port = layout.where.node_listen.rpartition(":")
    return Service(
        name="agent",
        command=(sys.executable, "-m", "tasks.traffic.nodes"),
        folder=layout.state,
        health_url=f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/health",
    )


def replace_state(where: Settings, state: Path) -> Settings:
    """Return the settings with an absolute state folder: servers run in folders of their own."""
    return where.model_copy(update={"state_dir": state})


def main() -> int:
    """Serve until the process is told to stop."""
    end_on_signals()
    try:
        with running_node(Settings(), say=lambda line: print(line, flush=True)) as layout:
            agent = f", its agent listens on {layout.where.node_listen}" if layout.where.node_token else ""
            print(f"the node serves{agent}", flush=True)
            threading.Event().wait()
    except DeliveryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
