from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.corpus import Row, corpus
from deployments.demo.questions import Habits, Question, mistyped, neighbours, typed, typed_questions

SEEDS = st.integers(0, 2**32)


def test_the_corpus_is_whole():
    rows = corpus()

    assert len(rows) == len({row.question for row in rows}) == len({row.id for row in rows}) == 500
    assert all(text.strip() == text != "" for row in rows for text in (row.question, row.context, row.answer))


@given(st.text(), SEEDS)
def test_without_typos_a_text_stays(text: str, seed: int):
    assert mistyped(text, random.Random(seed), 0) == text


@given(st.text(), SEEDS, st.floats(0, 1))
def test_only_letters_are_mistyped(text: str, seed: int, chance: float):
    changed = mistyped(text, random.Random(seed), chance)

    assert sorted(c for c in changed if not c.isalpha()) == sorted(c for c in text if not c.isalpha())
    assert len(changed) <= 2 * len(text)


@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=400, max_size=600), SEEDS)
def test_about_as_many_letters_as_wanted_are_mistyped(text: str, seed: int):
    changed = mistyped(text, random.Random(seed), 0.08)

    assert changed != text
    assert abs(len(changed) - len(text)) < 0.15 * len(text)


@given(st.text(min_size=1), SEEDS)
def test_a_question_is_never_empty(question: str, seed: int):
    if question.strip():
        assert typed(question, random.Random(seed), Habits(1.0, 1.0, 1.0, 1)).strip()


def test_neighbours_are_mutual_and_never_the_letter():
    letters = "abcdefghijklmnopqrstuvwxyz"
    assert all(letter not in neighbours(letter) and neighbours(letter) for letter in letters)
    assert all(letter in neighbours(key) for letter in letters for key in neighbours(letter))


def test_the_same_seed_asks_the_same_and_every_row_once_a_round():
    rows = corpus()[:20]
    first, again, other = (list(islice(typed_questions(rows, seed=seed), 40)) for seed in (1, 1, 2))

    assert first == again != other
    assert sorted(one.row_id for one in first[:20]) == sorted(row.id for row in rows)
    assert sorted(one.row_id for one in first[20:]) == sorted(row.id for row in rows)


def test_questions_are_really_varied():
    asked = list(islice(typed_questions(corpus(), seed=3), 500))
    known = {row.question for row in corpus()}

    assert sum(one.text in known for one in asked) < 10
    assert sum(len(one.text.split()) <= 4 for one in asked) / 500 == pytest.approx(0.7, abs=0.06)


def test_truth_looks_at_the_answer_and_not_at_its_case():
    question = Question("who", "1", "Bob Marley")

    assert question.is_answered_by(" bob marley\n")
    assert not question.is_answered_by("Bob")


def test_an_empty_corpus_has_no_questions():
    with pytest.raises(ValueError, match="without rows"):
        next(typed_questions([], seed=0))
    assert next(typed_questions([Row("1", "Why?", "c", "a")], seed=0)).row_id == "1"
