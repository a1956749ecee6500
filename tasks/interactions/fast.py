"""The fast way to read lines: DuckDB proves most of them good and makes their rows; the rest is read one by one.

A line is proved by its shape - which keys it has, each once, and of which type every value is - and by its values.
One line of every shape is read the exact way too, and unless both give the same row, that shape is not fast. So the
fast way can only be as right as the exact one, and slower where it does not know a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.interactions.columns import SCHEMA
from tasks.interactions.fast_shapes import Shape, Template
from tasks.interactions.schema import Interaction, as_table

Marks = npt.NDArray[np.bool_]
ReadExactly = Callable[[bytes], Sequence[Interaction | str]]
_SEVERAL: Final = 16
"""More shapes than this that are new at once are left to the exact way, which bounds what a line can cost."""

_ENOUGH: Final = 0.5
"""Share of lines that a template must fit to be kept."""
_TOGETHER: Final = 2**14
_LOOKED_AT: Final = 8
"""So many of the first lines are looked at for one that others may be like."""


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
    _alike: str | None = None
    _patterns: dict[int, bool] = field(default_factory=dict)
    _queries: dict[tuple[str, str | None], duckdb.DuckDBPyRelation] = field(default_factory=dict)
    _connection: duckdb.DuckDBPyConnection | None = None

    def read(self, lines: pa.Array, application: str | None) -> tuple[pa.Table, Marks]:
        """Return the rows of the lines that are proved good, and which lines these are.

        Args:
            lines: Complete lines in UTF-8.
            application: What was called, where a line does not say.
        """
        alike, proved = self._read_alike(lines, application)
        if proved.all():
            return alike, proved
        left = np.flatnonzero(~proved)
        others, good = self._read_others(lines.take(pa.array(left)) if len(left) < len(lines) else lines, application)
        if not alike.num_rows:
            return others, good
        order = np.argsort(np.concatenate([np.flatnonzero(proved), left[good]]), kind="stable")
        proved[left[good]] = True
        return pa.concat_tables([alike, others]).take(pa.array(order)).combine_chunks(), proved

    def _read_alike(self, lines: pa.Array, application: str | None) -> tuple[pa.Table, Marks]:
        """Read the lines that are like one of the first ones, with one parse."""
        if self._alike is None and self.shape.template is not None:
            self._alike, self._patterns = self._learn(lines, self.shape.template), {}
        if self._alike is None or application is None:
            return SCHEMA.empty_table(), np.zeros(len(lines), np.bool_)
        found = self._run(self._alike, lines, application)
        held = _marks(found["held"])
        held &= self._known_patterns(found, held, lines)
        if held.mean() < _ENOUGH:
            self._alike = None  # others may be more like one of the next lines
        rows = found.drop_columns(["held", "pattern"])
        return _typed(rows if held.all() else rows.filter(pa.array(held)), np.ones(1, np.bool_)), held

    def _learn(self, lines: pa.Array, template: Template) -> str | None:
        for at in range(min(_LOOKED_AT, len(lines))):
            line = lines.slice(at, 1)
            if self._prove(line).all():
                return template(line[0].as_py())
        return None

    def _known_patterns(self, found: pa.Table, held: Marks, lines: pa.Array) -> Marks:
        """Return which lines have the NULLs of one that both ways read alike."""
        patterns: npt.NDArray[np.int64] = found["pattern"].to_numpy()
        if not held.any():
            return held
        names, first = np.unique(patterns[held], return_index=True)
        places = np.flatnonzero(held)[first]
        new = [(int(name), int(at)) for name, at in zip(names, places, strict=True) if int(name) not in self._patterns]
        for name, at in new[:_SEVERAL]:
            row = _typed(found.slice(at, 1).drop_columns(["held", "pattern"]), np.ones(1, np.bool_))
            self._patterns[name] = self._is_exact(row, lines.slice(at, 1))
        good = [name for name, alike in self._patterns.items() if alike]
        return np.asarray(np.isin(patterns, good), np.bool_)

    def _is_exact(self, rows: pa.Table, line: pa.Array) -> bool:
        exact = self.exactly(line[0].as_py().encode())
        if len(exact) != 1 or not isinstance(exact[0], Interaction):
            return False
        place = rows.column_names.index("application")
        # What was called is not in the line.
        rows = rows.set_column(place, rows.schema.field(place), pa.array([exact[0].application], pa.string()))
        return bool(rows.equals(as_table([exact[0]])))

    def _read_others(self, lines: pa.Array, application: str | None) -> tuple[pa.Table, Marks]:
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
        found = self._run(sql, lines, application)
        held = _marks(found["held"])
        return _typed(found.drop_columns(["held"]), held), held

    def _run(self, sql: str, lines: pa.Array, application: str | None = None) -> pa.Table:
        if self._connection is None:
            self._connection = duckdb.connect(":memory:", config={"autoload_known_extensions": False})
            self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.register("lines", pa.table({"line": lines}))
        try:
            if len(self._queries) > _SEVERAL:
                self._queries.clear()
            query = (sql, application)
            if query not in self._queries:  # to look through one takes as long as reading some hundred lines with it
                params = {"application": application} if "$application" in sql else None
                self._queries[query] = self._connection.sql(sql, params=params)
            # In parts that stay in the processor's cache.
            return self._queries[query].to_arrow_table(_TOGETHER)
        finally:
            self._connection.unregister("lines")  # the memory of the lines is used for others


def _typed(rows: pa.Table, held: Marks) -> pa.Table:
    """Return the rows as ``SCHEMA`` has them; what is not held may lack what must be there."""
    found = {name: rows[names] for names in rows.column_names for name in names.split(" ")}
    columns = []
    for wanted in SCHEMA:
        column = found.get(wanted.name)
        if column is None:
            column = pa.chunked_array([pa.nulls(rows.num_rows, wanted.type)])
        if not wanted.nullable and column.null_count and held.all():
            raise AssertionError(wanted.name)
        columns.append(column.cast(wanted.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _marks(column: pa.ChunkedArray) -> Marks:
    return np.array(column.combine_chunks().to_numpy(zero_copy_only=False), np.bool_)
