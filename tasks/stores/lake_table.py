"""A Delta table as the lake uses it: commits that must follow on the snapshot they were checked against.

Numbers that belong to rows are written in the commit of the rows, as Delta's application transactions: a source's byte
offset, a counter of each day and application that a commit changed, the state of a batch that was set aside. They
outlive compaction, checkpoints and the vacuum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError

from tasks.errors import ConflictError

COMMIT_ATTEMPTS: Final = 60
"""How often a commit is tried against other writers before it is given up, about a minute in all."""
DAY_KEY: Final = "day:"
ASIDE_KEY: Final = "set-aside:"
KEYS: Final = (DAY_KEY, ASIDE_KEY)
"""How the names of numbers begin that are no offsets of sources."""
_CONFIGURATION: Final = {
    # Statistics are kept in the log, which outlives the rows: no text and no user goes there.
    "delta.dataSkippingNumIndexedCols": "0",
    "delta.checkpointInterval": "50",
}
_T = TypeVar("_T")


def open_table(path: Path) -> DeltaTable | None:
    """Return a table, or None where there is none."""
    return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None


def create_table(path: Path, schema: pa.Schema, partition_by: list[str] | None = None) -> None:
    """Create a table that does not exist yet; its log holds no statistics of values."""
    if open_table(path) is None:
        try:
            DeltaTable.create(path, schema, mode="ignore", partition_by=partition_by, configuration=_CONFIGURATION)
        except DeltaError:
            if open_table(path) is None:  # otherwise somebody else created it meanwhile
                raise


def hide_statistics(table: DeltaTable) -> None:
    """Give a table of an earlier version the configuration of a new one."""
    if _CONFIGURATION.items() - table.metadata().configuration.items():
        table.alter.set_table_properties(dict(_CONFIGURATION))


def files_of(table: DeltaTable, pruning: list[tuple[str, str, object]] | None = None) -> list[str]:
    """Return the paths of the data files, of the partitions asked for."""
    return [unquote(uri) for uri in table.file_uris(file_pruning_predicate=pruning)]


def number_of(table: DeltaTable, key: str) -> int:
    """Return the number kept under a key; 0 where there is none."""
    return table.transaction_version(key) or 0


def next_commit(numbers: Mapping[str, int]) -> CommitProperties:
    """Return the properties of a commit that must follow directly on its snapshot, with the numbers it writes."""
    written = [Transaction(key, number) for key, number in numbers.items()]
    return CommitProperties(app_transactions=written, max_commit_retries=0)


def count_days(table: DeltaTable, changed: Iterable[tuple[date, str]]) -> dict[str, int]:
    """Return the new counters of days and applications whose rows the next commit changes."""
    number, pairs = table.version() + 1, set(changed)
    of_days = {day_key(day): number for day, _ in pairs}
    return of_days | {day_key(day, application): number for day, application in pairs}


def day_key(day: date, application: str | None = None) -> str:
    """Return the key of a day's counter."""
    return f"{DAY_KEY}{day.isoformat()}" + (f":{application}" if application is not None else "")


def commit(what: str, attempt: Callable[[], _T]) -> _T:
    """Try a commit until nobody comes in between.

    Args:
        what: For the message.
        attempt: Opens the table anew, checks, and commits with ``next_commit``.

    Raises:
        ConflictError: Other writers were faster every time.
    """
    for number in range(COMMIT_ATTEMPTS):
        try:
            return attempt()
        except CommitFailedError:
            time.sleep(min(0.02 * (number + 1), 2.0))
    raise ConflictError(f"{what}: other writers were faster {COMMIT_ATTEMPTS} times; run it again")
