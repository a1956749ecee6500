"""Checks of answers that need no model: each says pass, fail, not applicable or unknown of every answer.

They are for calls that did not fail. What a check means and where it is valid stands in ``CHECKS`` and is printed with
its figures. *Not applicable* is a fact about the answer (no schema is declared); *unknown* is missing knowledge (the
answer was not kept). Neither counts in a rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.judging.agreement import Interval, wilson
from tasks.scoring.check_rules import (
    Rules,
    echoes_prompt,
    holds_personal_data,
    is_declined,
    is_loop,
    is_valid_json,
)
from tasks.scoring.languages import detect_language, is_tag, same_language


class Found(IntEnum):
    """What one check says of one answer."""

    PASS = 0
    FAIL = 1
    NOT_APPLICABLE = 2
    UNKNOWN = 3


States = NDArray[np.int8]
_COLUMNS: Final = ("input_text", "output_text", "context_text", "finish_reason", "language")
_CUT: Final = frozenset({"length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded"})
_TOOLS: Final = frozenset({"tool_calls", "tool_use", "function_call"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A batch of answers, a list for each column of the interaction log; None is unknown everywhere."""

    questions: Sequence[str | None]
    responses: Sequence[str | None]
    contexts: Sequence[str | None]
    finish_reasons: Sequence[str | None]
    languages: Sequence[str | None]

    @classmethod
    def of(cls, table: pa.Table) -> Answers:
        """Return the answers of a table of interactions; a column it does not have is unknown."""
        absent: list[str | None] = [None] * table.num_rows
        columns = [table[name].to_pylist() if name in table.column_names else absent for name in _COLUMNS]
        names = ("questions", "responses", "contexts", "finish_reasons", "languages")
        return cls(**dict(zip(names, columns, strict=True)))

    def __len__(self) -> int:
        """Return how many answers there are."""
        return len(self.responses)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRate:
    """How often a check failed in a window.

    Attributes:
        name: The check.
        failed, judged, not_applicable, unknown: Answers; ``judged`` are those that passed or failed.
        share: ``failed / judged`` with Wilson's two-sided 95 % bounds; None where none was judged.
    """

    name: str
    failed: int
    judged: int
    not_applicable: int
    unknown: int
    share: Interval | None

    @property
    def words(self) -> str:
        """The rate with its interval, for people."""
        if self.share is None:
            return f"{self.name}: nothing to judge ({self.not_applicable} not applicable, {self.unknown} unknown)"
        value, low, high = (round(100 * part, 3) for part in (self.share.value, self.share.low, self.share.high))
        return f"{self.name}: {self.failed} of {self.judged}, {value:g} % [{low:g}, {high:g}]"


@dataclass(frozen=True, slots=True)
class Kind:
    """One check: what a failure is, where it can be trusted, and the function that judges one answer."""

    failure: str
    valid: str
    judge: Callable[[Answers, int, Rules], Found]


def run_checks(answers: Answers, rules: Rules, names: Sequence[str] | None = None) -> dict[str, States]:
    """Run checks over a batch of answers.

    Args:
        answers: What was answered.
        rules: What the release declares.
        names: Checks of ``CHECKS``; all of them without it.

    Returns:
        A state of ``Found`` an answer, by check.

    Raises:
        InputError: A name is no check.
    """
    for name in names or ():
        if name not in CHECKS:
            raise InputError.of("check", name, CHECKS)
    chosen = CHECKS if names is None else {name: CHECKS[name] for name in names}
    rows = range(len(answers))
    return {
        name: np.fromiter((kind.judge(answers, at, rules) for at in rows), np.int8, len(answers))
        for name, kind in chosen.items()
    }


def rate_check(name: str, states: States) -> CheckRate:
    """Return how often a check failed."""
    passed, failed, apart, unknown = (int(np.count_nonzero(states == state)) for state in Found)
    share = wilson(failed, passed + failed)
    return CheckRate(
        name=name, failed=failed, judged=passed + failed, not_applicable=apart, unknown=unknown, share=share
    )


def _spoken(judge: Callable[[Answers, int, Rules, str], Found]) -> Callable[[Answers, int, Rules], Found]:
    """Return a check of written answers: unknown without the text, not applicable where nothing was written."""

    def whole(answers: Answers, at: int, rules: Rules) -> Found:
        text = answers.responses[at]
        if text is None:
            return Found.UNKNOWN
        return judge(answers, at, rules, text) if text.strip() else Found.NOT_APPLICABLE

    return whole


def _empty(answers: Answers, at: int, _: Rules) -> Found:
    text = answers.responses[at]
    if text is None:
        return Found.UNKNOWN
    if text.strip():
        return Found.PASS
    return Found.NOT_APPLICABLE if answers.finish_reasons[at] in _TOOLS else Found.FAIL


def _truncated(answers: Answers, at: int, _: Rules) -> Found:
    reason = answers.finish_reasons[at]
    return Found.UNKNOWN if reason is None else Found(reason.lower() in _CUT)


def _repetition(_answers: Answers, _at: int, _rules: Rules, text: str) -> Found:
    looped = is_loop(text)
    return Found.NOT_APPLICABLE if looped is None else Found(looped)


def _json(_answers: Answers, _at: int, rules: Rules, text: str) -> Found:
    return Found.NOT_APPLICABLE if rules.json_schema is None else Found(not is_valid_json(text, rules.json_schema))


def _refusal(_answers: Answers, _at: int, _rules: Rules, text: str) -> Found:
    declined = is_declined(text)
    return Found.UNKNOWN if declined is None else Found(declined)


def _language(answers: Answers, at: int, rules: Rules, text: str) -> Found:
    if rules.json_schema is not None:
        return Found.NOT_APPLICABLE
    wanted = rules.language or answers.languages[at] or detect_language(answers.questions[at])
    given = detect_language(text)
    if wanted is None or given is None or not is_tag(wanted):
        return Found.UNKNOWN
    return Found(not same_language(wanted, given))


def _prompt_leak(answers: Answers, at: int, rules: Rules, text: str) -> Found:
    if not rules.prompt_runs:
        return Found.NOT_APPLICABLE
    return Found(echoes_prompt(text, rules, (answers.questions[at], answers.contexts[at])))


def _pii(_answers: Answers, _at: int, _rules: Rules, text: str) -> Found:
    return Found(holds_personal_data(text))


CHECKS: Final[dict[str, Kind]] = {
    "empty": Kind("empty answers", "Everywhere; calls of tools without a text are not applicable.", _empty),
    "truncated": Kind("answers cut off", "Where the log has the provider's finish reason.", _truncated),
    "repetition": Kind(
        "answers caught in a loop", "From 20 words (60 signs without spaces) on; lists and verse may repeat by intent.",
        _spoken(_repetition),
    ),
    "json": Kind(
        "answers that are not the declared JSON", "Where the release declares JSON; a fence around it is a failure.",
        _spoken(_json),
    ),
    "refusal": Kind(
        "refusals", "By how an answer begins, in English, German, French, Spanish, Italian, Portuguese and Dutch; a "
        "refusal may be right.", _spoken(_refusal),
    ),
    "language": Kind(
        "answers in another language than the question",
        "Where both languages are sure (6 words or more, no code); not where translations are asked for.",
        _spoken(_language),
    ),
    "prompt_leak": Kind(
        "answers that repeat the release's prompt", "Twelve words in a row of the prompt that neither question nor "
        "context hold; a paraphrase or translation is not seen.", _spoken(_prompt_leak),
    ),
    "pii": Kind(
        "answers with personal data or secrets", "E-mail, IBAN and card with check digits, telephone, keys; no names "
        "or addresses; data the user gave or the context holds count too.", _spoken(_pii),
    ),
}  # fmt: skip
"""The checks by name."""
