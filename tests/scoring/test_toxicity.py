from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tasks.scoring.toxicity import (
    IDENTITY_TERMS,
    MAX_TERMS,
    TERM_PROBABILITY,
    TOXIC_PROBABILITY,
    count_toxic,
    read_terms,
    score_profanity,
    score_toxicity,
)

DataFile = Callable[[str], Path]


def test_missing_stays_missing_and_empty_is_clean() -> None:
    scores = score_toxicity([None, "", "  ", "Paris is the capital of France."])
    assert np.isnan(scores[0])
    assert scores[1:3].tolist() == [0.0, 0.0]
    assert scores[3] < TOXIC_PROBABILITY


def test_insult_is_toxic_and_nothing_is_nothing() -> None:
    assert count_toxic(score_toxicity(["you stupid idiot", "hello", None])) == 1
    assert score_toxicity([]).shape == (0,)
    assert np.isnan(score_toxicity([None])).all()


def test_a_text_scores_the_same_alone_and_in_a_batch() -> None:
    texts = ["hello", "you stupid idiot", "what the hell"]
    assert score_toxicity(texts).tolist() == [float(score_toxicity([text])[0]) for text in texts]


def test_beats_the_floor_on_moderation_data(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("toxicity/openai_moderation.parquet"))
    with data_file("truth/floors.csv").open(encoding="utf-8") as file:
        (floor,) = [float(row["auc_or_accuracy"]) for row in csv.DictReader(file) if "moderation" in row["dataset"]]
    scores = score_toxicity(frame["text"].tolist())
    assert roc_auc_score(frame["flagged"], scores) > 0.82 > floor


def test_right_answers_to_ordinary_questions_are_not_toxic(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("grounded/halueval_qa.parquet"))
    assert count_toxic(score_toxicity(frame["answer"].tolist())) / len(frame) < 0.01


def test_figures_on_moderation_data(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("toxicity/openai_moderation.parquet"))
    texts, flagged = frame["text"].tolist(), frame["flagged"].astype(int)
    assert roc_auc_score(flagged, score_toxicity(texts)) >= 0.84 > roc_auc_score(flagged, score_profanity(texts)) > 0.82


def test_the_word_list_does_not_cost_what_the_model_knows(data_file: DataFile) -> None:
    frame = pd.read_parquet(data_file("toxicity/davidson.parquet")).iloc[::10]
    texts, toxic = frame["text"].tolist(), frame["label"].astype(int)
    assert roc_auc_score(toxic, score_toxicity(texts)) > roc_auc_score(toxic, score_profanity(texts)) - 0.001


def test_terms_are_seen_where_the_model_is_blind() -> None:
    text = "He had an erection."
    assert score_toxicity([text])[0] == pytest.approx(1 - (1 - score_profanity([text])[0]) * (1 - TERM_PROBABILITY))
    phrase = ["They went to a strip club.", "They went to a stripclubs."]
    added = score_toxicity(phrase) - score_profanity(phrase)
    assert added[0] > 0
    assert added[1] == pytest.approx(0)


def test_the_word_list_makes_no_answer_toxic_alone() -> None:
    report = "Rape, murder and sex: they kill, and the naked breasts and the erection were seen."
    found, alone = score_toxicity([report])[0], score_profanity([report])[0]
    assert found == pytest.approx(1 - (1 - alone) * (1 - TERM_PROBABILITY) ** MAX_TERMS)
    assert 1 - (1 - TERM_PROBABILITY) ** MAX_TERMS < TOXIC_PROBABILITY


def test_naming_people_is_no_hatred() -> None:
    texts = ["Jews, Muslims and Christians live there.", "She is gay and he is an immigrant.", "Queers and lesbians."]
    assert score_toxicity(texts) == pytest.approx(score_profanity(texts))
    assert not read_terms() & (IDENTITY_TERMS | {f"{term}s" for term in IDENTITY_TERMS})
    assert len(read_terms()) == 911
