"""Leave nothing behind: end every process that carries the mark of one stack.

Servers start helpers in sessions of their own, so neither a process group nor a parent leads to all of them; an
environment variable does, because every child inherits it. Run as a program, it is the stack's guard: it waits
until its standard input closes, which a crash of the stack does as surely as an orderly end, and then sweeps.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import psutil

MARK = "DELIVERY_STACK"


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that carry the mark, this one and its parents excluded; none where it is empty."""
    if not mark:
        return []
    own = {os.getpid()} | {parent.pid for parent in psutil.Process().parents()}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in own and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def sweep(mark: str, patience_s: float = 8.0) -> int:
    """Ask every marked process to end, and end those that do not.

    Returns:
        How many there were.
    """
    first = marked(mark)
    for process in first:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(first, timeout=patience_s)
    while late := marked(mark):  # children may have been born meanwhile
        for process in late:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(late, timeout=patience_s)
    return len(first)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(sys.argv[1])  # no variable: the guard would carry the mark itself, and be swept by an orderly end
