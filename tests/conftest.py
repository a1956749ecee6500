"""What all tests share: how examples are generated, and servers, which end with the session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tasks.traffic.servers import free_port

# How long an example takes says something about the machine and its other work, nothing about the code.
settings.register_profile("delivery", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("delivery")

# Fixtures of this folder, the stages that several tests play on, and what the benchmarks share with tests.
sys.path.extend(
    str(Path(__file__).parent / name) for name in ("", "bench", "crash", "evaluation", "experiments", "ledgers")
)
pytest_plugins = ["asgi_server", "model_server", "postgres", "prefect_server", "shared_data"]
_START_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start servers: the quick ones fill what is left of a worker's time at the end."""
    slow = {item.path for item in items if _is_slow(item)}
    items.sort(key=lambda item: item.path not in slow)  # stable: files stay whole


def _is_slow(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return item.get_closest_marker("stack") is not None or "prefect_server" in names or "mlflow_url" in names


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of an MLflow server that is empty when the session starts."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            _mlflow_command(folder, port), cwd=folder, env=_mlflow_env(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"{url}/health", process, folder / "server.log")
        yield url
    finally:
        end_group(process)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers 200; fail with its log if it ends or takes too long."""
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    pytest.fail(f"{url} did not answer; its log ends: {log.read_text(errors='replace')[-2000:]}")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it started; the group is its own."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def _mlflow_command(folder: Path, port: int) -> list[str]:
    store = f"sqlite:///{folder / 'mlflow.db'}"
    served = ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", store, *served),
    ]


def _mlflow_env() -> dict[str, str]:
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **quiet, "PATH": path}
