"""Run several flows at the same moment: one process imports everything and forks a child for each order."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "crash")]


def main() -> None:
    """Fork a child for each order of a line, all at once; say how they exited."""
    from crash_run import Order, child

    for line in sys.stdin:
        orders = [Order(**words) for words in json.loads(line)]
        pids = []
        for order in orders:
            pid = os.fork()
            if not pid:
                os.close(0)
                child(order)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps({"pids": pids, "codes": codes}), flush=True)  # noqa: T201 - the answers of this process


if __name__ == "__main__":
    main()
