"""Processes that carry a mark, as those of a stack do."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest

from deployments.stack.sweep import MARK, marked

WAITS = "print('up', flush=True); import time; time.sleep(600)"


@pytest.fixture
def mark() -> str:
    """Return a mark that nothing carries yet."""
    return uuid.uuid4().hex


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a marked process; all are ended with the test."""
    started = []

    def start_process(mark: str, code: str = WAITS) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            env={**os.environ, MARK: mark},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append((mark, process))
        return process

    yield start_process
    for mark, process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for left in marked(mark):
            left.kill()
