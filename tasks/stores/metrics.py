"""The metrics store: what every evaluation measured, as time series in a small table of the lake.

One row a measured value; a window that is evaluated again replaces its rows. SQL sees the table as the view
``metrics`` of a DuckDB connection that reaches no file and no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import InputError
from tasks.stores.lake import Lake

METRICS: Final = "metrics"
METRIC_NAMES: Final = (
    "interactions", "latency_p95_ms", "failed_share", "toxic_share", "quality_mean", "cost_usd_per_day",
    "cost_coverage", "drift", "top_user_share", "coverage_missing_share", "drift.question_text", "drift.answer_text",
    "drift.question_meaning", "drift.answer_meaning",
)  # fmt: skip
"""What is measured; shares run from 0 to 1. A scorer's mean is ``scorer.<name>``."""
SCORER_PREFIX: Final = "scorer."
_LOCK: Final = """
SET TimeZone = 'UTC'; SET python_enable_replacements = false; SET enable_external_access = false;
SET lock_configuration = true
"""
_UTC: Final = pa.timestamp("us", tz="UTC")
METRICS_SCHEMA: Final = pa.schema(
    [
        pa.field("application", pa.string(), nullable=False),
        pa.field("release_digest", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("deployment_id", pa.string()),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("window", pa.string(), nullable=False),
        pa.field("window_start", _UTC, nullable=False),
        pa.field("window_end", _UTC, nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("outcome", pa.string()),
    ]
)
"""``segment`` is empty for a whole release; ``low`` and ``high`` are one-sided 95 % bounds, NULL where unknown;
``outcome`` is that of the check it decided, NULL where none did; ``deployment_id`` is NULL for what was never rolled
out."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The time series of a lake.

    Args:
        lake: Where they are.
    """

    lake: Lake

    def replace(self, application: str, window: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Put what was measured in a window into the place of what was measured in it before.

        Args:
            application: What users call.
            window: Its label.
            rows: Values of ``METRICS_SCHEMA``, all of this application and window.

        Raises:
            InputError: A row is of another application or window.
        """
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=METRICS_SCHEMA)
        self.lake.replace(METRICS, {"application": application, "window": window}, table)

    def series(
        self,
        application: str,
        metric: str,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        release: str | None = None,
        segment: str | None = "",
    ) -> pa.Table:
        """Return one metric over time.

        Args:
            application: What users call.
            metric: One of ``METRIC_NAMES``, or ``scorer.<name>``.
            since: Windows that end after it, UTC.
            until: Windows that begin before it, UTC.
            release: Digest of a release, or its first digits; None is every release.
            segment: ``column=value``; empty is the whole release, None is everything.

        Returns:
            Rows of ``METRICS_SCHEMA``, by time, release and segment; ``to_pandas()`` makes a frame of them.

        Raises:
            InputError: There is no such metric, or a time has no time zone.
        """
        if metric not in METRIC_NAMES and not metric.startswith(SCORER_PREFIX):
            raise InputError.of("metric", metric, [*METRIC_NAMES, f"{SCORER_PREFIX}<name>"])
        rows = self.lake.read(METRICS, {"application": application, "metric": metric})
        if rows is None:
            return METRICS_SCHEMA.empty_table()
        for at, column, keeps in ((since, "window_end", pc.greater), (until, "window_start", pc.less)):
            if at is not None:
                rows = rows.filter(keeps(rows[column], pa.scalar(_aware(at), _UTC)))
        if release is not None:
            rows = rows.filter(pc.starts_with(rows["release_digest"], release))
        if segment is not None:
            rows = rows.filter(pc.equal(rows["segment"], segment))
        return rows.sort_by([(name, "ascending") for name in ("window_end", "release_digest", "segment")])

    def query(self, sql: str) -> pa.Table:
        """Return what a SELECT says of the view ``metrics``.

        Args:
            sql: One statement in DuckDB's SQL that reads.

        Raises:
            InputError: It is no single statement that reads, or DuckDB does not understand it.
        """
        rows = self.lake.read(METRICS)
        # A database of its own: what is locked here must not be locked for the readers of the lake.
        with duckdb.connect(":memory:") as connection:
            connection.register(METRICS, rows if rows is not None else METRICS_SCHEMA.empty_table())
            connection.execute(_LOCK)
            try:
                statements = connection.extract_statements(sql)
                if [str(one.type.name) for one in statements] != ["SELECT"]:
                    raise InputError.of("sql", sql[:80], "one SELECT, such as: SELECT * FROM metrics LIMIT 10")
                return connection.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                said = str(error).splitlines()[0]
                raise InputError(f"sql: {said}; columns of metrics: {', '.join(METRICS_SCHEMA.names)}") from error


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise InputError.of("time", time.isoformat(), "a time with a time zone")
    return time
