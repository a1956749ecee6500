"""Run one flow run in a copy of a process that has everything imported already.

Starting Python and importing Prefect and the flows takes longer than a whole rollback may. So the local stack keeps
one process, the nursery (``nursery.py``), which has them imported and forks a copy for each flow run. The worker
starts this program in the place of ``python -m prefect.engine``; it hands its environment, its folder and its output
to the copy, passes signals on, and ends as the copy ends. Where there is no nursery it becomes Prefect's own engine.

Only the standard library is imported here: every millisecond counts twice.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import BinaryIO, NoReturn

SOCKET = "nursery.sock"
"""In the folder of the state; readable by its owner only, because whoever may write to it may run anything."""
_FALLBACK = ("-m", "prefect.engine")
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Run the flow run that the environment names and return its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # one that comes before there is a copy waits for it
    channel = _ask()
    if channel is None:
        _become_engine()
    with channel, channel.makefile("rb") as answers:
        pid = _number(answers, 0)
        if not pid:
            _become_engine()

        def pass_on(number: int, _: FrameType | None) -> None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)

        for number in _PASSED_ON:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        code = _number(answers, -signal.SIGKILL)  # where the nursery died, the copy died with it
    if code < 0:  # ended by a signal: end by the same, so that the worker sees what happened
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


def _ask() -> socket.socket | None:
    """Send the order to the nursery; None where there is none."""
    order = json.dumps({"environment": dict(os.environ), "folder": os.getcwd()}).encode()  # noqa: PTH109 -- pathlib is slow to import
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.connect(os.path.join(os.environ.get("DELIVERY_STATE_DIR", ""), SOCKET))  # noqa: PTH118 -- as above
        socket.send_fds(channel, [len(order).to_bytes(8, "big")], [0, 1, 2])
        channel.sendall(order)
    except OSError:
        channel.close()
        return None
    return channel


def _become_engine() -> NoReturn:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    os.execv(sys.executable, [sys.executable, *_FALLBACK])  # noqa: S606 -- this very Python


def _number(answers: BinaryIO, otherwise: int) -> int:
    """Return what the nursery says next; something else where it is gone."""
    try:
        return int(answers.readline() or otherwise)
    except OSError:
        return otherwise


if __name__ == "__main__":
    sys.exit(main())
