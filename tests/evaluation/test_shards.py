"""A window scored in slices, each packed and unpacked as another process would, against the window in one piece."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flow_stage import START

from tasks.errors import InputError
from tasks.evaluation.evidence import Measured, gather
from tasks.evaluation.shards import SHARD_COLUMNS, Scored, pack_scored, score_slice, unpack_scored
from tasks.interactions.schema import Interaction, as_table
from tasks.scoring.cache import ScoreCache
from tasks.scoring.pool import State
from tasks.scoring.reading import Score
from tasks.scoring.scorers import ScorerSpec

RELEASES = ("a" * 64, "b" * 64, "c" * 64)
"""The last one has no calls."""
DataFile = Callable[[str], Path]
SCORERS = (ScorerSpec(name="length", path="test_shards_scorer:length"),)


@pytest.fixture
def calls(data_file: DataFile) -> pa.Table:
    """Return real questions and answers as the calls of two releases, some of which failed or were refused."""
    rows = pq.read_table(data_file("grounded/halueval_qa.parquet")).slice(0, 240).to_pylist()
    made = [
        Interaction(
            interaction_id=f"i{at}",
            application="faq",
            release_digest=RELEASES[at % 2],
            time=START + timedelta(minutes=at),
            model="bot",
            route="chat" if at % 3 else None,
            tags=("team=one",) if at % 5 == 0 else (),
            user_hash=f"{at % 7:064x}",
            input_text=row["question"],
            context_text=row["context"],
            output_text=None if at % 40 == 0 else row["answer"],
            latency_ms=100.1 + at / 3,
            status=500 if at % 40 == 0 else 400 if at % 41 == 0 else 200,
            error_type="server_error" if at % 40 == 0 else "invalid_request" if at % 41 == 0 else None,
        )
        for at, row in enumerate(rows)
    ]
    return as_table(made).select(list(SHARD_COLUMNS))


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ScorerSpec, ...]:
    (tmp_path / "test_shards_scorer.py").write_text("def length(outputs):\n    return len(outputs) / 1000 or None\n")
    monkeypatch.syspath_prepend(tmp_path)
    return SCORERS


def score(rows: pa.Table, scorers: tuple[ScorerSpec, ...], folder: Path) -> Scored:
    with ScoreCache(folder / "scores.sqlite") as cache:
        return score_slice(rows, RELEASES, scorers, cache, 4)


def together(parts: list[Scored], digest: str) -> Measured:
    return gather([part[digest][0] for part in parts])


def test_slices_that_were_packed_measure_as_those_that_were_not_to_the_last_digit(
    calls: pa.Table, scorer: tuple[ScorerSpec, ...], tmp_path: Path
) -> None:
    here = [score(calls.slice(at * 60, 60), scorer, tmp_path / "here") for at in range(4)]
    packed = [pack_scored(score(calls.slice(at * 60, 60), scorer, tmp_path / "there")) for at in range(4)]
    assert packed == [pack_scored(part) for part in here]
    there = [unpack_scored(part) for part in packed]
    for digest in RELEASES:
        one, other = together(here, digest), together(there, digest)
        assert one.evidence == other.evidence
        assert one.calls is not None
        assert other.calls is not None
        assert one.calls.equals(other.calls)
        assert one.calls.schema.equals(other.calls.schema)
        assert one.interaction_ids.equals(other.interaction_ids)
        assert [part[digest][1] for part in here] == [part[digest][1] for part in there]
    whole = score(calls, scorer, tmp_path / "here")
    assert together([whole], RELEASES[0]).evidence == together(there, RELEASES[0]).evidence
    assert there[0][RELEASES[0]][1]["length"][1].value == pytest.approx(len(calls["output_text"][4].as_py()) / 1000)


def test_no_text_of_a_user_is_in_it(calls: pa.Table, scorer: tuple[ScorerSpec, ...], tmp_path: Path) -> None:
    packed = pack_scored(score(calls, scorer, tmp_path))
    texts = {text for name in ("input_text", "context_text") for text in calls[name].to_pylist()}
    assert not [text for text in texts if text.encode() in packed]


def test_a_score_that_is_a_word_or_no_score_is_packed_too() -> None:
    scores = {
        "one": [
            Score(name="one", state=State.SCORED, value=0.1 + 0.2),
            Score(name="one", state=State.ERROR, reason="x"),
        ],
        "one/more": [Score(name="one/more", state=State.SCORED, label="good")],
    }
    shard = score_slice(as_table([]).select(list(SHARD_COLUMNS)), RELEASES[:1], (), None, 1)[RELEASES[0]][0]  # type: ignore[arg-type]
    assert unpack_scored(pack_scored({RELEASES[0]: (shard, scores)}))[RELEASES[0]] == (shard, scores)
    assert unpack_scored(pack_scored({})) == {}


@pytest.mark.parametrize("wrong", [b"", b"\x80\x04\x95", b"ARROW1\x00\x00"])
def test_what_is_no_scored_slice_is_refused(wrong: bytes) -> None:
    with pytest.raises(InputError, match="scored slice: it cannot be read"):
        unpack_scored(wrong)


def test_a_slice_whose_calls_are_not_all_spoken_for_is_refused(calls: pa.Table, tmp_path: Path) -> None:
    packed = pack_scored(score(calls, (), tmp_path))
    short = re.sub(rb'"calls":1\d\d', b'"calls":100', packed)
    with pytest.raises(InputError, match="calls' is not allowed; allowed: "):
        unpack_scored(short)
