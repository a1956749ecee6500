"""The state of a day's bill: open, provisional, closed, restated; and what is remembered to tell them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

from tasks.costs.line import Rollup, known_sum


class DayState(StrEnum):
    """How far a day's bill is to be relied on."""

    OPEN = "open"
    PROVISIONAL = "provisional"
    CLOSED = "closed"
    RESTATED = "restated"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRecord:
    """One edition of one application's bill of one day; a closed edition never changes.

    Attributes:
        zone, day: Whose day it is.
        revision: 1, and one more with each restatement.
        reason: What changed, ``calls`` or ``prices`` or both; None of a first edition.
        usage_token: Changes if and only if the calls of the day did.
        lines_sha256: Digest of the lines.
        prices_sha256: Digest of the prices in them.
        requests, priced_requests: Of the day.
        cost_pusd: What is known of the cost; None where nothing is.
        previous_cost_pusd: The cost of the edition before; None of a first edition, or where nothing was known.
    """

    zone: str
    day: date
    application: str
    revision: int
    state: DayState
    reason: str | None
    usage_token: str
    lines_sha256: str
    prices_sha256: str
    requests: int
    priced_requests: int
    cost_pusd: int | None
    previous_cost_pusd: int | None

    @property
    def is_final(self) -> bool:
        """Whether only late calls or a repricing can still change it."""
        return self.state in {DayState.CLOSED, DayState.RESTATED}


_MONEY: Final = pa.decimal128(38, 0)
DAYS_SCHEMA: Final = pa.schema(
    [
        pa.field("zone", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("application", pa.string(), nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        *(pa.field(name, pa.string(), nullable=False) for name in ("usage_token", "lines_sha256", "prices_sha256")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("requests", "priced_requests")),
        *(pa.field(name, _MONEY) for name in ("cost_pusd", "previous_cost_pusd")),
    ]
)
"""The columns of the table of days: one row an edition."""


def make_record(zone: str, day: date, application: str, lines: Sequence[Rollup], usage_token: str) -> DayRecord:
    """Return the first edition of a day, open."""
    hashes = sorted({line.key.price_sha256 or "" for line in lines})
    return DayRecord(
        zone=zone,
        day=day,
        application=application,
        revision=1,
        state=DayState.OPEN,
        reason=None,
        usage_token=usage_token,
        lines_sha256=lines_digest(lines),
        prices_sha256=_digest(hashes),
        requests=sum(line.requests for line in lines),
        priced_requests=sum(line.priced_requests for line in lines),
        cost_pusd=known_sum(line.cost_pusd for line in lines),
        previous_cost_pusd=None,
    )


def edit_day(
    editions: Sequence[DayRecord], found: DayRecord, *, end: datetime, now: datetime, settle: timedelta
) -> tuple[DayRecord, ...]:
    """Return the editions of a day after it was rolled up anew.

    Args:
        editions: What there is, by revision.
        found: What was rolled up now.
        end: When the day ends.
        now: The present.
        settle: How long after its end a day stays provisional.

    Returns:
        The same where a final edition still says what was found: then nothing has to be written.
    """
    last = editions[-1] if editions else None
    if last is None or not last.is_final:
        state = DayState.OPEN if now < end else DayState.PROVISIONAL if now < end + settle else DayState.CLOSED
        return (replace(found, state=state),)
    if found.lines_sha256 == last.lines_sha256:
        return (*editions[:-1], replace(last, usage_token=found.usage_token))
    reasons = {
        "calls": found.usage_token != last.usage_token,
        "prices": found.prices_sha256 != last.prices_sha256,
    }
    edition = replace(
        found,
        revision=last.revision + 1,
        state=DayState.RESTATED,
        reason=" and ".join(reason for reason, holds in reasons.items() if holds) or "another way of adding up",
        previous_cost_pusd=last.cost_pusd,
    )
    return (*editions, edition)


def needs_roll_up(editions: Sequence[DayRecord], usage_token: str, lines_sha256: str) -> bool:
    """Return whether a day has to be rolled up: it is not final, its calls changed, or its lines are others."""
    last = editions[-1] if editions else None
    found = (usage_token, lines_sha256)
    return last is None or not last.is_final or (last.usage_token, last.lines_sha256) != found


def lines_digest(lines: Sequence[Rollup]) -> str:
    """Return what tells whether two bills are the same."""
    return _digest([repr(line) for line in lines])


def days_table(records: Sequence[DayRecord]) -> pa.Table:
    """Return editions as rows of ``DAYS_SCHEMA``."""
    rows = [asdict(record) | {"state": str(record.state)} | _money(record) for record in records]
    return pa.Table.from_pylist(rows, schema=DAYS_SCHEMA)


def read_days(table: pa.Table | None) -> dict[str, tuple[DayRecord, ...]]:
    """Return the editions of each application, by revision; of one zone and day."""
    found: dict[str, tuple[DayRecord, ...]] = {}
    rows = [] if table is None else table.to_pylist()
    for row in sorted(rows, key=lambda row: (row["application"], row["revision"])):
        values: dict[str, Any] = {item.name: row[item.name] for item in fields(DayRecord)}
        values["state"] = DayState(row["state"])
        values |= {name: None if row[name] is None else int(row[name]) for name in ("cost_pusd", "previous_cost_pusd")}
        found[row["application"]] = (*found.get(row["application"], ()), DayRecord(**values))
    return found


def _money(record: DayRecord) -> dict[str, Decimal | None]:
    return {
        name: None if getattr(record, name) is None else Decimal(getattr(record, name))
        for name in ("cost_pusd", "previous_cost_pusd")
    }


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
