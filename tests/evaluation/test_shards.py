"""A window scored in slices, each packed and unpacked as another process would, against the window in one piece."""

from __future__ import annotations

import json
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
from tasks.evaluation.shards import SHARD_COLUMNS, ReleaseSlice, Scored, pack_scored, score_slice, unpack_scored
from tasks.interactions.schema import Interaction, as_table
from tasks.scoring.check_rules import Rules, make_rules
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.pool import State
from tasks.scoring.reading import Score
from tasks.scoring.slices import Around, open_around

RELEASES = ("a" * 64, "b" * 64, "c" * 64)
"""The last one has no calls."""
DataFile = Callable[[str], Path]
PROMPT = "Answer from what was found and from nothing else, in one short sentence, and say so where you cannot."
RULES = {digest: make_rules(PROMPT) for digest in RELEASES}
PLANS = {
    "plain": EvaluationSpec(),
    "scorers": EvaluationSpec.model_validate({"scorers": [{"name": "length", "path": "test_shards_scorer:length"}]}),
    "toxicity": EvaluationSpec.model_validate(
        {
            "scorers": [{"name": "length", "path": "test_shards_scorer:length"}],
            "toxicity": {"source": "scorer", "scorer": {"name": "long", "path": "test_shards_scorer:long"}},
            "references": {"file": "references.jsonl"},
        }
    ),
}


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
def staged(calls: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with scorers and with references to the even questions, and answers without some references."""
    (tmp_path / "test_shards_scorer.py").write_text(
        "def length(outputs):\n    return len(outputs) / 1000 or None\n"
        "def long(outputs):\n    return min(1.0, len(outputs) / 300) if len(outputs) > 20 else float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    questions = calls["input_text"].to_pylist()[::2]
    lines = [json.dumps({"question": question, "reference": "the city of Delhi"}) for question in questions]
    (tmp_path / "references.jsonl").write_text("\n".join(lines))
    return tmp_path


def score(rows: pa.Table, plan: EvaluationSpec, folder: Path) -> Scored:
    with open_around(folder, plan, {}, "") as around:
        return score_slice(rows, RULES, plan, around)


def together(parts: list[Scored], digest: str) -> Measured:
    return gather([part[digest].shard for part in parts])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_slices_that_were_packed_measure_as_those_that_were_not_to_the_last_digit(
    calls: pa.Table, staged: Path, plan: EvaluationSpec
) -> None:
    here = [score(calls.slice(at * 60, 60), plan, staged) for at in range(4)]
    (staged / "scores.sqlite").unlink(missing_ok=True)
    packed = [pack_scored(score(calls.slice(at * 60, 60), plan, staged)) for at in range(4)]
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
        assert [part[digest].scores for part in here] == [part[digest].scores for part in there]
        assert [part[digest].looked for part in here] == [part[digest].looked for part in there]
    whole = score(calls, plan, staged)
    assert together([whole], RELEASES[0]).evidence == together(there, RELEASES[0]).evidence
    if plan.scorers:
        value = there[0][RELEASES[0]].scores["length"][1].value
        assert value == pytest.approx(len(calls["output_text"][4].as_py()) / 1000)


def test_what_was_seen_in_a_text_stands_beside_its_call_however_often_an_id_is_there(
    calls: pa.Table, staged: Path
) -> None:
    twice = calls.set_column(calls.column_names.index("interaction_id"), "interaction_id", pa.array(["x"] * len(calls)))
    found = score(twice, PLANS["toxicity"], staged)[RELEASES[0]]
    again = unpack_scored(pack_scored({RELEASES[0]: found}))[RELEASES[0]].looked
    said = [row for row in calls.to_pylist() if row["release_digest"] == RELEASES[0] and row["status"] == 200]
    assert again["check_empty"].to_pylist() == [0] * len(said)
    assert again["toxicity"].to_pylist() == [
        pytest.approx(min(1.0, len(row["output_text"]) / 300)) if len(row["output_text"]) > 20 else None for row in said
    ]
    known = [value is not None for value in again["similarity"].to_pylist()]
    assert known == [row["interaction_id"] in {f"i{at}" for at in range(0, 240, 2)} for row in said]
    assert set(again["toxicity_problem"].to_pylist()) == {None, "it gave nan, which is no score"}


def test_no_text_of_a_user_is_in_it(calls: pa.Table, staged: Path) -> None:
    packed = pack_scored(score(calls, PLANS["toxicity"], staged))
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
    empty = as_table([]).select(list(SHARD_COLUMNS))
    none = score_slice(empty, {RELEASES[0]: Rules()}, EvaluationSpec(), Around())[RELEASES[0]]
    found = ReleaseSlice(none.shard, scores, none.looked)
    assert unpack_scored(pack_scored({RELEASES[0]: found}))[RELEASES[0]] == found
    assert unpack_scored(pack_scored({})) == {}


def test_answers_that_are_in_no_sample_take_next_to_no_room() -> None:
    left_out = [Score(name="one", state=State.NOT_RUN, reason="not in the sample") for _ in range(20_000)]
    scores = {"one": [*left_out, Score(name="one", state=State.SCORED, value=-0.0)]}
    empty = score_slice(as_table([]).select(list(SHARD_COLUMNS)), {RELEASES[0]: Rules()}, EvaluationSpec(), Around())
    none = empty[RELEASES[0]]
    packed = pack_scored({RELEASES[0]: ReleaseSlice(none.shard, scores, none.looked)})
    assert len(packed) < 5 * 20_000
    again = unpack_scored(packed)[RELEASES[0]].scores["one"]
    assert again == scores["one"]
    assert len({id(one) for one in again}) == 2


@pytest.mark.parametrize("wrong", [b"", b"\x80\x04\x95", b"ARROW1\x00\x00"])
def test_what_is_no_scored_slice_is_refused(wrong: bytes) -> None:
    with pytest.raises(InputError, match="scored slice: it cannot be read"):
        unpack_scored(wrong)


def test_a_slice_whose_calls_are_not_all_spoken_for_is_refused(calls: pa.Table, tmp_path: Path) -> None:
    packed = pack_scored(score(calls, PLANS["plain"], tmp_path))
    short = re.sub(rb'"calls":1\d\d', b'"calls":100', packed)
    with pytest.raises(InputError, match="calls' is not allowed; allowed: "):
        unpack_scored(short)
