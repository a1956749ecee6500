"""A stage on either database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_stage import Stage


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Yield a folder with a short path: a socket's may have some hundred characters, and pytest's folders have more."""
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        yield Path(folder)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage with room for two flows at once."""
    made = Stage(tmp_path, runners=2)
    yield made
    made.close()


@pytest.fixture
def either_stage(either_ledger: str, stage: Stage) -> Stage:
    """Return a stage for each kind of ledger."""
    del either_ledger
    return stage
