"""The fast way to read lines: DuckDB proves most of them good and makes their rows; the rest is read one by one.

A line is proved by its shape - which keys it has, each once, and of which type every value is - and by its values.
One line of every shape is read the exact way too, and unless both give the same row, that shape is not fast. So the
fast way can only be as right as the exact one, and slower where it does not know a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.interactions.columns import SCHEMA
from tasks.interactions.fast_shapes import Shape
from tasks.interactions.schema import Interaction, as_table

Marks = npt.NDArray[np.bool_]
ReadExactly = Callable[[bytes], Sequence[Interaction | str]]
_SEVERAL: Final = 16
"""More shapes than this that are new at once are left to the exact way, which bounds what a line can cost."""


@dataclass
class FastReader:
    """Reads the lines of one format with one DuckDB connection, and remembers which shapes are good.

    Args:
        shape: What is known of the format.
        exactly: Reads one line the exact way.
    """

    shape: Shape
    exactly: ReadExactly
    _good: dict[int, bool] = field(default_factory=dict)
    _connection: duckdb.DuckDBPyConnection | None = None

    def read(self, lines: pa.Array, application: str | None) -> tuple[pa.Table, Marks]:
        """Return the rows of the lines that are proved good, and which lines these are.

        Args:
            lines: Complete lines in UTF-8.
            application: What was called, where a line does not say.
        """
        proved = self._prove(lines)
        if not proved.any():
            return SCHEMA.empty_table(), proved
        some = lines if proved.all() else lines.filter(pa.array(proved))
        rows, held = self._rows(some, application)
        if not held.all():
            rows = rows.filter(pa.array(held))
            proved[np.flatnonzero(proved)[~held]] = False
        return rows, proved

    def _prove(self, lines: pa.Array) -> Marks:
        sql = f"SELECT coalesce(TRY(hash({self.shape.types}, {self.shape.keys})), 0) AS h FROM lines"  # noqa: S608 -- ours
        hashes: npt.NDArray[np.uint64] = self._run(sql, lines)["h"].to_numpy()
        found, first, which = np.unique(hashes, return_index=True, return_inverse=True)
        new = [(int(name), int(at)) for name, at in zip(found, first, strict=True) if int(name) not in self._good]
        for name, at in new[:_SEVERAL]:
            self._good[name] = name != 0 and self._is_good(lines.slice(at, 1))
        good = np.array([self._good.get(int(name), False) for name in found], np.bool_)
        return good[which]

    def _is_good(self, line: pa.Array) -> bool:
        sql = f"SELECT {self.shape.types} AS t, {self.shape.keys} AS k FROM lines"  # noqa: S608 -- ours
        (shown,) = self._run(sql, line).to_pylist()
        if not self.shape.is_provable(shown["t"], shown["k"]):
            return False
        rows, held = self._rows(line, "application")
        if not held.all():  # its values are no example; another line of the shape may be
            return True
        exact = self.exactly(line[0].as_py().encode())
        return len(exact) == 1 and isinstance(exact[0], Interaction) and self._same(rows, exact[0], line)

    def _same(self, rows: pa.Table, exact: Interaction, line: pa.Array) -> bool:
        if rows["application"][0].as_py() != exact.application:
            rows = self._rows(line, exact.application)[0]
        return bool(rows.equals(as_table([exact])))

    def _rows(self, lines: pa.Array, application: str | None) -> tuple[pa.Table, Marks]:
        columns = ", ".join(f'{self.shape.columns[name]} AS "{name}"' for name in SCHEMA.names)
        sql = f"SELECT coalesce({self.shape.holds}, false) AS held, {columns} FROM ({self.shape.values})"  # noqa: S608 -- ours
        found = self._run(sql, lines, {"application": application})
        held = np.asarray(found["held"].combine_chunks().to_numpy(zero_copy_only=False), np.bool_)
        return _typed(found.drop_columns(["held"]), held), held

    def _run(self, sql: str, lines: pa.Array, params: dict[str, Any] | None = None) -> pa.Table:
        if self._connection is None:
            self._connection = duckdb.connect(":memory:", config={"autoload_known_extensions": False})
            self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.register("lines", pa.table({"line": lines}))
        wanted = {name: value for name, value in (params or {}).items() if f"${name}" in sql}
        return self._connection.sql(sql, params=wanted).to_arrow_table()


def _typed(rows: pa.Table, held: Marks) -> pa.Table:
    """Return the rows as ``SCHEMA`` has them; what is not held may lack what must be there."""
    columns = []
    for wanted in SCHEMA:
        column = rows[wanted.name]
        if not wanted.nullable and column.null_count and held.all():
            raise AssertionError(wanted.name)
        columns.append(column.cast(wanted.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)
