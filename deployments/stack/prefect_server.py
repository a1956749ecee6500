"""The Prefect server on SQLite, with its garbage collected where that stops nobody.

What fails or is cancelled on its way leaves SQLite cursors in reference cycles. Collecting such a cursor resets its
statement, which waits for whatever its connection does at the time. In the thread of the event loop that ends badly:
the connection may be waiting, for up to a minute, for a transaction that only the event loop can end. Nothing answers
until then, and events that would start rollbacks are lost. A thread that does nothing else can wait.
"""

from __future__ import annotations

import gc
import runpy
import sys
import threading
import time

_YOUNG_S = 1.0
_ALL_EVERY = 30


def collect_elsewhere() -> None:
    """Collect garbage in a thread of its own from now on, and never where it happens to be made."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage", daemon=True).start()


def _collect() -> None:
    rounds = 0
    while True:
        time.sleep(_YOUNG_S)
        rounds += 1
        gc.collect(2 if rounds % _ALL_EVERY == 0 else 1)


if __name__ == "__main__":
    collect_elsewhere()
    sys.argv[1:1] = ["server", "start"]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
