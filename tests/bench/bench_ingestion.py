"""What ingestion costs beside the least anybody can do: read the same lines with DuckDB and append them to Delta.

python tests/bench/bench_ingestion.py [rows] [rows of a larger file ...]

``gated`` is a process that begins with nothing, ``warm`` one that has the gate's library, as a flow run has.

Each way is taken several times in turn, each time in a process of its own, and its least CPU time counts: on a machine
that others use, too, the same work takes half as long again from one minute to the next. Larger files are taken once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROWS, ROUNDS = 1_000_000, 5
WAYS = ("plain", "ingest", "gated", "warm")
CODE = Path(__file__).resolve().parents[2]
MAKE = """
COPY (SELECT 'chatcmpl-' || md5(i::VARCHAR) AS id, 'chat.completion' AS object,
  1709251200 + i * 1209600 // {rows} AS created, 'gpt-4o-2024-08-06' AS model,
  [{{index: 0, message: {{role: 'assistant', content: list_aggregate([md5((i * 16 + k)::VARCHAR) for k in range(13)],
    'string_agg', ' '), refusal: NULL}}, logprobs: NULL, finish_reason: 'stop'}}] AS choices,
  {{prompt_tokens: i % 4000 + 10, completion_tokens: i % 900 + 1, total_tokens: i % 4000 + i % 900 + 11,
    prompt_tokens_details: {{cached_tokens: (i % 4000) // 3, audio_tokens: 0}},
    completion_tokens_details: {{reasoning_tokens: 0, audio_tokens: 0, accepted_prediction_tokens: 0,
      rejected_prediction_tokens: 0}}}} AS usage, 'default' AS service_tier, 'fp_5796ac6771' AS system_fingerprint
  FROM range({rows}) t(i)) TO '{path}' (FORMAT json)
"""
READ = """
SELECT id AS interaction_id, to_timestamp(created) AS time_utc, to_timestamp(created)::DATE AS date_utc, model,
  choices[1].message.content AS output_text, choices[1].finish_reason AS finish_reason,
  usage.prompt_tokens AS input_tokens, usage.completion_tokens AS output_tokens,
  usage.prompt_tokens_details.cached_tokens AS cached_input_tokens,
  usage.completion_tokens_details.reasoning_tokens AS reasoning_tokens, service_tier
FROM read_json('{path}', format = 'newline_delimited')
"""


def make(path: Path, rows: int) -> None:
    """Write lines of about 1 KB as an application of OpenAI's chat logs them."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(MAKE.format(rows=rows, path=path))


def append_plainly(path: Path, folder: Path) -> None:
    """Read the lines with DuckDB and append them to a Delta table, with no check, no offset and no duplicates."""
    import duckdb
    from deltalake import write_deltalake

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        reader = connection.sql(READ.format(path=path)).to_arrow_reader(100_000)
        write_deltalake(folder / "plain", reader, partition_by=["date_utc"], mode="append")


def ingest(path: Path, folder: Path, *, gate: bool) -> None:
    """Take the lines in as the flow does, of which the gate is a part."""
    from datetime import UTC, datetime

    from tasks.interactions.gate import GatePolicy
    from tasks.interactions.ingest import Job, ingest_file
    from tasks.interactions.recipes import Recipe
    from tasks.stores.lake import Lake

    job = Job(recipe=Recipe("openai", "support"), gate=GatePolicy(enabled=gate))
    done = ingest_file(Lake(folder / "lake"), path, datetime(2024, 4, 1, tzinfo=UTC), job=job)
    sys.stdout.write(f"{done.read} {done.stored}\n")


def measure(what: str, path: Path) -> dict[str, float]:
    """Run one thing in a process of its own; return its CPU-seconds and the most memory it held, MB."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = [sys.executable, __file__, "--child", what, str(path), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CODE, env=os.environ)
        return {name: float(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def child(what: str, path: Path, folder: Path) -> None:
    """Do one thing and print what it used."""
    work: dict[str, Callable[[], None]] = {
        "plain": lambda: append_plainly(path, folder),
        "ingest": lambda: ingest(path, folder, gate=False),
        "gated": lambda: ingest(path, folder, gate=True),
        "warm": lambda: ingest(path, folder, gate=True),
    }
    known_s = import_gate() if what == "warm" else 0.0
    work[what]()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"cpu_s": cpu_s() - known_s, "peak_mb": peak_mb}) + "\n")


def import_gate() -> float:
    """Import Great Expectations, as the process that flow runs are copies of has; return what that took."""
    from tasks.interactions.expectations import great_expectations

    before_s = cpu_s()
    great_expectations()
    return cpu_s() - before_s


def cpu_s() -> float:
    """Return the CPU-seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return what each way used, the least of several rounds, and the most memory."""
    found: dict[str, list[dict[str, float]]] = {what: [] for what in WAYS}
    for _ in range(rounds):
        for what in WAYS:
            found[what].append(measure(what, path))
    return {
        what: {"cpu_s": min(one["cpu_s"] for one in runs), "peak_mb": max(one["peak_mb"] for one in runs)}
        for what, runs in found.items()
    }


def main() -> None:
    """Print the table."""
    rows, *larger = [int(value) for value in sys.argv[1:]] or [ROWS]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for size, rounds in ((rows // 5, ROUNDS), (rows, ROUNDS), *((size, 1) for size in larger)):
            path = Path(folder) / f"{size}.jsonl"
            make(path, size)
            found = compare(path, rounds)
            sys.stdout.write(f"{size} rows, {path.stat().st_size / size:.0f} bytes each\n")
            for what, used in found.items():
                ratio = used["cpu_s"] / found["plain"]["cpu_s"]
                line = f"  {what:7} {used['cpu_s']:7.1f} CPU-s  {ratio:5.2f} x plain  {used['peak_mb']:6.0f} MB"
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
