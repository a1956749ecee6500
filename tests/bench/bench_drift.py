"""Drift and its alarms: what they find, how often they are wrong, and what they cost; one row a claim.

Run it with ``python tests/bench/bench_drift.py``; ``--no-evidently`` leaves out the peer, which is otherwise installed
into a temporary environment. Seeded; about five minutes on two cores, and 2 GB of disk.
"""
# ruff: noqa: S608, T201 - names and paths are our own; a table is printed

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

import duckdb

sys.path.append(str(Path(__file__).resolve().parents[2]))

import drift_quality

from tasks.drift.baseline import About, StoredBaseline, make_baseline
from tasks.drift.nights import Watched
from tasks.drift.numeric import NumberRule, compare_scans
from tasks.drift.scan import ScanSpec, scan_relation
from tasks.evaluation.summary import BIN_RATIO, SMALLEST

ROWS, MANY_ROWS = 1_000_000, 10_000_000
NUMBERS = ("latency_ms", "ttft_ms", "input_tokens", "output_tokens", "cost_pusd", "quality")
WORDS = ("finish_reason", "model")
WATCHED = tuple(Watched(name=name) for name in NUMBERS)
SPEC = ScanSpec(numbers=WATCHED, categories=WORDS, units=("user_hash",))
MAX_CPU_RATIO, MIN_SPEEDUP, MAX_MEMORY_MB = 1.5, 15, 500
PEER = ("evidently==0.7.23", "pandas<3")
PEER_SCRIPT = """
import sys, time, pandas as pd
from evidently import Dataset, DataDefinition, Report
from evidently.presets import DataDriftPreset
numbers, words = sys.argv[3].split(","), sys.argv[4].split(",")
old, new = (pd.read_parquet(path, columns=numbers + words) for path in sys.argv[1:3])
start = time.process_time()
definition = DataDefinition(numerical_columns=numbers, categorical_columns=words)
sides = [Dataset.from_pandas(side, data_definition=definition) for side in (new, old)]
result = Report([DataDriftPreset()]).run(*sides).dict()
print(time.process_time() - start, len(result["metrics"]))
"""


def write_rows(path: Path, rows: int, seed: float) -> None:
    """Write calls with heavy tails, of a tenth as many users."""
    normal = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
    sql = (
        f"SELECT DATE '2026-03-02' + (i % 14)::INT AS date_utc, "
        f"'user-' || (random() * {rows // 10})::INT AS user_hash, "
        f"exp(6 + 0.7 * {normal}) AS latency_ms, exp(4 + 0.5 * {normal}) AS ttft_ms, "
        f"exp(5 + {normal})::BIGINT AS input_tokens, exp(4 + {normal})::BIGINT AS output_tokens, "
        f"(1e8 * exp(0.5 * {normal}))::BIGINT AS cost_pusd, random() AS quality, "
        "CASE WHEN random() < 0.9 THEN 'stop' ELSE 'length' END AS finish_reason, "
        f"'model-' || (random() * 5)::INT AS model FROM range({rows}) t(i)"
    )
    with duckdb.connect() as db:
        db.execute("SET threads = 1")
        db.execute(f"SELECT setseed({seed})")
        db.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")


def scan_bare(path: Path) -> str:
    """Read the same statistics in plain SQL: moments, 7 quantiles and bins of each number, counts of each word."""
    with duckdb.connect() as db:
        wanted = ", ".join(
            f"count({name}), avg({name}), stddev({name}), "
            f"quantile_cont({name}, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])"
            for name in NUMBERS
        )
        db.execute(f"SELECT {wanted} FROM '{path}'").fetchall()
        for name in NUMBERS:
            bins = f"CASE WHEN {name} < {SMALLEST} THEN 0 ELSE 1 + floor(ln({name} / {SMALLEST}) / ln({BIN_RATIO})) END"
            db.execute(f"SELECT ({bins})::SMALLINT, count(*) FROM '{path}' GROUP BY 1").fetchnumpy()
        for name in WORDS:
            db.execute(f"SELECT {name}, count(*) FROM '{path}' GROUP BY 1").fetchall()
    return f"{len(NUMBERS)} numbers, {len(WORDS)} words"


def compare_stored(path: Path) -> str:
    """Scan a window and hold it against the stored baseline beside it."""
    baseline = StoredBaseline.from_bytes(path.with_name("baseline").read_bytes())
    with duckdb.connect() as db:
        window = scan_relation(db.read_parquet(str(path)), SPEC)
    effects = compare_scans(window, baseline.scan, NumberRule(watched=WATCHED, categories=WORDS))
    return f"{len(effects)} effects with intervals, clustered by user"


def run_one(name: str, path: Path) -> None:
    """Do one job in this process and print what it took."""
    start = time.process_time()
    found = {"bare": scan_bare, "ours": compare_stored}[name](path)
    cpu = time.process_time() - start
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_s": cpu, "memory_mb": memory_mb, "found": found}))


def measure(name: str, path: Path, times: int) -> tuple[float, float, str]:
    """Return the least CPU seconds and the largest memory of several processes, without imports."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name, str(path)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(times)]
    return min(run["cpu_s"] for run in runs), max(run["memory_mb"] for run in runs), runs[0]["found"]


def measure_peer(folder: Path) -> float | None:
    """Return the CPU seconds of Evidently's preset on the same columns; None where it cannot be installed."""
    place = folder / "peer"
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER],
        capture_output=True,
        check=False,
    )
    if installed.returncode:
        return None
    files = [str(folder / name) for name in ("old.parquet", "new.parquet")]
    ran = subprocess.run(
        [python, "-W", "ignore", "-c", PEER_SCRIPT, *files, ",".join(NUMBERS), ",".join(WORDS)],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    return float(ran.stdout.split()[-2]) if ran.returncode == 0 else None


def measure_costs(folder: Path, *, with_peer: bool) -> list[tuple[str, str, str, bool]]:
    """Return the claims about time and memory."""
    for name, rows, seed in (("old", ROWS, 0.1), ("new", ROWS, 0.2), ("many", MANY_ROWS, 0.3)):
        write_rows(folder / f"{name}.parquet", rows, seed)
    with duckdb.connect() as db:
        about = About(name="bench", version=1, application="bench", start=drift_quality.START, end=drift_quality.END)
        stored = make_baseline(db.read_parquet(str(folder / "old.parquet")), SPEC, about).to_bytes()
    (folder / "baseline").write_bytes(stored)
    bare_s, _, _ = measure("bare", folder / "new.parquet", 5)
    ours_s, ours_mb, found = measure("ours", folder / "new.parquet", 5)
    many_s, many_mb, _ = measure("ours", folder / "many.parquet", 1)
    claims = [
        (f"stored baseline of {ROWS:,} rows, 14 nights", f"{len(stored) / 1024:.1f} KB", "<= 10 KB",
         len(stored) <= 10240),
        (f"{ROWS:,} rows: {ours_s:.2f} CPU-s, bare SQL {bare_s:.2f}; {found}", f"{ours_s / bare_s:.2f} x",
         f"<= {MAX_CPU_RATIO} x", ours_s / bare_s <= MAX_CPU_RATIO),
        (f"{MANY_ROWS:,} rows: {many_s:.1f} CPU-s ({ours_mb:.0f} MB at {ROWS:,})", f"{many_mb:.0f} MB",
         f"< {MAX_MEMORY_MB} MB", many_mb < MAX_MEMORY_MB),
    ]  # fmt: skip
    peer_s = measure_peer(folder) if with_peer else None
    if peer_s is None:
        print("Evidently: not installed here, so not compared")
    else:
        claims.append((
            f"against Evidently's preset, {peer_s:.1f} CPU-s without import and reading", f"{peer_s / ours_s:.0f} x",
            f">= {MIN_SPEEDUP} x", peer_s / ours_s >= MIN_SPEEDUP,
        ))  # fmt: skip
    return claims


def main(arguments: list[str]) -> int:
    """Print the table; return how many claims do not hold."""
    if shutil.disk_usage(tempfile.gettempdir()).free < 3e9:
        print(f"3 GB of free disk are needed in {tempfile.gettempdir()}")
        return 1
    print(f"{os.cpu_count()} cores", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="drift") as name:
        parts: list[Callable[[], Iterable[tuple[str, str, str, bool]]]] = [
            drift_quality.alarm_claims,
            drift_quality.first_night_claims,
            drift_quality.text_claims,
            lambda: measure_costs(Path(name), with_peer="--no-evidently" not in arguments),
        ]
        for part in parts:
            for what, result, wanted, holds in part():
                print(f"{what:<100} {result:>22}   wanted {wanted:<12} {'PASS' if holds else 'FAIL'}", flush=True)
                failed += not holds
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(min(main(sys.argv[1:]), 1))
