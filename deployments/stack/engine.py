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
from types import FrameType

SOCKET = "nursery.sock"
"""In the folder of the state; readable by its owner only, because whoever may write to it may run anything."""
_FALLBACK = ("-m", "prefect.engine")
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Run the flow run that the environment names and return its exit code."""
    channel = _connect()
    if channel is None:
        os.execv(sys.executable, [sys.executable, *_FALLBACK])  # noqa: S606 -- this very Python
    order = json.dumps({"environment": dict(os.environ), "folder": os.getcwd()}).encode()  # noqa: PTH109 -- pathlib is slow to import
    socket.send_fds(channel, [len(order).to_bytes(8, "big")], [0, 1, 2])
    channel.sendall(order)
    with channel, channel.makefile("rb") as answers:
        pid = int(answers.readline() or 0)
        if not pid:
            os.execv(sys.executable, [sys.executable, *_FALLBACK])  # noqa: S606 -- this very Python

        def pass_on(number: int, _: FrameType | None) -> None:
            os.kill(pid, number)

        for number in _PASSED_ON:
            signal.signal(number, pass_on)
        code = int(answers.readline() or -signal.SIGKILL)  # the nursery died, and with it the copy
    if code < 0:  # ended by a signal: end by the same, so that the worker sees what happened
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


def _connect() -> socket.socket | None:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.connect(os.path.join(os.environ.get("DELIVERY_STATE_DIR", ""), SOCKET))  # noqa: PTH118 -- as above
    except OSError:
        channel.close()
        return None
    return channel


if __name__ == "__main__":
    sys.exit(main())
