"""Leaving nothing behind: the sweep, and the guard that sweeps after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deployments.stack.sweep import marked, sweep

WAITS = "print('up', flush=True); import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS
PARENT = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'], "
    "start_new_session=True); print(child.pid, flush=True); child.wait()"
)

Start = Callable[..., subprocess.Popen[str]]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- the sweep ---


def wait_for_marks(mark: str, count: int) -> None:
    """Wait until so many processes carry a mark; one exists a moment before its environment can be read."""
    limit = time.monotonic() + 30
    while len(marked(mark)) < count and time.monotonic() < limit:
        time.sleep(0.01)


@pytest.mark.stack
def test_a_mark_is_found_in_children_that_left_the_family(start: Start, mark: str) -> None:
    parent, other = start(mark, PARENT), start(uuid.uuid4().hex)
    child = int(said(parent))
    wait_for_marks(mark, 2)
    assert {process.pid for process in marked(mark)} == {parent.pid, child}
    assert os.getpgid(child) != os.getpgid(parent.pid)
    assert other.pid not in {process.pid for process in marked(mark)}


@pytest.mark.stack
def test_a_sweep_ends_all_that_is_marked_and_nothing_else(start: Start, mark: str) -> None:
    parent, other = start(mark, PARENT), start(uuid.uuid4().hex)
    child = psutil.Process(int(said(parent)))
    wait_for_marks(mark, 2)
    assert sweep(mark) == 2
    assert marked(mark) == []
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert other.poll() is None
    assert sweep(mark) == 0


@pytest.mark.stack
def test_a_process_that_will_not_end_is_ended(start: Start, mark: str) -> None:
    stubborn = start(mark, STUBBORN)
    assert said(stubborn) == "up"
    assert sweep(mark, patience_s=0.1) == 1
    assert marked(mark) == []


def test_an_empty_mark_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    # Were an empty or missing mark taken at its word, every process of the machine would carry it.
    monkeypatch.setattr(psutil, "process_iter", lambda: pytest.fail("looked for processes without a mark"))
    for nothing in ("", None):
        assert marked(nothing) == []  # type: ignore[arg-type]
        assert sweep(nothing) == 0  # type: ignore[arg-type]


# --- the guard ---


@pytest.mark.stack
def test_the_guard_sweeps_once_its_input_closes_and_cannot_be_talked_out_of_it(start: Start, mark: str) -> None:
    process = start(mark)
    guard = subprocess.Popen([sys.executable, "-m", "deployments.stack.sweep", mark], stdin=subprocess.PIPE)
    assert guard.stdin is not None
    try:
        waits_for_input = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        limit = time.monotonic() + 30
        while not _ignores(guard.pid, waits_for_input):
            assert guard.poll() is None
            assert time.monotonic() < limit
        for number in waits_for_input:
            guard.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            guard.wait(timeout=0.5)
        assert [found.pid for found in marked(mark)] == [process.pid]  # the guard is not one of those it ends
        guard.stdin.close()
        process.wait(timeout=30)
        assert guard.wait(timeout=30) == 0
    finally:
        guard.kill()
        guard.wait()
    assert marked(mark) == []


def _ignores(pid: int, numbers: list[signal.Signals]) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    mask = int(next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1], 16)
    return all(mask >> (number - 1) & 1 for number in numbers)
