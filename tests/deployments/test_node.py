"""A node: the data path alone, with the registry and the ledger elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from deployments.stack.node import NodeLayout, running_node
from deployments.stack.services import Ports
from tasks.errors import InputError, StackError
from tasks.settings import Settings
from tasks.traffic.nodes.remote import read_nodes
from tasks.traffic.servers import free_port


def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, data_url=f"http://0.0.0.0:{free_port()}", mlflow_url="http://registry:5000")


def test_release_servers_are_told_where_the_registry_is(tmp_path: Path) -> None:
    where = settings(tmp_path)
    layout = NodeLayout(state=tmp_path, ports=Ports(prefect=0, mlflow=0, data=0), mark="m", where=where)
    told = {"DELIVERY_MLFLOW_URL": "http://registry:5000", "DELIVERY_DATA_URL": where.data_url}
    assert told.items() <= layout.environment().items()
    assert "PREFECT_API_URL" not in layout.variables()


@pytest.mark.stack
def test_a_node_serves_alone_and_leaves_nothing_behind(tmp_path: Path) -> None:
    where = settings(tmp_path)
    said: list[str] = []
    with running_node(where, said.append):
        assert httpx.get(f"{where.data_url}/health").text == "ok"
        assert httpx.get(f"{where.data_url}/faq/release").status_code == 404
        with pytest.raises(StackError, match="a stack already runs in"), running_node(where):
            pass
    assert said == [f"haproxy is ready at {where.data_url}/health"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{where.data_url}/health")


@pytest.mark.stack
def test_with_a_token_its_agent_answers_flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, port = "a-token-that-nobody-guesses", free_port()
    changes = {"ledger_url": f"sqlite:///{tmp_path / 'l.db'}", "node_listen": f"127.0.0.1:{port}"}
    where = settings(tmp_path).model_copy(update={**changes, "node_token": SecretStr(token)})
    for name in ("ledger_url", "node_listen"):
        monkeypatch.setenv(f"DELIVERY_{name.upper()}", getattr(where, name))
    monkeypatch.setenv("DELIVERY_NODE_TOKEN", token)
    said: list[str] = []
    with running_node(where, said.append):
        (node,) = read_nodes(f"http://127.0.0.1:{port}", where.node_token)
        assert node.running("faq") == ()
        assert node.observe("faq") is None
    assert said == [
        f"haproxy is ready at {where.data_url}/health",
        f"agent is ready at http://127.0.0.1:{port}/health",
    ]
    assert token not in "".join(path.read_text() for path in (tmp_path / "logs").iterdir())


def test_a_node_of_several_needs_a_token_and_the_ledger_of_all(tmp_path: Path) -> None:
    where = settings(tmp_path)
    for changes, message in (
        ({"node_token": SecretStr("short")}, "DELIVERY_NODE_TOKEN has 5 characters; give at least 16"),
        ({"node_token": SecretStr("x" * 16)}, "DELIVERY_LEDGER_URL is not set: a node of several comes up with the"),
    ):
        with pytest.raises(InputError, match=message), running_node(where.model_copy(update=changes)):
            pass


@pytest.mark.stack
def test_it_is_a_program_that_ends_when_told_to(tmp_path: Path) -> None:
    where = settings(tmp_path)
    environment = {**os.environ, "DELIVERY_STATE_DIR": str(tmp_path), "DELIVERY_DATA_URL": where.data_url}
    command = [sys.executable, "-m", "deployments.stack.node"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert "the node serves\n" in lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{where.data_url}/health")
