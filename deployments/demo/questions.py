"""Real users' questions: the corpus's own, as people type them, with the right answer known.

People shorten a question to the words they think matter, put the subject last or first, and mistype. Which
row they mean stays known, so whether an answer is right is truth and not a judge's opinion.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deployments.demo.corpus import Row

_ROWS_OF_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_FUNCTION_TEXT = (
    "a an and are as at be been by did do does for from had has have how in into is it its of on or that the"
    " their them they this to was were what when where which who whom whose why will with"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_TEXT.split())


@dataclass(frozen=True, slots=True)
class Habits:
    """How people type.

    Attributes:
        typos_per_letter: Chance that a letter is mistyped, 0 to 1.
        shortened: Share of questions cut down to a few content words, 0 to 1.
        reordered: Share of questions whose end is said first, 0 to 1.
        kept_words: Most content words of a shortened question, at least 1.
    """

    typos_per_letter: float = 0.08
    shortened: float = 0.7
    reordered: float = 0.3
    kept_words: int = 4


@dataclass(frozen=True, slots=True)
class Question:
    """What a user typed, and what is right.

    Attributes:
        text: As typed.
        row_id: The row of the corpus that is meant.
        answer: The right answer.
    """

    text: str
    row_id: str
    answer: str

    def is_answered_by(self, text: str) -> bool:
        """Return whether an answer is the right one, apart from case and white space at its ends."""
        return text.strip().casefold() == self.answer.strip().casefold()


def typed_questions(rows: Sequence[Row], *, seed: int, habits: Habits | None = None) -> Iterator[Question]:
    """Yield questions without end, every row once before any row a second time.

    Args:
        rows: The corpus.
        seed: The same seed gives the same questions.
        habits: How people type; the default is measured to be hard for whole words.

    Raises:
        ValueError: There are no rows.
    """
    if not rows:
        raise ValueError("a corpus without rows has no questions")
    source, habits, order = random.Random(seed), habits or Habits(), list(rows)
    while True:
        source.shuffle(order)
        for row in order:
            yield Question(typed(row.question, source, habits), row.id, row.answer)


def typed(question: str, source: random.Random, habits: Habits) -> str:
    """Return a question as somebody typed it; never empty where the question was not."""
    words = question.split()
    if source.random() < habits.shortened:
        words = _shortened(words, source, habits.kept_words)
    if source.random() < habits.reordered:
        words = _reordered(words, source)
    text = " ".join(words)
    return mistyped(text, source, habits.typos_per_letter).strip() or text


def mistyped(text: str, source: random.Random, typos_per_letter: float) -> str:
    """Return a text with slips of the keyboard: a neighbouring key, a letter left out, doubled, or swapped.

    Args:
        text: Any text; only letters are mistyped.
        source: Where the chances come from.
        typos_per_letter: Chance that a letter is mistyped, 0 to 1; 0 returns the text.
    """
    letters, typed_letters, at = list(text), list[str](), 0
    while at < len(letters):
        letter, following = letters[at], letters[at + 1 : at + 2]
        at += 1
        if not letter.isalpha() or source.random() >= typos_per_letter:
            typed_letters.append(letter)
            continue
        slip = source.choice(("neighbour", "left out", "doubled", "swapped"))
        if slip == "neighbour":
            typed_letters.append(source.choice(neighbours(letter)))
        elif slip == "doubled":
            typed_letters += [letter, letter]
        elif slip == "swapped":
            typed_letters += [*following, letter]
            at += len(following)
    return "".join(typed_letters)


def neighbours(letter: str) -> str:
    """Return the keys beside a letter on a QWERTY keyboard, in the letter's case; itself where there are none.

    >>> neighbours("a"), neighbours("P"), neighbours("é")
    ('qwsz', 'OL', 'é')
    """
    for number, row in enumerate(_ROWS_OF_KEYS):
        place = row.find(letter.lower())
        if place < 0:
            continue
        above = _ROWS_OF_KEYS[number - 1][place : place + 2] if number else ""
        beside = row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
        below = _ROWS_OF_KEYS[number + 1][max(place - 1, 0) : place + 1] if number + 1 < len(_ROWS_OF_KEYS) else ""
        keys = above + beside + below
        return keys.upper() if letter.isupper() else keys
    return letter


def _shortened(words: list[str], source: random.Random, kept_words: int) -> list[str]:
    content = [at for at, word in enumerate(words) if word.lower().strip('?,."') not in _FUNCTION_WORDS]
    kept = sorted(source.sample(content, min(kept_words, len(content))))
    return [words[at] for at in kept] or words


def _reordered(words: list[str], source: random.Random) -> list[str]:
    if len(words) < 2:  # noqa: PLR2004 - one word has no order
        return words
    cut = source.randrange(1, len(words))
    return words[cut:] + words[:cut]
