"""Real data that is not part of the repository: tests that need it say so and are skipped without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

DataFile = Callable[[str], Path]


@pytest.fixture(scope="session")
def data_file() -> DataFile:
    """Return the path of a file of the data folder: ``DELIVERY_TEST_DATA``, or ``shared/data`` beside the project."""
    beside = [folder / "shared" / "data" for folder in Path(__file__).parents]
    given = os.environ.get("DELIVERY_TEST_DATA")
    folders = [Path(given)] if given else [folder for folder in beside if folder.is_dir()]

    def find(name: str) -> Path:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"{name} is not here; set DELIVERY_TEST_DATA to the folder of public data")

    return find
