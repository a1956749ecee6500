"""The rows that an evaluation leaves in the lake: scores a call, and a summary a release and window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.drift.distance import MIN_ROWS
from tasks.evaluation.evidence import Measured
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Outcome
from tasks.release.model import Release
from tasks.scoring.quality import JUDGE_VERSION

SCORES: Final = "scores"
SUMMARIES: Final = "summaries"
HOURS: Final = "hourly_calls"

_UTC: Final = pa.timestamp("us", tz="UTC")
_KEYS: Final = [
    pa.field("application", pa.string(), nullable=False),
    pa.field("release_digest", pa.string(), nullable=False),
    pa.field("window", pa.string(), nullable=False),
    pa.field("judge_version", pa.string(), nullable=False),
]
SCORES_SCHEMA: Final = pa.schema(
    [
        *_KEYS,
        pa.field("interaction_id", pa.string(), nullable=False),
        pa.field("quality", pa.float64()),
        pa.field("toxicity", pa.float64()),
    ]
)
"""One row for each answered call; NULL is an answer that could not be scored."""
SUMMARIES_SCHEMA: Final = pa.schema(
    [
        *_KEYS,
        pa.field("version", pa.string(), nullable=False),
        pa.field("window_start", _UTC, nullable=False),
        pa.field("window_end", _UTC, nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("summary", pa.string(), nullable=False),
    ]
)
"""One row for each release and window; ``summary`` is the JSON of a ``Summary``."""


HOURS_SCHEMA: Final = pa.schema(
    [
        pa.field("application", pa.string(), nullable=False),
        pa.field("window", pa.string(), nullable=False),
        pa.field("hour", _UTC, nullable=False),
        pa.field("calls", pa.int64(), nullable=False),
    ]
)
"""One row for each hour of a window that had a call: what later nights hold their hours against."""


def count_hours(times: pa.ChunkedArray) -> dict[datetime, int]:
    """Return how many of the times fall into each hour, by its first moment, UTC."""
    counts = pc.value_counts(pc.floor_temporal(times, unit="hour"))
    return {row["values"]: row["counts"] for row in counts.to_pylist()}


def hour_rows(application: str, window: Window, hours: Mapping[datetime, int]) -> pa.Table:
    """Return the calls of each hour as rows of ``HOURS_SCHEMA``."""
    keys = {"application": application, "window": window.label}
    rows: list[dict[str, Any]] = [{**keys, "hour": hour, "calls": calls} for hour, calls in sorted(hours.items())]
    return pa.Table.from_pylist(rows, schema=HOURS_SCHEMA)


def hours_before(rows: pa.Table | None) -> dict[datetime, int]:
    """Return the calls of each hour that was stored; of an hour in several windows, the most that any saw."""
    found: dict[datetime, int] = {}
    for row in rows.to_pylist() if rows is not None else ():
        found[row["hour"]] = max(row["calls"], found.get(row["hour"], 0))
    return found


def record_keys(release: Release, window: Window) -> dict[str, str]:
    """Return what identifies the rows of one release and window: a rerun replaces them."""
    return {"application": release.application, "release_digest": release.digest, "window": window.label}


def score_rows(release: Release, window: Window, measured: Measured) -> pa.Table:
    """Return the scores of a release's answers as rows of ``SCORES_SCHEMA``."""
    n = len(measured.interaction_ids)
    constant = {**record_keys(release, window), "judge_version": JUDGE_VERSION}
    columns = {name: pa.array([value] * n, pa.string()) for name, value in constant.items()}
    columns["interaction_id"] = measured.interaction_ids
    for name in ("quality", "toxicity"):
        values = getattr(measured, name)
        columns[name] = pa.array(values, pa.float64(), mask=np.isnan(values))
    return pa.table(columns, schema=SCORES_SCHEMA)


def summary_rows(release: Release, window: Window, summary: Summary, outcome: Outcome) -> pa.Table:
    """Return the summary of a release as the one row of ``SUMMARIES_SCHEMA``."""
    row = {
        **record_keys(release, window),
        "judge_version": JUDGE_VERSION,
        "version": release.spec.version,
        "window_start": window.start,
        "window_end": window.end,
        "outcome": outcome.value,
        "n": summary.n,
        "summary": summary.to_json(),
    }
    return pa.Table.from_pylist([row], schema=SUMMARIES_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A summary as it was kept, with the release and the window it is of."""

    summary: Summary
    release_digest: str
    window: Window


def find_kept(rows: pa.Table | None, before: datetime, at: int) -> Kept | None:
    """Return a window that passed, has enough calls to be compared with, and ended by a moment; None without one.

    Args:
        rows: Rows of ``SUMMARIES_SCHEMA``.
        before: The moment, UTC.
        at: 0 for the oldest, -1 for the latest.
    """
    if rows is None:
        return None
    usable = (
        rows.filter(pc.less_equal(rows["window_end"], pa.scalar(before, _UTC)))
        .filter(pc.field("judge_version") == JUDGE_VERSION)
        .filter(pc.field("outcome") == Outcome.PASS.value)
        .filter(pc.field("n") >= MIN_ROWS)
        .sort_by("window_end")
    )
    if not usable.num_rows:
        return None
    row = {name: usable[name][at].as_py() for name in ("summary", "release_digest", "window_start", "window_end")}
    window = Window(start=row["window_start"], end=row["window_end"])
    return Kept(summary=Summary.from_json(row["summary"]), release_digest=row["release_digest"], window=window)
