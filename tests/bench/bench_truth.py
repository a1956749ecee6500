"""The bill of two weeks of ServeGen, 1,097,564 calls over a clock change, after they were taken in in several ways.

Run it with ``python tests/bench/bench_truth.py``; name some ways to try only these. Each way begins with an empty
lake and ends with the daily rollup of what is stored, which must be the truth table to the last digit.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

sys.path.append(str(Path(__file__).resolve().parents[1] / "costs"))

from test_truth import DATA, at, by_group, expected

from tasks.costs.rollup import add_up
from tasks.interactions.ingest import ingest_file, ingest_folder
from tasks.stores.lake import Lake

CODE = Path(__file__).resolve().parents[2]
START, END = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)
KILLS = 12
CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tasks.interactions.ingest import ingest_folder
from tasks.stores.lake import Lake
print("ready", flush=True)
ingest_folder(Lake(Path(sys.argv[1])), Path(sys.argv[2]), datetime(2025, 5, 1, tzinfo=UTC))
"""
LINES = """
COPY (SELECT 'call-' || n AS interaction_id, 'client-' || client AS application, 200 AS status, 'openai' AS provider,
  strftime(ts_utc AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') AS time, 'm' AS model,
  CAST(input_tokens AS BIGINT) AS input_tokens, CAST(output_tokens AS BIGINT) AS output_tokens
  FROM (SELECT *, row_number() OVER () AS n FROM read_parquet('{trace}')) WHERE {where} {order})
TO '{path}' (FORMAT json)
"""


def write(path: Path, where: str = "true", order: str = "ORDER BY n") -> None:
    """Write calls as lines of the log's own format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = DATA / "traces" / "servegen_msmall_14d.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(LINES.format(trace=trace, where=where, order=order, path=path))


def whole(lake: Lake, logs: Path) -> None:
    """One file, in its order."""
    write(logs / "a.jsonl")
    ingest_folder(lake, logs, END)


def shuffled(lake: Lake, logs: Path) -> None:
    """One file, in no order: each batch has every day."""
    write(logs / "a.jsonl", order="ORDER BY hash(n)")
    ingest_folder(lake, logs, END)


def sharded(lake: Lake, logs: Path) -> None:
    """Four files that share every day."""
    for shard in range(4):
        write(logs / f"{shard}.jsonl", f"hash(n) % 4 = {shard}")
    ingest_folder(lake, logs, END)


def twice(lake: Lake, logs: Path) -> None:
    """The same calls in a second file; its lines begin with another one, so that it is another source."""
    write(logs / "a.jsonl")
    write(logs / "b.jsonl", order="ORDER BY n DESC")
    done = ingest_folder(lake, logs, END)
    assert done.duplicates * 2 == done.read == done.stored + done.duplicates


def parts(lake: Lake, logs: Path) -> None:
    """A file that grows, cut within its lines."""
    write(logs.with_name("all.jsonl"))
    content = logs.with_name("all.jsonl").read_bytes()
    logs.mkdir()
    for tenth in range(1, 11):
        with (logs / "a.jsonl").open("ab") as handle:
            handle.write(content[len(content) * (tenth - 1) // 10 : len(content) * tenth // 10])
        ingest_folder(lake, logs, END)


def late(lake: Lake, logs: Path) -> None:
    """A tenth of every day's calls after all the others."""
    for name, where in (("a", "hash(n) % 10 > 0"), ("b", "hash(n) % 10 = 0")):
        write(logs / f"{name}.jsonl", where)
        ingest_file(lake, logs / f"{name}.jsonl", END)


def killed(lake: Lake, logs: Path) -> None:
    """Killed at random moments, and begun again each time."""
    write(logs / "a.jsonl", order="ORDER BY hash(n)")
    draw = random.Random(20250322)
    for _ in range(KILLS):
        command = [sys.executable, "-c", CHILD, str(lake.root), str(logs)]
        with subprocess.Popen(command, cwd=CODE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(draw.uniform(0.2, 4))
            child.kill()
    ingest_folder(lake, logs, END)


WAYS: dict[str, Callable[[Lake, Path], None]] = {
    way.__name__: way for way in (whole, shuffled, sharded, twice, parts, late, killed)
}


def main(names: list[str]) -> int:
    """Print a line for each way; return how many differ from the truth."""
    wrong, truth = 0, expected("cost_servegen_msmall_14d.csv", "cost_usd_gpt_4o")
    for name in names or list(WAYS):
        started = time.process_time()
        with tempfile.TemporaryDirectory(prefix="truth-") as folder:
            lake = Lake(Path(folder) / "lake")
            WAYS[name](lake, Path(folder) / "logs")
            with lake.query(START, END) as connection:
                found = by_group(add_up(connection, at()))
        wrong += found != truth
        calls, cost = sum(row[0] for key, row in found.items() if key[1] == "ALL"), found == truth
        said = "the truth table" if cost else "NOT the truth table"
        sys.stdout.write(f"{name:9} {calls:9} calls  {said}  {time.process_time() - started:6.1f} CPU-s\n")
        sys.stdout.flush()
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
