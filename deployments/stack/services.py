"""The servers of the local stack: how each is started and how one knows that it is ready."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from deployments.stack.auth import Login
from deployments.stack.sweep import MARK
from tasks.errors import StackError
from tasks.traffic.servers import Server, free_port

DEFAULT_PORTS = {"prefect": 4200, "mlflow": 5000, "data": 8080}
WORK_POOL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of the stack, all on loopback."""

    prefect: int
    mlflow: int
    data: int

    @classmethod
    def free(cls) -> Ports:
        """Return three ports nobody uses."""
        taken: set[int] = set()
        for _ in range(3):
            taken.add(free_port(taken.__contains__))
        return cls(**dict(zip(("prefect", "mlflow", "data"), sorted(taken), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One server.

    Attributes:
        name: What it is called in messages and logs.
        command: Its argument list.
        folder: Where it runs.
        health_url: Answers 2xx once it is ready; None where being alive is all there is to see.
        start_s: How long it may take, seconds.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    health_url: str | None = None
    start_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one stack keeps its state and where it listens.

    Attributes:
        login: What Prefect and MLflow ask for; None where they ask for nothing.
    """

    state: Path
    ports: Ports
    mark: str
    login: Login | None = None

    @property
    def prefect_url(self) -> str:
        """The Prefect UI; its API is below ``/api``."""
        return f"http://127.0.0.1:{self.ports.prefect}"

    @property
    def mlflow_url(self) -> str:
        """The MLflow UI, tracking server and registry."""
        return f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def data_url(self) -> str:
        """The data path: where users reach the applications."""
        return f"http://127.0.0.1:{self.ports.data}"

    @property
    def logs(self) -> Path:
        """What the servers print."""
        return self.state / "logs"

    def variables(self) -> dict[str, str]:
        """Return the environment a person or a flow needs to work with this stack, its password included."""
        return {
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_HOME": str(self.state / "prefect"),
            "DELIVERY_STATE_DIR": str(self.state),
            "DELIVERY_MLFLOW_URL": self.mlflow_url,
            "DELIVERY_DATA_URL": self.data_url,
            "DELIVERY_WORK_POOL": WORK_POOL,
            **(self.login.for_clients() if self.login is not None else {}),
        }

    def environment(self) -> dict[str, str]:
        """Return the environment of the servers: nothing phones home, nothing waits for the internet."""
        python = str(Path(sys.executable).parent)
        quiet = {
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "50",
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "50",
            "GIT_PYTHON_REFRESH": "quiet",
            "PYTHONUNBUFFERED": "1",
            "OPENBLAS_NUM_THREADS": "1",  # a process with threads is not copied
            "NO_COLOR": "1",
        }
        path = f"{python}{os.pathsep}{os.environ.get('PATH', '')}"
        login = self.login.for_servers(self.state) if self.login is not None else {}
        return {**os.environ, **quiet, **login, **self.variables(), "PATH": path, MARK: self.mark}


def choose_ports(*, fixed: bool) -> Ports:
    """Return the ports to use: free ones, or the well-known ones, each changeable by ``DELIVERY_<NAME>_PORT``.

    Raises:
        StackError: A port is no number, or chosen twice.
    """
    free = Ports.free()
    chosen = {}
    for name, default in DEFAULT_PORTS.items():
        variable = f"DELIVERY_{name.upper()}_PORT"
        text = os.environ.get(variable)
        if text is None:
            chosen[name] = default if fixed else getattr(free, name)
        elif text.isdecimal() and 0 < int(text) < 65536:  # noqa: PLR2004 - the highest port there is
            chosen[name] = int(text)
        else:
            raise StackError(f"{variable}={text!r} is no port; give a number from 1 to 65535")
    if len(set(chosen.values())) < len(chosen):
        ports = ", ".join(f"DELIVERY_{name.upper()}_PORT={port}" for name, port in chosen.items())
        raise StackError(f"two servers cannot share a port: {ports}; choose others")
    return Ports(**chosen)


def mlflow_service(layout: Layout) -> Service:
    """Return MLflow: tracking server, registry and artifacts, on SQLite."""
    database = layout.state / "mlflow.db"
    return Service(
        name="mlflow",
        command=(
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(layout.ports.mlflow)),
            *("--backend-store-uri", f"sqlite:///{database}", "--workers", "1"),
            *("--artifacts-destination", str(layout.state / "mlflow-artifacts")),
            *(("--app-name", "basic-auth") if layout.login is not None else ()),
        ),
        folder=layout.state,
        health_url=f"{layout.mlflow_url}/health",
    )


def prefect_service(layout: Layout) -> Service:
    """Return the Prefect server, with its UI, on SQLite."""
    return Service(
        name="prefect",
        command=(
            *(sys.executable, "-m", "deployments.stack.prefect_server"),
            *("--host", "127.0.0.1", "--port", str(layout.ports.prefect)),
        ),
        folder=layout.state,
        health_url=f"{layout.prefect_url}/api/health",
    )


def worker_service(layout: Layout) -> Service:
    """Return the worker that runs every deployment in processes of this machine."""
    return Service(
        name="worker",
        command=(
            *(sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"),
            *("--limit", "8", "--name", "local-worker", "--install-policy", "never"),
        ),
        folder=layout.state,
    )


def nursery_service(layout: Layout) -> Service:
    """Return the process that flow runs are copies of, so that none waits for Python to import things."""
    return Service(name="nursery", command=(sys.executable, "-m", "deployments.stack.nursery"), folder=layout.state)


def haproxy_service(layout: Layout, command: list[str], folder: Path) -> Service:
    """Return the data path."""
    return Service(name="haproxy", command=tuple(command), folder=folder, health_url=f"{layout.data_url}/health")


def release_service(layout: Layout, server: Server, number: int) -> Service:
    """Return the server of one replica of a release; replicas count from 1."""
    port = server.ports[number - 1]
    return Service(
        name=f"release-{server.short}-{number}",
        command=(
            *(sys.executable, "-m", "tasks.serving", "--application", server.application),
            *("--version", str(server.registry_version), "--port", str(port)),
        ),
        folder=layout.state,
        health_url=f"http://127.0.0.1:{port}/health",
    )
