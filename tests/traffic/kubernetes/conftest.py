"""A cluster on loopback, and two releases; the modules of this folder can be imported by its tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from kubernetes_fake import Fake, serving


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """Yield a cluster that the environment leads to."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with serving(tmp_path) as cluster:
        yield cluster
