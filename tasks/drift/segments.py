"""Segments of a baseline: the calls of one route, prompt version, model, language or tag, and what is kept of each.

What each night of the largest segments came to is kept apart from the baseline, so that the baseline stays a few KB and
those that were made before segments were kept can still be read. ``segment_nights`` holds a night against it.
"""

from __future__ import annotations

import zlib
from base64 import b85decode, b85encode
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.drift.baseline import LARGEST_BYTES, make_night
from tasks.drift.columns import CategoryColumn, NumberColumn, Scan
from tasks.drift.effects import MIN_ROWS
from tasks.drift.nights import STRICT, Night
from tasks.drift.scan import ScanSpec, bin_sql, scan_relation
from tasks.errors import InputError
from tasks.evaluation.summary import Histogram

if TYPE_CHECKING:
    import duckdb

SEGMENTS: Final = "baseline_segments"
FORMAT: Final = 1
DIMENSIONS: Final = {
    "route": "route",
    "prompt_version": "prompt_version",
    "model": "model",
    "language": "language",
    "tag": "tags",
}
"""What calls are divided by, and the column of the interaction log it is in."""
TAG: Final = "tag"
MOST_EACH: Final = 6
"""So many segments of a dimension are kept, the largest."""
MAX_NAME: Final = 200
_SEGMENT: Final = "segment"
SEGMENTS_SCHEMA: Final = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("application", "name", "digest", "content", "sha256")]
)
"""One row a version of a baseline, ``digest`` is the baseline's; ``sha256`` is of the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some calls.

    Attributes:
        dimension: One of ``DIMENSIONS``.
        value: Of its column; of a tag ``name=value``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dimension: str
    value: str

    @property
    def name(self) -> str:
        """The segment for people, and for its alerts."""
        return f"{self.dimension}={self.value}"[:MAX_NAME]

    def rows(self, relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """Return its rows."""
        import duckdb

        column, value = duckdb.ColumnExpression(DIMENSIONS[self.dimension]), duckdb.ConstantExpression(self.value)
        if self.dimension == TAG:
            return relation.filter(duckdb.FunctionExpression("list_contains", column, value))
        return relation.filter(column.cast("VARCHAR") == value)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSegment:
    """A segment of a baseline.

    Attributes:
        segment: Which.
        n: Its calls.
        words: Its columns of words.
        nights: What each of its nights came to.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    segment: Segment
    n: int
    words: tuple[CategoryColumn, ...]
    nights: tuple[Night, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSegments:
    """What a baseline keeps of its segments.

    Attributes:
        segments: The largest of each dimension.
        format: Which version of this format it was written in.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    segments: tuple[KeptSegment, ...] = ()
    format: int = FORMAT

    def pack(self) -> str:
        """Return them as text: about a KB a segment; the same segments give the same text."""
        return b85encode(zlib.compress(TypeAdapter(KeptSegments).dump_json(self), 9)).decode()

    @classmethod
    def unpack(cls, packed: str) -> KeptSegments:
        """Read what ``pack`` wrote.

        Raises:
            InputError: They are no segments of this format.
        """
        try:
            unpacking = zlib.decompressobj()
            found = TypeAdapter(cls).validate_json(unpacking.decompress(b85decode(packed), LARGEST_BYTES))
        except (ValueError, zlib.error, ValidationError) as error:
            raise InputError(
                f"segments: they cannot be read ({type(error).__name__}); make the baseline anew"
            ) from None
        if found.format != FORMAT:
            raise InputError.of("segments.format", found.format, f"{FORMAT}; make the baseline anew")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentNight:
    """The segments of a baseline and what a window came to in each.

    Attributes:
        kept: The baseline's.
        scans: The window's, in the same order.
    """

    kept: KeptSegments = KeptSegments()
    scans: tuple[Scan, ...] = ()


def keep_segments(relation: duckdb.DuckDBPyRelation, spec: ScanSpec) -> KeptSegments:
    """Return what a baseline keeps of its segments: of each dimension the largest, of ``MIN_ROWS`` calls at least.

    Args:
        relation: The answered interactions of its window, with the columns of ``DIMENSIONS`` and of the spec.
        spec: Which columns are counted.
    """
    import duckdb

    (total,) = relation.aggregate("count(*)").fetchall()[0]
    words, kept = replace(spec, numbers=(), segments=()), []
    for dimension, column in DIMENSIONS.items():
        value = f"unnest({column})" if dimension == TAG else f"{column}::VARCHAR"
        divided = relation.project(f"*, {value} AS {_SEGMENT}").filter(f"{_SEGMENT} IS NOT NULL")
        counted = divided.aggregate(f"{_SEGMENT}, count(*) AS n").order(f"n DESC, {_SEGMENT}").limit(MOST_EACH)
        largest = {name: n for name, n in counted.fetchall() if MIN_ROWS <= n < total}
        # The others may be as many as there are calls.
        chosen = duckdb.ColumnExpression(_SEGMENT).isin(*map(duckdb.ConstantExpression, largest)) if largest else None
        nights = _nights(divided.filter(chosen), spec) if chosen is not None else {}
        for name, n in largest.items():
            segment = Segment(dimension=dimension, value=name)
            scan = scan_relation(segment.rows(relation), words)
            kept.append(KeptSegment(segment=segment, n=n, words=scan.categories, nights=tuple(nights[name])))
    return KeptSegments(segments=tuple(kept))


def _nights(divided: duckdb.DuckDBPyRelation, spec: ScanSpec) -> dict[str, list[Night]]:
    """Return what each night of each segment came to; one pass a column, whatever the number of nights."""
    sizes = divided.aggregate(f"{_SEGMENT}, date_utc, count(*) AS n").order(f"{_SEGMENT}, date_utc").fetchall()
    bins: defaultdict[tuple[str, date, str], list[tuple[int, int]]] = defaultdict(list)
    for item in spec.numbers:
        counted = divided.aggregate(f"{_SEGMENT}, date_utc, {bin_sql(item.name)} AS bin, count(*) AS n")
        for name, day, place, n in counted.filter("bin IS NOT NULL").order(f"{_SEGMENT}, date_utc, bin").fetchall():
            bins[name, day, item.name].append((place, n))
    found: defaultdict[str, list[Night]] = defaultdict(list)
    for name, day, n in sizes:
        histograms = ((item.name, Histogram(tuple(bins[name, day, item.name]))) for item in spec.numbers)
        numbers = tuple(NumberColumn(name=of, histogram=histogram) for of, histogram in histograms)
        found[name].append(make_night(day, Scan(n=n, numbers=numbers), spec.numbers))
    return found


def scan_segments(relation: duckdb.DuckDBPyRelation, kept: KeptSegments, spec: ScanSpec) -> SegmentNight:
    """Return what a window came to in each of a baseline's segments."""
    plain = replace(spec, segments=())
    scans = tuple(scan_relation(one.segment.rows(relation), plain) for one in kept.segments)
    return SegmentNight(kept=kept, scans=scans)


def segments_row(keys: dict[str, str], kept: KeptSegments) -> pa.Table:
    """Return segments as a row of ``SEGMENTS_SCHEMA``; ``keys`` are application, name and digest of the baseline."""
    content = kept.pack()
    row = {**keys, "content": content, "sha256": sha256(content.encode()).hexdigest()}
    return pa.Table.from_pylist([row], schema=SEGMENTS_SCHEMA)


def read_segments(rows: pa.Table | None, digest: str) -> KeptSegments | None:
    """Return what was kept of the segments of a baseline; None where it was made before segments were kept.

    Args:
        rows: Rows of ``SEGMENTS_SCHEMA``.
        digest: The baseline's.

    Raises:
        InputError: It cannot be read, or is not what its digest says.
    """
    mine = rows.filter(pc.field("digest") == digest).to_pylist() if rows is not None else []
    if not mine:
        return None
    if sha256(mine[0]["content"].encode()).hexdigest() != mine[0]["sha256"]:
        raise InputError("segments: they are not what was kept; make the baseline anew")
    return KeptSegments.unpack(mine[0]["content"])
