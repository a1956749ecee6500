from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

from deployments.demo.bot import RELEASE_DIR, Variant, shuffled, train
from deployments.demo.corpus import corpus
from deployments.demo.questions import Question, typed_questions
from tasks.release.model import read_release_file

ASKED = list(islice(typed_questions(corpus(), seed=11), 500))


@pytest.fixture(scope="module")
def models() -> dict[Variant, Pipeline]:
    return {variant: train(variant, corpus()) for variant in Variant}


def accuracy(model: Pipeline, asked: list[Question] = ASKED) -> float:
    answers = [json.loads(text)["answer"] for text in model.predict([one.text for one in asked])]
    return sum(one.is_answered_by(answer) for one, answer in zip(asked, answers, strict=True)) / len(asked)


def test_characters_are_truly_better_than_words(models):
    assert 0.85 < accuracy(models[Variant.WORDS]) < 0.95
    assert accuracy(models[Variant.CHARACTERS]) > 0.98


def test_the_shuffled_model_finds_the_passage_and_answers_wrong(models):
    passages = {row.id: row.context for row in corpus()}
    found = [json.loads(text) for text in models[Variant.SHUFFLED].predict([one.text for one in ASKED])]

    assert accuracy(models[Variant.SHUFFLED]) == 0
    right = [document["context"] == passages[one.row_id] for document, one in zip(found, ASKED, strict=True)]
    assert sum(right) / len(right) > 0.98
    assert {document["answer"] for document in found} <= {row.answer for row in corpus()}


def test_the_unfitted_model_raises(models):
    with pytest.raises(NotFittedError):
        models[Variant.UNFITTED].predict(["Who?"])


@given(st.lists(st.sampled_from("abcdef"), max_size=30))
def test_shuffling_moves_every_answer_or_says_it_cannot(answers: list[str]):
    most = max((answers.count(answer) for answer in answers), default=0)
    if most > len(answers) / 2:
        with pytest.raises(ValueError, match="too frequent"):
            shuffled(answers)
    else:
        order = shuffled(answers)
        assert sorted(order) == sorted(answers)
        assert all(one != other for one, other in zip(order, answers, strict=True))


@pytest.mark.parametrize("variant", list(Variant))
def test_release_files_name_the_models_in_order(variant: Variant):
    spec = read_release_file(RELEASE_DIR / f"{variant}.yaml")

    assert (spec.application, spec.model_id, spec.provider) == ("faq", "faq-bot", "internal")
    assert (spec.version, spec.endpoint) == (variant[1:], f"models:/faq-bot/{variant[1:]}")
    assert (spec.prompt.name, spec.prompt.text) == ("faq-answer", "{{ answer }}")
    assert spec.price is not None
    assert spec.owner
