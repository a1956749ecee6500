from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.stores.lake_ids import IdIndex

DAY_S = 24 * 3600


def test_a_look_up_deletes_what_a_killed_writer_left_and_nothing_that_may_be_in_the_writing(tmp_path: Path) -> None:
    file = tmp_path / "date_utc=2026-03-01" / "rows.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"interaction_id": ["a"]}), file)
    index, ids = IdIndex(tmp_path / "ids"), pa.chunked_array([["a", "b"]])
    days = frozenset({(date(2026, 3, 1) - date(1970, 1, 1)).days})
    assert index.lookup([str(file)], ids)[1] == days
    (home,) = index.folder.iterdir()
    for name, age_s in (("old.part", 2 * DAY_S), ("fresh.part", 0)):
        (home / name).write_bytes(b"half")
        os.utime(home / name, (time.time() - age_s,) * 2)
    marked, found = index.lookup([str(file)], ids)
    assert (marked.tolist(), found) == ([True, False], days)
    assert [path.name for path in home.glob("*.part")] == ["fresh.part"]
