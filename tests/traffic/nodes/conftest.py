"""Two nodes on loopback; the modules of this folder can be imported by its tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from nodes_stage import TOKEN, Node

from tasks.traffic.nodes.driver import NodesDriver
from tasks.traffic.nodes.remote import read_nodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Yield two nodes that serve nobody yet, with one ledger."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Node(tmp_path / "a", ledger).serving() as first, Node(tmp_path / "b", ledger).serving() as second:
        yield first, second


@pytest.fixture
def said() -> list[str]:
    """Return what is said of nodes that are behind."""
    return []


@pytest.fixture
def driver(nodes: tuple[Node, Node], said: list[str]) -> NodesDriver:
    """Return the driver of both."""
    return NodesDriver(read_nodes(",".join(node.url for node in nodes), TOKEN), said.append)
