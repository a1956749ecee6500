"""Ways to end a process."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and wait for nothing."""
    if process.poll() is None:
        process.terminate()


def end(process: subprocess.Popen[bytes], patience_s: float = 6.0) -> None:
    """Ask a process to end, and end it where it does not."""
    if process.poll() is None:
        ask_to_end(process)
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process at once, with everything in the session that was made for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
