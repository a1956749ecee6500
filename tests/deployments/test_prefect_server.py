"""The garbage of the Prefect server is collected where it stops nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A cursor left in a cycle, its statement not reset; the connection of that cursor, waiting for a transaction; and the
# thread that is to end the transaction making garbage meanwhile.
SCENE = """
import sqlite3, sys, threading, time
from deployments.stack.prefect_server import collect_elsewhere

if sys.argv[2] == "elsewhere":
    collect_elsewhere()
open_transaction = sqlite3.connect(sys.argv[1], isolation_level=None)
waits = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False, timeout=4)
open_transaction.execute("create table t (x)")
open_transaction.execute("begin immediate")
left = [waits.execute("select 1")]
left.append(left)
del left
said = []

def write():
    try:
        waits.execute("insert into t values (1)")
        said.append("written")
    except sqlite3.OperationalError as error:
        said.append(str(error))

writer = threading.Thread(target=write)
writer.start()
time.sleep(0.5)
for _ in range(200_000):
    cycle = []
    cycle.append(cycle)
open_transaction.execute("commit")
writer.join()
print(*said)
"""


@pytest.mark.parametrize(("where", "said"), [("elsewhere", "written"), ("here", "database is locked")])
def test_the_thread_that_ends_a_transaction_is_not_stopped_by_a_connection_that_waits_for_it(
    where: str, said: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SCENE, str(tmp_path / "db"), where]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == said
