"""The days of self-hosted models: read from the log, and what was allocated and what was idle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

import duckdb
import pyarrow as pa

from tasks.costs.gpu_hours import HOURS_A_DAY, GpuHours, HostedUsage, busy_share, hosted_rates
from tasks.costs.line import Rollup
from tasks.costs.rates import Layer, Rate

_MONEY: Final = pa.decimal128(38, 0)
HOSTED_SCHEMA: Final = pa.schema(
    [
        pa.field("day", pa.date32(), nullable=False),
        pa.field("provider", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("gpu_hours", pa.int64(), nullable=False),
        *(pa.field(name, _MONEY, nullable=False) for name in ("total_pusd", "allocated_pusd", "idle_pusd")),
        pa.field("busy_share", pa.float64(), nullable=False),
    ]
)
"""The columns of the table of self-hosted days; allocated and idle are exactly the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedDay:
    """How one UTC day of machines was used.

    Attributes:
        entry: What they cost.
        usage: What they did, over all applications.
    """

    day: date
    entry: GpuHours
    usage: HostedUsage

    def rates(self) -> tuple[Rate, ...]:
        """Return what the tokens of the day cost."""
        return hosted_rates(self.entry, self.usage, self.day)


def read_usage(connection: duckdb.DuckDBPyConnection, entry: GpuHours) -> HostedUsage:
    """Return what a self-hosted model did in the calls of the view ``interactions``."""
    ((calls, inputs, outputs, busy_ms),) = connection.execute(_USAGE, [entry.provider, entry.model]).fetchall()
    return HostedUsage(calls=calls, input_tokens=inputs, output_tokens=outputs, busy_ms=busy_ms)


def hosted_table(days: Iterable[HostedDay], lines: Sequence[Rollup]) -> pa.Table:
    """Return what each model's day cost, and how much of it the calls of the lines bear."""
    rows = [_row(one, lines) for one in days]
    return pa.Table.from_pylist(rows, schema=HOSTED_SCHEMA)


def _row(one: HostedDay, lines: Sequence[Rollup]) -> Mapping[str, object]:
    entry, total = one.entry, one.entry.day_pusd
    allocated = sum(line.cost_pusd or 0 for line in lines if _is_of(line, entry))
    return {
        "day": one.day,
        "provider": entry.provider,
        "model": entry.model,
        "gpu_hours": entry.gpus * HOURS_A_DAY,
        "total_pusd": Decimal(total),
        "allocated_pusd": Decimal(allocated),
        "idle_pusd": Decimal(total - allocated),
        "busy_share": float(busy_share(entry, one.usage)),
    }


def _is_of(line: Rollup, entry: GpuHours) -> bool:
    found = (line.key.price_layer, line.key.provider, line.key.model)
    return found == (Layer.GPU_HOURS, entry.provider, entry.model)


_USAGE: Final = """
SELECT count(*), CAST(coalesce(sum(input_tokens), 0) AS BIGINT), CAST(coalesce(sum(output_tokens), 0) AS BIGINT),
    CAST(coalesce(sum(CAST(round(latency_ms) AS BIGINT)), 0) AS BIGINT)
FROM interactions WHERE provider = $1 AND model = $2 AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL
"""
