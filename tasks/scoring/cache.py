"""Scores that were paid for once: a file of scores by the digest of who judged and what was judged.

It holds numbers and short labels, never a text that was judged. Errors are not kept: they are tried again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tasks.scoring.small_file import SmallFile

_CHUNK: Final = 500
Value = Mapping[str, object]


class ScoreCache(SmallFile):
    """A file of scores; several threads and processes may use it at once.

    Args:
        path: The file; it and its folder are made where they are not there.

    Raises:
        InputError: The file is no cache.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(
            path,
            "PRAGMA synchronous=NORMAL",
            "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
            lacks="it is no cache of scores",
            cure="delete it",
        )

    def find(self, keys: Sequence[str]) -> dict[str, dict[str, object]]:
        """Return the values that are known, by key."""
        found: dict[str, dict[str, object]] = {}
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, value FROM scores WHERE key IN ({marks})"  # noqa: S608 - marks only
            with self._lock:
                rows = self._connection.execute(query, part).fetchall()
            found |= {key: json.loads(value) for key, value in rows}
        return found

    def keep(self, values: Iterable[tuple[str, Value]]) -> None:
        """Keep values; what is known already is replaced."""
        rows = [(key, json.dumps(value, sort_keys=True)) for key, value in values]
        if rows:
            with self._lock:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
                self._connection.execute("COMMIT")


def cache_key(identity: str, content: object) -> str:
    """Return the key of one judgement.

    Args:
        identity: Digest of who judges: code, model, prompt, parameters.
        content: What is judged, as JSON; what JSON does not know counts by its ``repr``.
    """
    canonical = json.dumps([identity, content], sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
