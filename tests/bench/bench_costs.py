"""What it costs to say what calls cost: one row a claim, as ratios.

Run it with ``python tests/bench/bench_costs.py``; a number of rows may follow. Each contender is a process of its own,
which says its CPU seconds and its largest memory; the rows lie in a temporary folder that is removed. Half a minute on
two cores, and 1 GB of disk.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import duckdb

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rates import Rate
from tasks.costs.rollup import add_up
from tasks.costs.usage import UsageKey
from tasks.interactions.columns import SCHEMA

ROWS = 10_000_000
SAMPLE = 20_000
DAY = date(2026, 11, 1)
MODELS = (
    ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai", "gpt-5.1"), ("openai", "o3"),
    ("anthropic", "claude-sonnet-4-5"), ("anthropic", "claude-haiku-4-5"), ("google", "gemini-2.5-flash"),
    ("google", "gemini-2.5-pro"), ("mistral", "mistral-large-latest"), ("deepseek", "no-such-model"),
)  # fmt: skip
MAX_CPU_RATIO, MAX_MEMORY_MB, MIN_SPEEDUP = 1.5, 500, 300
_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE", "bool": "BOOLEAN"}


def write_rows(folder: Path, rows: int) -> None:
    """Write calls of one day: 10 models, 5 applications of 4 releases each, every column of the log but the texts."""
    drawn = {
        "interaction_id": "'c' || i",
        "application": "'app-' || (h % 5)",
        "release_digest": "md5('r' || (h % 5)) || md5('v' || (h // 5 % 4))",
        "time_utc": f"TIMESTAMPTZ '{DAY} 00:00:00+00' + to_milliseconds(i * 86400000 // {rows})",
        "provider": f"{[provider for provider, _ in MODELS]}[1 + h // 20 % 10]",
        "model": f"{[model for _, model in MODELS]}[1 + h // 20 % 10]",
        "prompt_name": "'answer'",
        "prompt_version": "1 + h // 5 % 4",
        "input_tokens": "CASE WHEN h % 500 > 0 THEN CAST(40 + exp(3 + 6 * ((h // 200) % 10000) / 10000) AS BIGINT) END",
        "output_tokens": "CASE WHEN h % 500 > 0 THEN 10 + h // 7 % 700 END",
        "cached_input_tokens": "CASE WHEN h % 3 = 0 THEN 32 END",
        "reasoning_tokens": "CASE WHEN h % 4 = 0 THEN 5 END",
        "latency_ms": "100.0 + h % 9000",
        "status": "CASE WHEN h % 500 = 0 THEN 429 ELSE 200 END",
        "schema_version": "2",
        "source": "'native'",
        "team": "'team-' || (h % 5)",
    }
    columns = [
        f"{drawn.get(name, 'NULL')}::{_TYPES.get(str(SCHEMA.field(name).type), 'VARCHAR')} AS {name}"
        for name in SCHEMA.names
        if name not in {"date_utc", "time_utc", "tags", "input_text", "context_text", "output_text"}
    ]
    columns += [f"DATE '{DAY}' AS date_utc", f"{drawn['time_utc']} AS time_utc", "NULL::VARCHAR[] AS tags"]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"COPY (SELECT {', '.join(columns)} FROM "  # noqa: S608 -- own names
            f"(SELECT i, CAST(hash(i) % 1000000007 AS BIGINT) AS h FROM range({rows}) t(i))) "
            f"TO '{folder}' (FORMAT parquet, FILE_SIZE_BYTES '64MB')"
        )


def open_rows(folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection with a view of the rows."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"CREATE VIEW interactions AS SELECT * FROM read_parquet('{folder}/*.parquet')")  # noqa: S608 -- own
    return connection


def rates_of(key: UsageKey) -> tuple[Rate, ...]:
    """Return what a key's tokens cost."""
    return find_rates(PriceBook(), key.provider, key.model, key.date_utc, tier=key.service_tier)


def add_up_bare(folder: Path) -> str:
    """Join every row with its rate, multiply, and group by what the rollup groups by; nothing is looked at twice."""
    with open_rows(folder) as connection:
        connection.execute(
            "CREATE TABLE rates (provider VARCHAR, model VARCHAR, day DATE, input BIGINT, cached BIGINT, output BIGINT)"
        )
        for provider, model in MODELS:
            for rate in find_rates(PriceBook(), provider, model, DAY)[:1]:
                cached = rate.cached_input_pusd_per_unit or rate.input_pusd_per_unit
                prices = [rate.input_pusd_per_unit, cached, rate.output_pusd_per_unit]
                connection.execute("INSERT INTO rates VALUES (?, ?, ?, ?, ?, ?)", [provider, model, DAY, *prices])
        keys = "application, release_digest, prompt_name, prompt_version, provider, model, team, service_tier"
        lines = connection.sql(
            f"SELECT date_utc, {keys}, count(*), count(cost), sum(input_tokens), sum(output_tokens), "  # noqa: S608 -- own
            "sum(cached_input_tokens), sum(cost) FROM ("
            "SELECT i.*, (input_tokens - coalesce(cached_input_tokens, 0)) * r.input "
            "+ coalesce(cached_input_tokens, 0) * r.cached + output_tokens * r.output AS cost "
            "FROM interactions i LEFT JOIN rates r ON i.provider = r.provider AND i.model = r.model "
            f"AND i.date_utc = r.day) GROUP BY date_utc, {keys}"
        ).fetchall()
    return f"{len(lines)} lines, {sum(line[-5] for line in lines)} priced"


def add_up_ours(folder: Path) -> str:
    """Roll the rows up."""
    with open_rows(folder) as connection:
        lines = add_up(connection, rates_of, f"DATE '{DAY}'")
    return f"{len(lines)} lines, {sum(line.priced_requests for line in lines)} priced"


def price_row_by_row(folder: Path) -> str:
    """Price a sample with genai-prices, one call of it a row."""
    from datetime import UTC, datetime

    from genai_prices import Usage, calc_price

    with open_rows(folder) as connection:
        rows = connection.sql(
            "SELECT provider, model, input_tokens, output_tokens, cached_input_tokens FROM interactions "  # noqa: S608
            f"WHERE model <> 'no-such-model' AND input_tokens IS NOT NULL LIMIT {SAMPLE}"
        ).fetchall()
    noon, total = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC), 0.0
    calc_price(Usage(input_tokens=1), "gpt-4o", provider_id="openai", genai_request_timestamp=noon)
    started = time.process_time()
    for provider, model, inputs, outputs, cached in rows:
        usage = Usage(input_tokens=inputs, output_tokens=outputs, cache_read_tokens=cached)
        price = calc_price(usage, model, provider_id=provider, genai_request_timestamp=noon)
        total += float(price.total_price)
    return json.dumps({"cpu_s": time.process_time() - started, "rows": len(rows)})


CONTENDERS: dict[str, Callable[[Path], str]] = {
    "bare": add_up_bare,
    "ours": add_up_ours,
    "row by row": price_row_by_row,
}


def measure(name: str, folder: Path) -> tuple[float, float, str]:
    """Return CPU seconds, largest memory in MB, and what a contender says; it runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, str(folder)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["cpu_s"], found["memory_mb"], found["said"]


def run_one(name: str, folder: Path) -> None:
    """Run a contender and print what it took, after what the imports took."""
    before = time.process_time()
    said = CONTENDERS[name](folder)
    cpu_s = time.process_time() - before
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_s": cpu_s, "memory_mb": memory_mb, "said": said}))  # noqa: T201


def best(name: str, folder: Path, times: int) -> tuple[float, float, str]:
    """Return the least CPU and the largest memory of several runs."""
    runs = [measure(name, folder) for _ in range(times)]
    return min(run[0] for run in runs), max(run[1] for run in runs), runs[0][2]


def main(rows: int) -> int:
    """Print the table; return how many claims do not hold."""
    free_gb = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free_gb < 4:
        print(f"{free_gb:.1f} GB are free in {tempfile.gettempdir()}, 4 are needed")  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory(prefix="costs") as name:
        folder = Path(name) / "rows"
        write_rows(folder, rows)
        size_mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        print(f"{rows:,} calls, {size_mb:,.0f} MB of Parquet, {os.cpu_count()} cores", flush=True)  # noqa: T201
        (bare_s, bare_mb, bare), (ours_s, ours_mb, ours) = (best(name, folder, 3) for name in ("bare", "ours"))
        slow = json.loads(measure("row by row", folder)[2])
    speedup = (slow["cpu_s"] / slow["rows"]) / (ours_s / rows)
    claims = [
        (
            f"rollup: {ours_s:.2f} CPU-s, {ours}",
            f"{ours_s / bare_s:.2f} x",
            f"<= {MAX_CPU_RATIO} x",
            ours_s / bare_s <= 1.5,
        ),
        ("rollup: largest memory", f"{ours_mb:.0f} MB", f"<= {MAX_MEMORY_MB} MB", ours_mb <= MAX_MEMORY_MB),
        ("rollup against genai-prices row by row", f"{speedup:,.0f} x", f">= {MIN_SPEEDUP} x", speedup >= MIN_SPEEDUP),
    ]
    print(f"{'bare join and group: ' + format(bare_s, '.2f') + ' CPU-s, ' + bare:<70} {bare_mb:.0f} MB")  # noqa: T201
    for what, result, wanted, holds in claims:
        print(f"{what:<70} {result:>10}   wanted {wanted:<10} {'PASS' if holds else 'FAIL'}", flush=True)  # noqa: T201
    return sum(1 for claim in claims if not claim[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(min(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS), 1))
