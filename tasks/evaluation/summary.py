"""What is kept of a window of one release: counts in bins, a few KB, merged by adding.

Numbers fall into logarithmic bins of 4 %, so one scheme serves milliseconds, tokens and scores, a quantile read
from it is within 2 %, and two summaries can be compared or added wherever and whenever they were made. NULL is
unknown and counted nowhere; failed calls count in ``status`` and ``question_chars`` only, because they carry zero
or partial latencies and no answer. Calls that the caller's own mistake ended are no calls of the release.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.interactions.schema import CALLER_ERRORS, CALLER_STATUSES

BIN_RATIO: Final = 1.04
SMALLEST: Final = 0.01
"""Everything below falls into bin 0, whose value is 0."""
FORMAT: Final = 1
FIRST_FAILED_STATUS: Final = 400

SUMMARY_COLUMNS: Final = (
    "status", "error_type", "finish_reason", "model", "latency_ms", "input_tokens", "output_tokens",
    "input_text", "output_text",
)  # fmt: skip
"""The columns of the interaction log that a summary is made of."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into each logarithmic bin.

    Attributes:
        bins: Bin and count, ascending by bin, each count at least 1.
    """

    bins: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Histogram:
        """Count values of 0 and more; NaN is left out."""
        known = values[~np.isnan(values)]
        bins, counts = np.unique(_bin(known), return_counts=True)
        return cls(tuple(zip(bins.tolist(), counts.tolist(), strict=True)))

    @property
    def n(self) -> int:
        """How many values were counted."""
        return sum(count for _, count in self.bins)

    def merge(self, other: Histogram) -> Histogram:
        """Return the counts of both."""
        return Histogram(tuple(sorted((Counter(dict(self.bins)) + Counter(dict(other.bins))).items())))

    def quantile(self, share: float) -> float | None:
        """Return the value that a share (0 to 1) of the values does not exceed, within 2 %; None if empty."""
        wanted = max(1, math.ceil(share * self.n))
        seen = 0
        for at, count in self.bins:
            seen += count
            if seen >= wanted:
                return _value(at)
        return None


@dataclass(frozen=True, slots=True)
class Categories:
    """How often each of a few words was seen.

    Attributes:
        counts: Word and count, ascending by word, each count at least 1.
    """

    counts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, values: Iterable[object]) -> Categories:
        """Count values as text; None is left out."""
        return cls(tuple(sorted(Counter(str(value) for value in values if value is not None).items())))

    @property
    def n(self) -> int:
        """How many values were counted."""
        return sum(count for _, count in self.counts)

    def merge(self, other: Categories) -> Categories:
        """Return the counts of both."""
        return Categories(tuple(sorted((Counter(dict(self.counts)) + Counter(dict(other.counts))).items())))


Column = Histogram | Categories


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The counts of one release over one window, or over several that were merged.

    Attributes:
        n: Interactions, failed ones included.
        question_chars, answer_chars: Lengths of the texts in characters.
        quality: The judge's scores, 0 to 1, of the answers it could score.
    """

    n: int = 0
    latency_ms: Histogram = Histogram()
    input_tokens: Histogram = Histogram()
    output_tokens: Histogram = Histogram()
    question_chars: Histogram = Histogram()
    answer_chars: Histogram = Histogram()
    quality: Histogram = Histogram()
    status: Categories = Categories()
    finish_reason: Categories = Categories()
    model: Categories = Categories()

    def columns(self) -> tuple[tuple[str, Column], ...]:
        """Return the columns with their names."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self) if field.name != "n")

    def merge(self, other: Summary) -> Summary:
        """Return the summary of both sets of interactions; order and grouping do not matter."""
        mine = self.columns()
        merged: dict[str, Any] = {name: column.merge(getattr(other, name)) for name, column in mine}
        return Summary(n=self.n + other.n, **merged)

    def to_json(self) -> str:
        """Return the summary as one line of JSON; the same summary gives the same bytes."""
        document: dict[str, Any] = {"format": FORMAT, "ratio": BIN_RATIO, "n": self.n}
        for name, column in self.columns():
            document[name] = _dense(column) if isinstance(column, Histogram) else dict(column.counts)
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: It is no summary of this format, or a count is missing, unknown or negative.
        """
        names = {name for name, _ in cls().columns()}
        document = _parse(text)
        if not isinstance(document, dict) or document.keys() != {"format", "ratio", "n", *names}:
            raise InputError.of("summary", text[:80], f"a JSON object of n, {', '.join(sorted(names))}")
        if (document["format"], document["ratio"]) != (FORMAT, BIN_RATIO):
            given = f"format {document['format']}, ratio {document['ratio']}"
            raise InputError.of("summary", given, f"format {FORMAT}, ratio {BIN_RATIO}")
        read: dict[str, Any] = {
            name: (_sparse if isinstance(column, Histogram) else _words)(name, document[name])
            for name, column in cls().columns()
        }
        return cls(n=_count("n", document["n"]), **read)


def summarise(interactions: pa.Table, quality: NDArray[np.float64]) -> Summary:
    """Summarise the interactions of one release.

    Args:
        interactions: Rows of the log with ``SUMMARY_COLUMNS``, without the caller's own errors.
        quality: The score of each row, NaN where it has none.
    """
    answered = interactions.filter(pc.invert(failed_calls(interactions)))
    return Summary(
        n=interactions.num_rows,
        latency_ms=Histogram.of(numbers(answered["latency_ms"])),
        input_tokens=Histogram.of(numbers(answered["input_tokens"])),
        output_tokens=Histogram.of(numbers(answered["output_tokens"])),
        question_chars=Histogram.of(numbers(pc.utf8_length(interactions["input_text"]))),
        answer_chars=Histogram.of(numbers(pc.utf8_length(answered["output_text"]))),
        quality=Histogram.of(quality),
        status=Categories.of(interactions["status"].to_pylist()),
        finish_reason=Categories.of(answered["finish_reason"].to_pylist()),
        model=Categories.of(answered["model"].to_pylist()),
    )


def failed_calls(interactions: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether the release failed: a status of 400 or more or an error, and not the caller's own."""
    return pc.and_not(_went_wrong(interactions), caller_errors(interactions))


def count_answered(interactions: pa.Table) -> dict[str, int]:
    """Return how many calls of each release did not fail and were not the caller's error, by its digest.

    Args:
        interactions: Rows with ``release_digest``, ``status`` and ``error_type``.
    """
    said = interactions.filter(pc.invert(_went_wrong(interactions)))["release_digest"]
    return {row["values"]: row["counts"] for row in pc.value_counts(said.drop_null()).to_pylist()}


def caller_errors(interactions: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether the caller's own mistake ended the call, so that it says nothing about the release.

    What the log names as the caller's error is one, unless the status tells that the release was refused or broke;
    without a name the status decides, see ``CALLER_STATUSES``.
    """
    status, kind = interactions["status"], interactions["error_type"]
    own_kind = pc.or_(pc.is_null(kind), pc.is_in(kind, pa.array(CALLER_ERRORS)))
    is_good = pc.less(status, FIRST_FAILED_STATUS)
    own_status = pc.or_(is_good, pc.is_in(status, pa.array(CALLER_STATUSES, status.type)))
    return pc.and_(_went_wrong(interactions), pc.and_(own_kind, own_status))


def release_calls(interactions: pa.Table) -> pa.Table:
    """Return the rows that say something about the release: all but the caller's own errors."""
    return interactions.filter(pc.invert(caller_errors(interactions)))


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where it is NULL."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _went_wrong(interactions: pa.Table) -> pa.ChunkedArray:
    bad_status = pc.greater_equal(interactions["status"], FIRST_FAILED_STATUS)
    return pc.or_(bad_status, pc.is_valid(interactions["error_type"]))


def _bin(values: NDArray[np.float64]) -> NDArray[np.int64]:
    scaled = np.log(np.maximum(values, SMALLEST) / SMALLEST) / math.log(BIN_RATIO)
    return np.where(values < SMALLEST, 0, 1 + np.floor(scaled)).astype(np.int64)


def _value(at: int) -> float:
    return 0.0 if at == 0 else SMALLEST * BIN_RATIO ** (at - 0.5)


def _dense(histogram: Histogram) -> list[int]:
    if not histogram.bins:
        return []
    first, last = histogram.bins[0][0], histogram.bins[-1][0]
    counts = dict(histogram.bins)
    return [first, *(counts.get(at, 0) for at in range(first, last + 1))]


def _sparse(place: str, dense: object) -> Histogram:
    if not isinstance(dense, list):
        raise InputError.of(f"summary.{place}", dense, "a list: the first bin, then counts")
    counts = [_count(place, count) for count in dense]
    first = counts[0] if counts else 0
    return Histogram(tuple((first + at, count) for at, count in enumerate(counts[1:]) if count))


def _words(place: str, words: object) -> Categories:
    if not isinstance(words, dict):
        raise InputError.of(f"summary.{place}", words, "an object of counts")
    return Categories(tuple(sorted((word, _count(place, count)) for word, count in words.items())))


def _count(place: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError.of(f"summary.{place}", value, "a count of 0 or more")
    return value


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"summary: not JSON: {error}") from error
