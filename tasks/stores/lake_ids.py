"""Which ids are stored: an index beside the table that can be deleted at any time.

Each run is a sorted list of 64-bit hashes of ids with the days they are on, and names the data files it covers. Data
files never change, so a run is true for as long as they stand, whoever wrote it and whatever was killed. What no run
covers is read before anything is looked up: the index never misses a stored id. It may name one that is gone, which
is why a hit is only a hint where to look: the table decides.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.stores.lake_sql import connect, interaction_files

Hashes = npt.NDArray[np.uint64]
Days = npt.NDArray[np.int32]

MOST_RUNS: Final = 8
"""More runs than these are merged: each one costs a look-up."""
MOST_MERGED: Final = 2**22
"""No run grows beyond this by merging, which keeps memory flat."""
_CHUNK: Final = 2**20
_FILES: Final = 200
_ATTEMPTS: Final = 5
_PART_S: Final = 24 * 3600.0
"""No run is that long in the writing."""
_HASH, _DAY = np.dtype("<u8"), np.dtype("<i4")


@dataclass(frozen=True, slots=True)
class _Run:
    path: Path
    files: frozenset[str]
    count: int

    def chunks(self) -> Iterator[tuple[Hashes, int]]:
        """Yield the hashes in parts that keep memory flat, each with the place of its first one."""
        with self.path.open("rb") as handle:
            for start in range(0, self.count, _CHUNK):
                yield np.fromfile(handle, _HASH, min(_CHUNK, self.count - start)), start

    def days(self) -> Days:
        """Return the days since 1970 in the order of the hashes."""
        return np.fromfile(self.path, _DAY, self.count, offset=8 * self.count)


@dataclass(frozen=True, slots=True)
class IdIndex:
    """The index of the table of interactions.

    Args:
        folder: Where its runs are kept; created if need be.
    """

    folder: Path

    def lookup(self, files: Sequence[str], ids: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], frozenset[int]]:
        """Return which of some ids may be stored, and on which days.

        Args:
            files: The data files of the table as it stands.
            ids: Ids of interactions.

        Returns:
            One mark an id, true wherever the id is stored, and the days since 1970 on which to look for those marked.
        """
        if not files:
            return np.zeros(len(ids), np.bool_), frozenset()
        hashes = hash_ids(ids)
        order = np.argsort(hashes)
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # another writer merged meanwhile
                marked, days = self._search(files, hashes[order])
                result = np.empty_like(marked)
                result[order] = marked
                return result, days
        # Nothing is wrong with the table: every id may be stored, on any day.
        return np.ones(len(ids), np.bool_), frozenset(set(_read_ids(list(files))[1].tolist()))

    def _search(self, files: Sequence[str], wanted: Hashes) -> tuple[npt.NDArray[np.bool_], frozenset[int]]:
        marked, days = np.zeros(len(wanted), np.bool_), set[int]()
        for run in self._cover(files):
            hit, found = _search(run, wanted)
            marked |= hit
            days |= found
        return marked, frozenset(days)

    def forget(self) -> None:
        """Delete the index; the next look-up makes it anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _cover(self, files: Sequence[str]) -> list[_Run]:
        home = self.folder / duckdb.__version__  # its hash may be another in another version
        if self.folder.exists() and not home.exists():
            self.forget()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(home, time.time() - _PART_S)
        names = {Path(file).name: file for file in files}
        runs = [_read(path) for path in sorted(home.glob("*.run"))]
        live = [run for run in runs if run.files & names.keys()]
        for run in runs:
            if run not in live:
                run.path.unlink(missing_ok=True)
        missing = sorted(set(names) - {name for run in live for name in run.files})
        for start in range(0, len(missing), _FILES):
            some = missing[start : start + _FILES]
            live.append(_write(home, frozenset(some), *_read_ids([names[name] for name in some])))
        return _merge(home, live, frozenset(names))


def hash_ids(ids: pa.ChunkedArray) -> Hashes:
    """Return DuckDB's hash of each id."""
    with connect() as connection:
        connection.register("ids", pa.table({"id": ids}))
        found: dict[str, Any] = connection.sql("SELECT hash(id) AS h FROM ids").fetchnumpy()
    return np.ascontiguousarray(found["h"], dtype=np.uint64)


def _search(run: _Run, wanted: Hashes) -> tuple[npt.NDArray[np.bool_], set[int]]:
    marked, places = np.zeros(len(wanted), np.bool_), []
    for chunk, start in run.chunks():
        low, high = np.searchsorted(wanted, chunk[0]), np.searchsorted(wanted, chunk[-1], "right")
        if low == high:
            continue
        at = np.searchsorted(chunk, wanted[low:high])
        hit = chunk[np.minimum(at, len(chunk) - 1)] == wanted[low:high]
        marked[low:high] |= hit
        last = np.searchsorted(chunk, wanted[low:high][hit], "right")
        places += [start + place for begin, end in zip(at[hit], last, strict=True) for place in range(begin, end)]
    return marked, set(run.days()[places].tolist()) if places else set()


def _read_ids(files: list[str]) -> tuple[Hashes, Days]:
    sql = f"SELECT hash(interaction_id) AS h, date_utc - DATE '1970-01-01' AS d FROM {interaction_files(files)}"  # noqa: S608 -- quoted
    with connect() as connection:
        found: dict[str, Any] = connection.sql(sql).fetchnumpy()
    return np.asarray(found["h"], _HASH), np.asarray(found["d"], _DAY)


def _merge(home: Path, runs: list[_Run], names: frozenset[str]) -> list[_Run]:
    small, total = list[_Run](), 0
    for run in sorted(runs, key=lambda run: run.count):
        total += run.count
        if total <= MOST_MERGED:
            small.append(run)
    if len(small) <= MOST_RUNS:
        return runs
    hashes = np.concatenate([np.fromfile(run.path, _HASH, run.count) for run in small])
    days = np.concatenate([run.days() for run in small])
    merged = _write(home, frozenset().union(*(run.files for run in small)) & names, hashes, days)
    for run in small:
        run.path.unlink(missing_ok=True)
    return [*(run for run in runs if run not in small), merged]


def _write(home: Path, files: frozenset[str], hashes: Hashes, days: Days) -> _Run:
    order = np.argsort(hashes)
    path = home / f"{uuid.uuid4().hex}.run"
    part = path.with_suffix(".part")
    with part.open("wb") as handle:
        hashes[order].astype(_HASH).tofile(handle)
        days[order].astype(_DAY).tofile(handle)
        names = json.dumps(sorted(files)).encode()
        handle.write(names + len(names).to_bytes(8, "little") + len(hashes).to_bytes(8, "little"))
    part.replace(path)
    return _Run(path, files, len(hashes))


def _read(path: Path) -> _Run:
    with path.open("rb") as handle:
        handle.seek(-16, os.SEEK_END)
        size, count = (int.from_bytes(handle.read(8), "little") for _ in range(2))
        handle.seek(-16 - size, os.SEEK_END)
        return _Run(path, frozenset(json.loads(handle.read(size))), count)


def _sweep(home: Path, before_s: float) -> None:
    """Delete what writers that were killed left half written, if nobody can be at it any more."""
    for part in home.glob("*.part"):
        with suppress(FileNotFoundError):
            if part.stat().st_mtime < before_s:
                part.unlink()
