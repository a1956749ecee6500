"""A sample of the texts of a window: of so many users or sessions at most one text each, and one a night.

One text each on both sides, because the mean of several looks unlike a single one, and a baseline of many nights has
more texts of a user than one night has. Which they are is drawn by digests of salt, unit and id, so a baseline's sample
is found again as long as its texts are in the lake, and users who come back are in tonight's sample too. A long window
is read in its last week only: that has every day of the week, and keeps the reading of a large baseline short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.drift.baseline import SAMPLED_UNITS
from tasks.drift.text import Texts

if TYPE_CHECKING:
    import duckdb

TEXT_COLUMNS: Final = {"question text": "input_text", "answer text": "output_text"}
"""What is compared, by the name that checks give it."""
SEGMENTS: Final = ("route", "model", "language")
"""What texts that look newest are broken down by."""
_DIVIDED: Final = ("prompt_version", "tags")
"""More columns that texts are divided by."""
SAMPLED_TIME: Final = timedelta(days=7)
_ANSWERED: Final = "status < 400 AND error_type IS NULL AND (release_digest = $digest OR $digest IS NULL)"
_PICK: Final = f"""
CREATE OR REPLACE TEMP TABLE picked AS
WITH calls AS (
    SELECT interaction_id, date_utc, coalesce(user_hash, session_id, unit, interaction_id) AS who,
           user_hash IS NOT NULL OR session_id IS NOT NULL OR (unit IS NOT NULL AND unit_kind <> 'request') AS is_known
    FROM interactions WHERE {_ANSWERED} AND (input_text IS NOT NULL OR output_text IS NOT NULL)
), units AS (
    SELECT who FROM (SELECT DISTINCT who FROM calls) ORDER BY md5($salt || chr(0) || who), who LIMIT $units
)
SELECT interaction_id, who, coalesce(is_known, false) AS is_known FROM calls SEMI JOIN units USING (who)
QUALIFY row_number() OVER (PARTITION BY who, date_utc ORDER BY md5(interaction_id), interaction_id) = 1
"""  # noqa: S608 - a constant of our own
# Texts are read last, of the picked calls alone: a heavy user may have written most of a window.
_READ: Final = f"""
SELECT who, is_known, interaction_id, date_utc, {", ".join((*TEXT_COLUMNS.values(), *SEGMENTS, *_DIVIDED))}
FROM interactions JOIN picked USING (interaction_id) WHERE {_ANSWERED}
ORDER BY md5(interaction_id), interaction_id
"""  # noqa: S608 - constants of our own
_COUNT: Final = f"SELECT count(*), count(input_text), count(output_text) FROM interactions WHERE {_ANSWERED}"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The texts that were drawn of a window; they stay where they are compared.

    Attributes:
        rows: A row a unit and night, in an order drawn by digest: ``who``, ``is_known`` (whether that is a user or
            session), ``interaction_id``, ``date_utc``, the texts and the columns that calls are divided by.
        calls: How many calls the window has.
    """

    rows: pa.Table
    calls: int

    def texts(self, column: str, *, known: bool = False) -> Texts:
        """Return the texts of one of ``TEXT_COLUMNS``, one a unit.

        Args:
            column: Its name.
            known: Only those of which it is known whose they are.
        """
        rows = self._of(column)
        return _texts(rows.filter(rows["is_known"]) if known else rows, column)

    def nights(self, column: str) -> dict[date, Texts]:
        """Return the texts of a column by their UTC day, one a unit and day."""
        rows = self._known(column)
        days = sorted(pc.unique(rows["date_utc"]).to_pylist())
        return {day: _texts(rows.filter(pc.equal(rows["date_utc"], pa.scalar(day))), column) for day in days}

    def segments(self, column: str, dimension: str) -> Sequence[str | None]:
        """Return the segment of each of the ``texts`` of a column, in their order."""
        found: list[str | None] = self._of(column)[dimension].to_pylist()
        return found

    def _of(self, column: str) -> pa.Table:
        rows = self._known(column)
        _, first = np.unique(np.array(rows["who"].to_pylist(), dtype=str), return_index=True)
        return rows.take(pa.array(np.sort(first)))

    def _known(self, column: str) -> pa.Table:
        return self.rows.filter(pc.is_valid(self.rows[TEXT_COLUMNS[column]]))


def sampled_window(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the part of a window whose texts are read."""
    return max(start, end - SAMPLED_TIME), end


def draw_sample(
    connection: duckdb.DuckDBPyConnection, digest: str | None, salt: str, units: int = SAMPLED_UNITS
) -> Sample:
    """Draw the sample of a window.

    Args:
        connection: Holds the view ``interactions`` of one application and ``sampled_window``.
        digest: Whose answers; None: those of every release.
        salt: Draws another sample.
        units: At most so many users or sessions.
    """
    calls, questions, answers = connection.execute(_COUNT, {"digest": digest}).fetchall()[0]
    if not questions and not answers:
        units = 0  # nothing to draw from, and no reason to look for users
    connection.execute(_PICK, {"digest": digest, "salt": salt, "units": units})
    rows = connection.sql(_READ, params={"digest": digest}).to_arrow_table()
    return Sample(rows=rows, calls=int(calls))


def _texts(rows: pa.Table, column: str) -> Texts:
    return Texts(
        texts=rows[TEXT_COLUMNS[column]].to_pylist(),
        units=rows["who"].to_pylist(),
        ids=rows["interaction_id"].to_pylist(),
    )
