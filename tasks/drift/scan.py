"""One pass over the interactions of a window: what drift is measured on, in a few KB.

Each column is counted in the bins of ``Histogram`` or by word, in 64 groups of units drawn by hash. The groups tell
how much less the rows say than as many independent ones would: leaving out one group after the other gives the
variance of the cumulative shares (delete-a-group jackknife), and with it the effective number of rows. A user who
makes half of the traffic is in one group, so the rows of that user count as one opinion.

Reference: Kott (2001), The delete-a-group jackknife, Journal of Official Statistics 17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.drift.columns import CategoryColumn, NumberColumn, Scan, SegmentLevel, effective_n
from tasks.drift.nights import Watched
from tasks.errors import InputError
from tasks.evaluation.summary import BIN_RATIO, SMALLEST, Categories, Histogram

if TYPE_CHECKING:
    import duckdb

GROUPS: Final = 64
MAX_WORDS: Final = 100
"""Words of a column beyond the most common ones are counted together."""
OTHER: Final = "(other)"
_NEGATIVE: Final = -1
_SIZE_SQL: Final = "SELECT count(*), approx_count_distinct({unit}) FROM rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSpec:
    """Which columns of a window are counted.

    Attributes:
        numbers: Columns of numbers of 0 and more.
        categories: Columns of words.
        units: Columns that name whose call it is; the first that is not NULL counts, and the last never is.
        segments: Columns of words that a change is broken down by.
    """

    numbers: tuple[Watched, ...]
    categories: tuple[str, ...] = ()
    units: tuple[str, ...] = ("user_hash", "session_id", "unit", "interaction_id")
    segments: tuple[str, ...] = ()


def scan_relation(relation: duckdb.DuckDBPyRelation, spec: ScanSpec) -> Scan:
    """Count the columns of a window in one pass.

    Args:
        relation: The interactions: a table, a view or files; failed calls are the caller's to leave out.
        spec: Which columns are counted.

    Returns:
        The counts; a column that is NULL everywhere is empty.

    Raises:
        InputError: A column of numbers has a value below 0, or the spec names a column that is not there.
    """
    named = [item.name for item in spec.numbers]
    columns = [*named, *spec.categories, *spec.units, *spec.segments]
    if missing := [name for name in columns if name not in relation.columns]:
        raise InputError.of("scan columns", ", ".join(missing), ", ".join(relation.columns))
    n, units = _query(relation, _SIZE_SQL.format(unit=_unit(spec.units))).fetchall()[0]
    counts = _query(relation, _count_sql(named, spec.categories, spec.units)).fetchnumpy()
    numbers: list[NumberColumn] = []
    categories: list[CategoryColumn] = []
    sizes = np.zeros(GROUPS)
    for at, name in enumerate((*named, *spec.categories)):
        rows = _rows_of(counts, at, name)
        sizes = np.maximum(sizes, np.bincount(rows[0], rows[2], GROUPS))
        if at < len(named):
            numbers.append(_number(name, *rows))
        else:
            categories.append(_category(name, *rows))
    return Scan(
        n=n,
        units=units,
        top_share=float(sizes.max() / n) if n else 0.0,
        numbers=tuple(numbers),
        categories=tuple(categories),
        segments=_segment_levels(relation, named, spec.segments),
    )


def _query(relation: duckdb.DuckDBPyRelation, sql: str) -> duckdb.DuckDBPyRelation:
    found = relation.query("rows", sql)
    if found is None:  # only a statement that is no SELECT has no rows
        raise InputError.of("scan", sql, "a SELECT")
    return found


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unit(units: Sequence[str]) -> str:
    return f"coalesce({', '.join(f'{_quote(name)}::VARCHAR' for name in units)})"


def bin_sql(name: str) -> str:
    """Return the bin of a column's value in SQL, as ``Histogram`` counts it; NULL where it is unknown or not finite."""
    value = f"{_quote(name)}::DOUBLE"
    return (
        f"CASE WHEN {value} IS NULL OR NOT isfinite({value}) THEN NULL WHEN {value} < 0 THEN {_NEGATIVE} "
        f"WHEN {value} < {SMALLEST} THEN 0 ELSE (1 + floor(ln({value} / {SMALLEST}) / ln({BIN_RATIO})))::SMALLINT END"
    )


def _count_sql(numbers: Sequence[str], categories: Sequence[str], units: Sequence[str]) -> str:
    names = [f"c{at}" for at in range(len(numbers) + len(categories))]
    made = [bin_sql(name) for name in numbers] + [f"{_quote(name)}::VARCHAR" for name in categories]
    columns = ", ".join(f"{sql} AS {name}" for sql, name in zip(made, names, strict=True))
    sets = ", ".join(f"(g, {name})" for name in names)
    return (
        f"WITH binned AS (SELECT (hash({_unit(units)}) % {GROUPS})::UTINYINT AS g, {columns} FROM rows) "  # noqa: S608 - names are quoted
        f"SELECT grouping({', '.join(names)}) AS which, g, {', '.join(names)}, count(*) AS n "
        f"FROM binned GROUP BY GROUPING SETS ({sets})"
    )


def _rows_of(counts: Mapping[str, Any], at: int, name: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return group, bin or word, and count of one column; its bit alone is 0 in ``which``."""
    width = sum(key.startswith("c") for key in counts)
    values = np.ma.asarray(counts[f"c{at}"])
    mine = counts["which"] == (2**width - 1) ^ (1 << (width - 1 - at))
    known = mine & ~np.ma.getmaskarray(values) & np.array([value is not None for value in values.data], bool)
    if known.any() and values.data.dtype.kind == "i" and (values.data[known] == _NEGATIVE).any():
        raise InputError.of(f"column {name}", "a value below 0", "numbers of 0 and more")
    return np.asarray(counts["g"])[known].astype(np.int64), values.data[known], np.asarray(counts["n"])[known]


def _number(name: str, group: NDArray[Any], bins: NDArray[Any], n: NDArray[Any]) -> NumberColumn:
    if not len(n):
        return NumberColumn(name=name)
    found, at = np.unique(bins.astype(np.int64), return_inverse=True)
    matrix = np.zeros((GROUPS, len(found)))
    np.add.at(matrix, (group, at), n)
    histogram = Histogram(tuple(zip(found.tolist(), matrix.sum(axis=0).astype(np.int64).tolist(), strict=True)))
    return NumberColumn(name=name, histogram=histogram, effective_n=effective_n(matrix))


def _category(name: str, group: NDArray[Any], words: NDArray[Any], n: NDArray[Any]) -> CategoryColumn:
    if not len(n):
        return CategoryColumn(name=name)
    found, at = np.unique(words.astype(str), return_inverse=True)
    totals = np.bincount(at, n)
    kept = set(found[np.lexsort((found, -totals))[:MAX_WORDS]].tolist())
    named = np.array([word if word in kept else OTHER for word in found])
    labels, to = np.unique(named, return_inverse=True)
    matrix = np.zeros((GROUPS, len(labels)))
    np.add.at(matrix, (group, to[at]), n)
    counts = zip(labels.tolist(), matrix.sum(axis=0).astype(np.int64).tolist(), strict=True)
    return CategoryColumn(name=name, categories=Categories(tuple(counts)), effective_n=effective_n(matrix))


def _above(name: str) -> str:
    return f"{_quote(name)} > 0 AND isfinite({_quote(name)}::DOUBLE)"


def _segment_levels(
    relation: duckdb.DuckDBPyRelation, numbers: Sequence[str], dimensions: Sequence[str]
) -> tuple[SegmentLevel, ...]:
    found = []
    for dimension in dimensions:
        # Decimals add up to the same whatever the order: several threads sum floats to other last digits each time.
        sums = ", ".join(
            f"count(*) FILTER ({_above(name)}), sum(ln({_quote(name)}::DOUBLE)::DECIMAL(18, 9)) FILTER ({_above(name)})"
            for name in numbers
        )
        word = f"{_quote(dimension)}::VARCHAR"
        sql = f"SELECT {word} AS word, {sums} FROM rows GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MAX_WORDS}"  # noqa: S608
        for word_found, *levels in _query(relation, sql).fetchall():
            for name, n, log_sum in zip(numbers, levels[::2], levels[1::2], strict=True):
                if n and word_found is not None:
                    level = SegmentLevel(
                        dimension=dimension, value=word_found, column=name, n=n, log_sum=float(log_sum)
                    )
                    found.append(level)
    return tuple(sorted(found, key=lambda item: (item.dimension, item.value, item.column)))
