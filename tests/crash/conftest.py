"""A stage on either database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage whose ledger is SQLite, with room for two flows at once."""
    made = Stage(tmp_path, runners=2)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def either_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage for each kind of ledger."""
    url = None if request.param == "sqlite" else str(request.getfixturevalue("new_database")())
    made = Stage(tmp_path, runners=2, ledger_url=url)
    yield made
    made.close()
