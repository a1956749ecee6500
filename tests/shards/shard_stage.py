"""What tests of shards put on stage: real questions and answers as a day of calls, and what an evaluation leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from flow_stage import START, call, log, register, serve

from tasks.release.model import Release
from tasks.settings import Settings
from tasks.stores.lake import Lake

QUESTIONS = "grounded/halueval_qa.parquet"
HOURS, EACH = 6, 25


def put_on_stage(config: Settings, data_file: Callable[[str], Path], application: str = "faq") -> list[str]:
    """Register two releases, log hours of calls, and return the texts in them."""
    releases = [register(config, application, version) for version in ("1", "2")]
    serve(config, (releases[0],), (releases[0], releases[1]))
    return log_questions(config, releases, data_file)


def log_questions(config: Settings, releases: Sequence[Release], data_file: Callable[[str], Path]) -> list[str]:
    """Log hours of calls of two releases, and return the texts in them."""
    rows = pq.read_table(data_file(QUESTIONS)).slice(0, HOURS * EACH).to_pylist()
    calls = [
        call(
            releases[at % 2],
            at,
            START,
            time=START + timedelta(hours=at // EACH, minutes=at % EACH),
            input_text=row["question"],
            context_text=row["context"],
            output_text=row["answer"],
            latency_ms=100.1 + at / 3,
            route="chat" if at % 3 else "search",
        )
        for at, row in enumerate(rows)
    ]
    log(config, calls)
    return [str(row[name]) for row in rows for name in ("question", "context") if len(str(row[name])) > 40]


def left_behind(config: Settings, application: str = "faq") -> dict[str, pa.Table]:
    """Return every row that an evaluation left in the lake."""
    tables = {name: Lake(config.lake_dir).read(name) for name in ("scores", "summaries", "metrics", "hourly_calls")}
    found = {name: table for name, table in tables.items() if table is not None}
    assert found["scores"].num_rows == HOURS * EACH
    assert found["summaries"].num_rows == 2
    assert set(found["scores"]["application"].to_pylist()) == {application}
    return found


def same_bytes(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables are the same bytes, not only equal: -0.0 is not 0.0, and a NaN is itself."""
    return _bytes(one) == _bytes(other)


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())
