"""HAProxy and release servers that can be killed; the modules of this folder can be imported by its tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from standby_stage import World, standing


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield an HAProxy with nothing behind it."""
    with standing(tmp_path) as made:
        yield made
