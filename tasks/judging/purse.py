"""What judges have used, by a key, in a file: a run that is killed, or done again, has not spent less for it.

Every change is one transaction, so threads and processes may share a purse, and two runs of one night share its money.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tasks.scoring.small_file import SmallFile

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS spent (key TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, "
    "pusd TEXT NOT NULL, uncounted INTEGER NOT NULL) WITHOUT ROWID"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What was used, with what is set aside for calls under way.

    Attributes:
        calls: Calls that may have been billed.
        tokens: Input and output; of calls that were not counted, the most they can have used.
        pusd: Their cost by the prices that are known, pico-USD.
        uncounted: Calls whose use the server did not say.
    """

    calls: int = 0
    tokens: int = 0
    pusd: int = 0
    uncounted: int = 0

    def plus(self, *, calls: int = 0, tokens: int = 0, pusd: int = 0, uncounted: int = 0) -> Used:
        """Return the sum of both."""
        return replace(
            self,
            calls=self.calls + calls,
            tokens=self.tokens + tokens,
            pusd=self.pusd + pusd,
            uncounted=self.uncounted + uncounted,
        )


class Purse(SmallFile):
    """A file of what was used.

    Args:
        path: The file; it and its folder are made where they are not there. None keeps it in memory.

    Raises:
        InputError: The file is no purse.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, _TABLE, lacks="it does not say what judges used", cure="move it away")

    def used(self, key: str) -> Used:
        """Return what was used under a key."""
        with self._lock:
            return self._read(key)

    def change(self, key: str, change: Callable[[Used], Used]) -> None:
        """Put what follows from what was used in its place, in one transaction; nothing changes where that raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                found = change(self._read(key))
                row = (key, found.calls, found.tokens, str(found.pusd), found.uncounted)
                self._connection.execute("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?)", row)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _read(self, key: str) -> Used:
        query = "SELECT calls, tokens, pusd, uncounted FROM spent WHERE key = ?"
        row = self._connection.execute(query, (key,)).fetchone()
        return Used() if row is None else Used(calls=row[0], tokens=row[1], pusd=int(row[2]), uncounted=row[3])
