"""One slice of a window, scored and looked at on its own; and what comes of it as bytes, so that any process may do it.

The bytes are one Arrow file: a row for each call, release after release, and beside it, as JSON, what else the slice
says. They hold numbers and ids, no text of a user, and nothing that is run when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from tasks.errors import InputError
from tasks.evaluation.evidence import SCORE_COLUMNS, Shard, measure_shard
from tasks.evaluation.summary import Summary, caller_errors, failed_calls
from tasks.release.model import Record
from tasks.scoring.check_rules import Rules
from tasks.scoring.extra import EvaluationSpec, Scores, score_answers
from tasks.scoring.pool import State
from tasks.scoring.reading import Score
from tasks.scoring.slices import LOOKED_AT, Around, look_at


@dataclass(frozen=True, slots=True)
class ReleaseSlice:
    """What a slice of the window says of one release; without any text.

    Attributes:
        shard: Its calls.
        scores: What added scorers say of its answers.
        looked: What was seen in the texts of its answers, a row an answered call; see ``look_at``.
    """

    shard: Shard
    scores: Scores
    looked: pa.Table


Scored = Mapping[str, ReleaseSlice]
"""A slice of the window: what it says of each release, by digest."""
SHARD_COLUMNS: Final = tuple(dict.fromkeys(("release_digest", *SCORE_COLUMNS, *LOOKED_AT)))
"""The columns of the interaction log that a slice is scored by."""
_SAID: Final = b"shard"
_LOOKED: Final = "looked "
"""Begins the names of columns of ``looked`` where they stand beside those of the calls."""


class _Row(Record):
    name: str
    state: State
    value: float | None
    label: str | None
    reason: str | None


class _Told(Record):
    """Scores of one name: those that differ, and which of them each answer has; most may be in no sample."""

    rows: tuple[_Row, ...]
    places: tuple[int, ...]


class _Said(Record):
    """What a slice says of one release beside its calls."""

    release: str
    calls: Annotated[int, Field(ge=0)]
    caller_errors: Annotated[int, Field(ge=0)]
    summary: str
    scores: dict[str, _Told]


class _Slice(Record):
    said: tuple[_Said, ...]


def score_slice(rows: pa.Table, releases: Mapping[str, Rules], plan: EvaluationSpec, around: Around) -> Scored:
    """Score and look at the answers of some releases in a slice of a window.

    Args:
        rows: The interactions of the slice, with ``SHARD_COLUMNS``.
        releases: What each declares of its answers, by digest.
        plan: What a team adds.
        around: What is needed beside the calls.
    """
    scored = {}
    for digest, rules in releases.items():
        calls = rows.filter(pc.equal(rows["release_digest"], digest))
        answered = calls.filter(pc.invert(pc.or_(failed_calls(calls), caller_errors(calls))))
        portion = around.portion(digest)
        said = score_answers(plan.scorers, answered, around.cache, portion) if plan.scorers else {}
        scored[digest] = ReleaseSlice(measure_shard(calls), said, look_at(plan, rules, calls, around, portion))
    return scored


def pack_scored(scored: Scored) -> bytes:
    """Return a scored slice as one Arrow file; the same slice gives the same bytes."""
    said = _Slice(said=tuple(_say(digest, found) for digest, found in scored.items()))
    parts = [_lay_beside(found.shard.calls, found.looked) for found in scored.values()]
    calls = pa.concat_tables(parts).combine_chunks() if parts else pa.table({})
    sink = pa.BufferOutputStream()
    schema = calls.schema.with_metadata({_SAID: said.model_dump_json().encode()})
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(calls.replace_schema_metadata(schema.metadata))
    return bytes(sink.getvalue().to_pybytes())


def unpack_scored(packed: bytes) -> Scored:
    """Return the slice that ``pack_scored`` packed, to the last digit.

    Raises:
        InputError: It is no such file.
    """
    try:
        calls = pa.ipc.open_file(pa.BufferReader(packed)).read_all()
        slices = _Slice.model_validate_json((calls.schema.metadata or {})[_SAID])
    except (pa.ArrowInvalid, ValidationError, KeyError) as error:
        raise InputError(f"scored slice: it cannot be read ({type(error).__name__}); start the evaluation again") from (
            error
        )
    calls, at, scored = calls.replace_schema_metadata(None), 0, {}
    for said in slices.said:
        part, looked = _take_apart(calls.slice(at, said.calls))
        shard = Shard(calls=part, summary=Summary.from_json(said.summary), caller_errors=said.caller_errors)
        scores = {name: _hear(given) for name, given in said.scores.items()}
        scored[said.release] = ReleaseSlice(shard, scores, looked)
        at += said.calls
    if at != calls.num_rows:
        raise InputError.of("scored slice", f"{calls.num_rows} calls", f"{at}, which its releases have together")
    return scored


def _lay_beside(calls: pa.Table, looked: pa.Table) -> pa.Table:
    """Return calls with what was seen of the answered ones beside them; NULL beside the failed ones."""
    spoken = pc.invert(calls["failed"]).combine_chunks()
    # An answered call's row in ``looked`` is the number of answered calls before it: ids may repeat, places do not.
    places = pc.if_else(spoken, pc.subtract(pc.cumulative_sum(spoken.cast(pa.int64())), 1), None)
    for name in looked.column_names:
        if name != "interaction_id":
            calls = calls.append_column(f"{_LOOKED}{name}", looked[name].combine_chunks().take(places))
    return calls


def _take_apart(calls: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return what ``_lay_beside`` laid beside each other."""
    beside = [name for name in calls.column_names if name.startswith(_LOOKED)]
    spoken = calls.filter(pc.invert(calls["failed"])).combine_chunks()
    seen = {name.removeprefix(_LOOKED): spoken[name] for name in beside}
    return calls.drop_columns(beside), pa.table({"interaction_id": spoken["interaction_id"], **seen})


def _say(digest: str, found: ReleaseSlice) -> _Said:
    shard, scores = found.shard, found.scores
    return _Said(
        release=digest,
        calls=shard.calls.num_rows,
        caller_errors=shard.caller_errors,
        summary=shard.summary.to_json(),
        scores={name: _tell(given) for name, given in scores.items()},
    )


def _tell(scores: Sequence[Score]) -> _Told:
    rows, places, known = list[_Row](), list[int](), dict[Score, int]()
    for score in scores:
        # Numbers are not compared: 0.0 is -0.0 then.
        place = known.setdefault(score, len(rows)) if score.value is None else len(rows)
        if place == len(rows):
            rows.append(_row(score))
        places.append(place)
    return _Told(rows=tuple(rows), places=tuple(places))


def _hear(told: _Told) -> list[Score]:
    scores = [Score(**row.model_dump()) for row in told.rows]
    return [scores[place] for place in told.places]


def _row(score: Score) -> _Row:
    return _Row(name=score.name, state=score.state, value=score.value, label=score.label, reason=score.reason)
