"""One slice of a window, scored on its own; and what comes of it as bytes, so that any process may do it.

The bytes are one Arrow file: a row for each call, release after release, and beside it, as JSON, what else the slice
says. They hold numbers and ids, no text of a user, and nothing that is run when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from tasks.errors import InputError
from tasks.evaluation.evidence import SCORE_COLUMNS, Shard, measure_shard
from tasks.evaluation.summary import Summary, caller_errors, failed_calls
from tasks.release.model import Record
from tasks.scoring.cache import ScoreCache
from tasks.scoring.extra import Scores, score_answers
from tasks.scoring.pool import State
from tasks.scoring.reading import Score
from tasks.scoring.scorers import ScorerSpec

Scored = Mapping[str, tuple[Shard, Scores]]
"""A slice of the window: the calls of each release in it, by digest, and what added scorers say of them."""
SHARD_COLUMNS: Final = ("release_digest", *SCORE_COLUMNS)
"""The columns of the interaction log that a slice is scored by."""
_SAID: Final = b"shard"


class _Row(Record):
    name: str
    state: State
    value: float | None
    label: str | None
    reason: str | None


class _Said(Record):
    """What a slice says of one release beside its calls."""

    release: str
    calls: Annotated[int, Field(ge=0)]
    caller_errors: Annotated[int, Field(ge=0)]
    summary: str
    scores: dict[str, tuple[_Row, ...]]


class _Slice(Record):
    said: tuple[_Said, ...]


def score_slice(
    rows: pa.Table, releases: Sequence[str], scorers: Sequence[ScorerSpec], cache: ScoreCache, shards: int
) -> Scored:
    """Score the answers of some releases in a slice of a window.

    Args:
        rows: The interactions of the slice, with ``SHARD_COLUMNS``.
        releases: Their digests.
        scorers: What a team adds.
        cache: Where scores of added scorers are looked up and kept.
        shards: How many slices the window has, at least 1.
    """
    scored = {}
    for digest in releases:
        calls = rows.filter(pc.equal(rows["release_digest"], digest))
        answered = calls.filter(pc.invert(pc.or_(failed_calls(calls), caller_errors(calls))))
        said = score_answers(scorers, answered, cache, shards) if scorers else {}
        scored[digest] = (measure_shard(calls), said)
    return scored


def pack_scored(scored: Scored) -> bytes:
    """Return a scored slice as one Arrow file; the same slice gives the same bytes."""
    said = _Slice(said=tuple(_say(digest, *found) for digest, found in scored.items()))
    parts = [shard.calls for shard, _ in scored.values()]
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
        part = calls.slice(at, said.calls)
        shard = Shard(calls=part, summary=Summary.from_json(said.summary), caller_errors=said.caller_errors)
        scores = {name: [Score(**row.model_dump()) for row in given] for name, given in said.scores.items()}
        scored[said.release] = (shard, scores)
        at += said.calls
    if at != calls.num_rows:
        raise InputError.of("scored slice", f"{calls.num_rows} calls", f"{at}, which its releases have together")
    return scored


def _say(digest: str, shard: Shard, scores: Scores) -> _Said:
    return _Said(
        release=digest,
        calls=shard.calls.num_rows,
        caller_errors=shard.caller_errors,
        summary=shard.summary.to_json(),
        scores={name: tuple(_row(one) for one in given) for name, given in scores.items()},
    )


def _row(score: Score) -> _Row:
    return _Row(name=score.name, state=score.state, value=score.value, label=score.label, reason=score.reason)
