"""A process that has Prefect and every flow imported, and forks a copy of itself for each flow run (``engine.py``).

It has one thread and opens nothing but its socket, so that a copy inherits nothing that a fork would break. What a
copy runs is Prefect's own engine, with the environment, the folder and the output of the program that asked. The code
is that of the moment the stack was started.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deployments.stack.engine import SOCKET
from tasks.interactions.expectations import great_expectations

MODULES: Final = (
    *("prefect.engine", "prefect.flow_engine", "prefect.task_engine", "prefect.events.clients", "prefect.artifacts"),
    *("flows.rollback", "flows.rollout", "flows.decision", "flows.reconcile", "flows.evaluation", "flows.costs"),
    *("flows.ingestion", "mlflow", "duckdb", "pyarrow", "deltalake", "sqlalchemy.dialects.sqlite"),
    "sklearn.linear_model",
)
"""What a flow run would import; those that say nothing when imported and start no thread."""
_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG, from <linux/prctl.h>
_STREAMS: Final = (0, 1, 2)


@dataclass(slots=True)
class Nursery:
    """Forks a copy for every connection and tells it how the copy ended.

    Args:
        path: Of its socket.
        run: What a copy does with its order; returns its exit code.
    """

    path: Path
    run: Callable[[dict[str, Any]], int]
    _copies: dict[int, socket.socket] = field(default_factory=dict)

    def serve(self) -> None:
        """Serve until SIGTERM; then the copies are ended too."""
        listener = _listen(self.path)
        woken, waker = socket.socketpair()
        waker.settimeout(0)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is woken:
                        woken.recv(4096)
                        self._reap(selector)
                    elif key.fileobj is listener:
                        self._begin(selector, listener)
                    else:
                        self._abandon(selector, key.data)

    def _begin(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        channel, _ = listener.accept()
        try:
            order, descriptors = _receive(channel)
        except (OSError, ValueError):
            channel.close()
            return
        sys.stdout.flush()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            selector.close()
            for inherited in (listener, channel, *self._copies.values()):
                inherited.close()  # an open end here would keep an asker from seeing that the nursery is gone
            self._become(parent, order, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._copies[pid] = channel
        selector.register(channel, selectors.EVENT_READ, pid)
        with suppress(OSError):
            channel.sendall(b"%d\n" % pid)

    def _become(self, parent: int, order: dict[str, Any], descriptors: list[int]) -> None:
        """Turn this copy into the flow run's process; never returns."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:
                return  # the nursery died before it could be promised
            signal.set_wakeup_fd(-1)
            for ended in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(ended, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(order["environment"])
            os.chdir(order["folder"])
            code = self.run(order)
        except BaseException:  # noqa: BLE001 -- nothing above this would print it
            sys.excepthook(*sys.exc_info())
        finally:
            _end(code)

    def _reap(self, selector: selectors.BaseSelector) -> None:
        for pid in list(self._copies):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                channel = self._copies.pop(pid)
                selector.unregister(channel)
                with channel, suppress(OSError):
                    channel.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def _abandon(self, selector: selectors.BaseSelector, pid: int) -> None:
        """End a copy whose asker is gone: whoever killed that meant the flow run."""
        channel = self._copies.pop(pid, None)
        if channel is None:
            return  # it ended at the same moment and was reaped before
        selector.unregister(channel)
        channel.close()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def run_engine(_: dict[str, Any]) -> int:
    """Run Prefect's engine, which reads the flow run from the environment, and return its exit code."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    sys.argv = ["prefect.engine"]
    sys.modules.pop("prefect.engine", None)  # it is run, not imported
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _end(code: int) -> None:
    """End as an interpreter ends: threads finish, and what still waits to be sent is sent."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 -- what Py_Finalize calls
        atexit._run_exitfuncs()  # noqa: SLF001 -- likewise
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    channel.settimeout(10)
    head, descriptors, _, _ = socket.recv_fds(channel, 8, len(_STREAMS))
    try:
        order = _parse(channel, int.from_bytes(head, "big"), len(descriptors))
    except (OSError, ValueError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    channel.settimeout(None)
    return order, list(descriptors)


def _parse(channel: socket.socket, size: int, streams: int) -> dict[str, Any]:
    text = b""
    while len(text) < size:
        piece = channel.recv(size - len(text))
        if not piece:
            raise OSError("the asker left")
        text += piece
    order = json.loads(text)
    if not isinstance(order, dict) or streams != len(_STREAMS):
        raise ValueError("that is no order")
    return order


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(64)
    return listener


def main() -> None:
    """Import everything, then serve."""
    for name in MODULES:
        importlib.import_module(name)
    great_expectations()  # quietly, and without what only other expectations need
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        print(f"a flow run cannot be copied from a process with threads ({names})", flush=True)
    Nursery(Path(os.environ["DELIVERY_STATE_DIR"]) / SOCKET, run_engine).serve()


if __name__ == "__main__":
    main()
