"""Wording of segments: a sentence in one language, texts that are gone, and too few users."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.drift.sample import Sample
from tasks.drift.segment_texts import hold_segment_texts
from tasks.monitors.verdict import Outcome

MONDAY, NIGHTS, N = date(2026, 3, 2), 6, 1500
SENTENCE = " Is there anything else I can help you with?"
Text = tuple[str, str]


@pytest.fixture(scope="module")
def texts(data_file: Callable[[str], Path]) -> list[Text]:
    """Return real questions and answers, in an order drawn once."""
    rows = pq.read_table(data_file("grounded/halueval_general_closedbook.parquet"), columns=["question", "answer"])
    pairs = [(row["question"], row["answer"][:300]) for row in rows.to_pylist()]
    return [pairs[at] for at in np.random.default_rng(5).permutation(len(pairs))]


def sample_of(texts: list[Text], nights: int, name: str, *, more: str = "") -> Sample:
    """Return texts of so many users over some nights: every 21st of them in French, whose answers may say more."""
    language = ["fr" if at % 21 == 0 else "en" for at in range(len(texts))]
    rows = {
        "who": [f"{name}{at}" for at in range(len(texts))],
        "is_known": [True] * len(texts),
        "interaction_id": [f"{name}-i{at}" for at in range(len(texts))],
        "date_utc": [MONDAY + timedelta(days=at % nights) for at in range(len(texts))],
        "input_text": [question for question, _ in texts],
        "output_text": [
            f"{answer}{more if of == 'fr' else ''}" for (_, answer), of in zip(texts, language, strict=True)
        ],
        "route": ["chat" if at % 3 else "search" for at in range(len(texts))],
        "model": ["bot"] * len(texts),
        "language": language,
        "prompt_version": [1 + at % 2 for at in range(len(texts))],
        "tags": [["team=one"] if at % 5 == 1 else [] for at in range(len(texts))],
    }
    schema = pa.Table.from_pydict({name: rows[name] for name in rows if name != "tags"})
    tags = pa.array(rows["tags"], pa.list_(pa.string()))
    return Sample(rows=schema.append_column("tags", tags), calls=len(texts))


@pytest.fixture(scope="module")
def old(texts: list[Text]) -> Sample:
    return sample_of(texts[:N], NIGHTS, "old")


def test_a_sentence_in_one_language_is_warned_of_there_and_nowhere_else(texts: list[Text], old: Sample) -> None:
    found = hold_segment_texts(sample_of(texts[N : 2 * N], 1, "new", more=SENTENCE), old, ())
    failed = {(name, check.monitor): check for name, check in found.warnings if check.outcome is Outcome.FAIL}
    assert list(failed) == [("language=fr", "drift:answer text")]
    (check,) = failed.values()
    assert check.statement.startswith("drift of language=fr: answer text ")
    assert check.statement.endswith("p 0.005 (n=72 units, baseline n=72)")
    assert "wholly beyond 20.0%" in check.statement, "no four nights of it have 30 users"
    assert check.value is not None
    assert check.value > 0.9


def test_what_is_quiet_passes_what_failed_as_a_whole_is_not_looked_at_and_one_model_is_no_segment(
    texts: list[Text], old: Sample
) -> None:
    found = hold_segment_texts(sample_of(texts[N : 2 * N], 1, "new"), old, ("answer text",))
    assert {check.outcome for _, check in found.warnings} == {Outcome.PASS}
    assert {check.monitor for _, check in found.warnings} == {"drift:question text"}
    assert [name for name, _ in found.warnings] == [
        *("language=en", "route=chat", "prompt_version=1", "prompt_version=2", "route=search", "tag=team=one"),
        "language=fr",
    ]
    first = found.warnings[0][1].statement
    words = "drift of language=en: question text not shown to differ in more than 5% of its texts"
    assert first == f"{words} (n=500 units, baseline n=500)"


def test_texts_that_are_gone_are_said_and_few_users_say_nothing(texts: list[Text], old: Sample) -> None:
    gone = Sample(rows=old.rows.slice(0, 0), calls=0)
    new = sample_of(texts[N : N + 40], 1, "new", more=SENTENCE)
    found = hold_segment_texts(new, gone, ())
    assert found.remarks == ("The baseline's texts are gone, so nothing is said about the wording of segments.",)
    assert found.warnings == ()
    few = hold_segment_texts(new, old, ())
    assert {name for name, _ in few.warnings} == {"language=en"}
    none = hold_segment_texts(gone, gone, ())
    assert (none.warnings, none.remarks) == ((), ())
