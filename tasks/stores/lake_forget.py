"""A user's data out of the lake: the calls, and whatever belongs to them in any table, by the hash of the user's id.

Pages of examples beside the lake that show one of the calls go as well. The calls go last: a deletion that was killed
finds them again and goes on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import InputError
from tasks.interactions.counts import Cared
from tasks.stores.example_pages import drop_pages_of
from tasks.stores.lake_care import rewrite, tables_of, vacuum
from tasks.stores.lake_rows import INTERACTIONS
from tasks.stores.lake_side import ASIDE, REJECTED
from tasks.stores.lake_sql import connect, list_files
from tasks.stores.lake_table import files_of, open_table

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^",;\s{}\[\]]+)')
_HOLDERS: Final = (INTERACTIONS, ASIDE)


def hash_user(user: str) -> str:
    """Return the hash of a user's id, as the log has it."""
    return hashlib.sha256(user.encode()).hexdigest()


def forget_user(root: Path, user_hash: str, *, dry_run: bool) -> tuple[Cared, ...]:
    """Delete a user's rows from every table, the files they stood in, and the pages of examples that show them.

    Args:
        root: Folder of the lake.
        user_hash: SHA-256 of the user's id.
        dry_run: Only count the rows.

    Returns:
        What was deleted from which table. Readers that are at work meanwhile may have to start again.

    Raises:
        InputError: It is no SHA-256.
    """
    if not _DIGEST.fullmatch(user_hash):
        raise InputError.of("user_hash", user_hash[:80], "64 hex digits, the SHA-256 of the user's id")
    calls = _calls_of(root, user_hash)
    done = [drop_pages_of(root, calls, dry_run=dry_run)]
    for name, table in tables_of(root):
        columns = {field.name for field in table.schema().fields}
        if name == REJECTED:
            done.append(rewrite(root, name, lambda rows: _without_lines(rows, user_hash, calls), dry_run=dry_run))
        elif "interaction_id" in columns or "user_hash" in columns:
            done.append(rewrite(root, name, lambda rows: _without_calls(rows, user_hash, calls), dry_run=dry_run))
    if not dry_run:
        vacuum(root, hours=0, dry_run=False)
        drop_pages_of(root, calls, dry_run=False)  # an evaluation at work meanwhile may have read the calls before
    return tuple(one for one in done if one.files_before)


def _calls_of(root: Path, user_hash: str) -> frozenset[str]:
    """Return the ids of a user's calls, stored or set aside."""
    found: set[str] = set()
    for name in _HOLDERS:
        table = open_table(root / name)
        files = files_of(table) if table else []
        if files:
            sql = (
                "SELECT DISTINCT interaction_id FROM "  # noqa: S608 -- quoted
                f"read_parquet([{list_files(files)}], union_by_name = true) WHERE {{}} OR sha256(unit) = $user"
            )
            known = any(field.name == "user_hash" for field in table.schema().fields) if table else False
            with connect() as connection:
                rows = connection.sql(sql.format("user_hash = $user" if known else "false"), params={"user": user_hash})
                found |= {name for (name,) in rows.fetchall()}
    return frozenset(found)


def _without_calls(rows: pa.Table, user_hash: str, calls: frozenset[str]) -> pa.Table:
    gone = pa.array([False] * rows.num_rows)
    if "interaction_id" in rows.column_names and calls:
        gone = pc.is_in(rows["interaction_id"], value_set=pa.array(sorted(calls), pa.string()))
    if "user_hash" in rows.column_names:
        gone = pc.or_(gone, pc.fill_null(pc.equal(rows["user_hash"], user_hash), False))  # noqa: FBT003
    return rows.filter(pc.invert(gone))


def _without_lines(rows: pa.Table, user_hash: str, calls: frozenset[str]) -> pa.Table:
    wanted = {user_hash.encode(), *(name.encode() for name in calls)}
    kept = [not _names(line, user_hash, wanted) for line in rows["line"].to_pylist()]
    return rows.filter(pa.array(kept, pa.bool_()))


def _names(line: bytes, user_hash: str, wanted: Iterable[bytes]) -> bool:
    """Tell whether a line that could not be read names the user or one of the calls, in any of its words."""
    words = {word for pair in _WORD.findall(line) for word in pair if word}
    return not words.isdisjoint(wanted) or any(hashlib.sha256(word).hexdigest() == user_hash for word in words)
