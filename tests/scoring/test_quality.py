from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tasks.scoring.quality import evaluate_quality, is_refusal, score_quality, score_relevance, score_support

DataFile = Callable[[str], Path]
LIMIT = 0.7
CONTEXT = "The Oberoi Group is a hotel company with its head office in Delhi. It was founded in 1934."
QUESTION = "In what city does the Oberoi Group have its head office?"


@pytest.mark.parametrize(
    "answer",
    ["Delhi", "delhi.", "In Delhi", "The head office is in Delhi.", "The Oberoi Group has its head office in Delhi."],
)
def test_supported_answer_scores_high(answer: str) -> None:
    score = evaluate_quality(QUESTION, answer, CONTEXT)
    assert score is not None
    assert score > LIMIT


@pytest.mark.parametrize("answer", ["Mumbai", "Paris, the capital of France", "Arthur's Magazine", "1952"])
def test_answer_that_the_context_does_not_hold_scores_near_zero(answer: str) -> None:
    score = evaluate_quality(QUESTION, answer, CONTEXT)
    assert score is not None
    assert score < 0.2


def test_a_refusal_is_how_an_answer_begins() -> None:
    assert all(map(is_refusal, ("I\u2019m sorry, no.", " I cannot say.", "As an AI model ...", "Unknown.")))
    assert not any(map(is_refusal, ("", "Delhi", "He said: I'm sorry.", "The unknown soldier")))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("empty", ""),
        ("blank", " \n"),
        ("refusal", "I'm sorry, but the context does not mention a city."),
        ("refusal, typographic", "I\u2019m sorry, I cannot help with that."),
        ("refusal by ignorance", "I don't know."),
        ("loop", "head office in Delhi " * 20),
        ("echo", QUESTION),
    ],
)
def test_deterministic_failure_scores_zero(name: str, answer: str) -> None:
    assert evaluate_quality(QUESTION, answer, CONTEXT) == 0.0, name


def test_long_supported_answer_is_no_loop() -> None:
    answer = CONTEXT + " " + CONTEXT
    score = evaluate_quality(QUESTION, answer, CONTEXT)
    assert score is not None
    assert score > LIMIT


@pytest.mark.parametrize(
    ("question", "answer", "context"),
    [
        (QUESTION, None, CONTEXT),
        (QUESTION, "Delhi", None),
        (QUESTION, "Delhi", "  "),
        (None, "Delhi", CONTEXT),
        ("Is it?", "Delhi", CONTEXT),
        (QUESTION, "yes", CONTEXT),
        (QUESTION, "No.", CONTEXT),
        (QUESTION, "\u5fb7\u91cc", "\u603b\u90e8\u5728\u5fb7\u91cc"),
    ],
)
def test_what_cannot_be_scored_is_none_and_never_zero(
    question: str | None, answer: str | None, context: str | None
) -> None:
    assert evaluate_quality(question, answer, context) is None


def test_supported_answer_to_another_question_is_punished() -> None:
    other = "Which genus of moth contains only one species and lives in India?"
    score = evaluate_quality(other, "Delhi", CONTEXT.replace("India", ""))
    right = evaluate_quality(QUESTION, "Delhi", CONTEXT)
    assert score is not None
    assert right is not None
    assert score < LIMIT / 2 < LIMIT < right


_text = st.none() | st.text(max_size=40) | st.sampled_from([QUESTION, CONTEXT, "Delhi", "yes", "I don't know"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_text, _text, _text), max_size=8))
def test_a_row_scores_the_same_alone_and_in_a_batch(rows: list[tuple[str | None, str | None, str | None]]) -> None:
    questions, answers, contexts = ([row[at] for row in rows] for at in range(3))
    batch = score_quality(questions, answers, contexts)
    alone = [evaluate_quality(*row) for row in rows]
    assert [None if np.isnan(score) else score for score in batch.tolist()] == alone
    assert all(score is None or 0 <= score <= 1 for score in alone)


@pytest.fixture(scope="module")
def rows(data_file: DataFile) -> pd.DataFrame:
    """Return right answers to real questions: every second row; the judge is calibrated on the others."""
    frame = pd.read_parquet(data_file("grounded/halueval_qa.parquet"))
    return frame[frame["label"] == 0].iloc[1::2].reset_index(drop=True)


def test_right_answers_score_above_the_limit(rows: pd.DataFrame) -> None:
    scores = score_quality(*_texts(rows, "question", "answer", "context"))
    assert np.nanmean(scores) > 0.95
    assert np.nanquantile(scores, 0.05) > LIMIT


def test_only_yes_and_no_cannot_be_scored(rows: pd.DataFrame) -> None:
    scores = score_quality(*_texts(rows, "question", "answer", "context"))
    assert set(rows["answer"][np.isnan(scores)].str.lower()) == {"yes", "no"}


def test_answers_of_other_rows_score_near_zero(rows: pd.DataFrame) -> None:
    questions, answers, contexts = _texts(rows, "question", "answer", "context")
    shuffled = answers[137:] + answers[:137]
    assert np.nanmean(score_quality(questions, shuffled, contexts)) < 0.1


def test_right_answers_to_misspelt_questions_stay_above_the_limit(rows: pd.DataFrame) -> None:
    questions, answers, contexts = _texts(rows, "question", "answer", "context")
    source = random.Random(3)
    typed = [_misspelt(question or "", source) for question in questions]
    assert np.nanmean(score_quality(typed, answers, contexts)) > 0.9


def test_supported_answers_to_other_questions_stay_below_the_limit(rows: pd.DataFrame) -> None:
    questions, answers, contexts = _texts(rows, "question", "answer", "context")
    scores = score_quality(questions, answers[137:] + answers[:137], contexts[137:] + contexts[:137])
    assert np.nanmean(scores) < 0.4


def test_relevance_tells_own_context_from_others(rows: pd.DataFrame) -> None:
    questions, _, contexts = _texts(rows, "question", "answer", "context")
    nothing = [""] * len(questions)
    own = score_relevance(questions, nothing, contexts)
    other = score_relevance(questions, nothing, contexts[137:] + contexts[:137])
    assert roc_auc_score([1] * len(own) + [0] * len(other), np.concatenate([own, other])) > 0.97


def test_support_beats_the_floor_on_dialogue(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("grounded/begin_dev.parquet"))
    frame = frame[frame["label"].notna()]
    support = score_support(*_texts(frame, "answer", "context"))
    with data_file("truth/floors.csv").open(encoding="utf-8") as file:
        floors = [float(row["auc_or_accuracy"]) for row in csv.DictReader(file) if row["dataset"].endswith("begin_dev")]
    assert len(frame) == 767
    assert np.isnan(support).sum() <= 3
    auc = roc_auc_score(1 - frame["label"].astype(int), np.nan_to_num(support))
    assert auc > max(floors) == 0.9525


def _texts(frame: pd.DataFrame, *columns: str) -> tuple[list[str | None], ...]:
    return tuple([text if isinstance(text, str) else None for text in frame[column]] for column in columns)


def _misspelt(text: str, source: random.Random, rate: float = 0.08) -> str:
    letters: Sequence[str] = list(text)
    result: list[str] = []
    at = 0
    while at < len(letters):
        chance = source.random()
        if chance < rate / 2:
            at += 1
        elif chance < rate and at + 1 < len(letters):
            result += [letters[at + 1], letters[at]]
            at += 2
        else:
            result.append(letters[at])
            at += 1
    return "".join(result)
