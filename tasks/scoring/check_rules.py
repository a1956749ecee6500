"""What the checks of answers look for in one text, and what a release declares of its answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import JsonValue

from tasks.errors import InputError
from tasks.interactions.redaction import Redactor, make_redactor
from tasks.scoring.quality import is_refusal
from tasks.smoke.matching import TooSlowError, broken_places, check_json_schema, parse_json

LEAK_WORDS: Final = 12
"""So many words of the prompt in a row are a leak."""
LOOP_WORDS: Final = 20
LOOP_SIGNS: Final = 60
LOOP_DISTINCT: Final = 0.35
"""Runs of three that are different, of all of them: below this share a text is caught in a loop."""
_TAIL: Final = 3
"""The end of a text, this many times the shortest length, is looked at by itself: loops begin late."""
_WORD: Final = re.compile(r"\w+")
_NO_SPACES: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_OTHER_SCRIPT: Final = re.compile(r"[\u0370-\u1fff\u2c00-\ud7ff\uf900-\ufaff]")
_FREE: Final = re.compile(r"\{\{.*?\}\}|\{[^{}\s]{1,60}\}|\"[^\"]*\"|\u201c[^\u201d]*\u201d", re.DOTALL)
_PERSONAL: Final = re.compile(r"[0-9@]|-----BEGIN|(?i:bearer|basic|api.?key|secret|token|passw|access.?key)|://")
_REFUSALS: Final = re.compile(
    r"^\W*(?:"
    r"(?:es )?tut mir leid|entschuldigung|leider (?:kann|weiß|habe) ich"
    r"|(?:das |dies )?(?:kann|weiß|darf) ich (?:leider )?(?:nicht|keine?)"
    r"|ich (?:kann|darf|weiß|bin) (?:\w+ ){0,4}nicht\b"
    r"|(?:je suis )?désolée?|je (?:ne |n')(?:peux|sais|suis|dispose)\b.{0,30}\b(?:pas|aucune)\b|malheureusement,? je ne"
    r"|lo siento|no puedo\b|no (?:tengo|dispongo de) (?:información|acceso)|no lo sé"
    r"|mi dispiace|non (?:posso|so|ho (?:informazioni|accesso))\b"
    r"|(?:sinto|lamento) muito|desculpe|não (?:posso|sei|tenho (?:informaç|acesso))"
    r"|het spijt me|sorry|ik (?:kan|weet|mag|heb) (?:\w+ ){0,4}(?:niet|geen)\b"
    r")"
)
_ASKED_JSON: Final = ("json_object", "json_schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a release declares of its answers.

    Attributes:
        json_schema: The schema answers follow, empty where any JSON will do; None where they need be no JSON.
        prompt_runs: Every ``LEAK_WORDS`` words in a row of the prompt's own text.
        language: What every answer is in, as a BCP 47 tag; None where it follows the question.
    """

    json_schema: Mapping[str, JsonValue] | None = None
    prompt_runs: frozenset[tuple[str, ...]] = frozenset()
    language: str | None = None


def make_rules(
    prompt: str | None, parameters: Mapping[str, JsonValue] | None = None, language: str | None = None
) -> Rules:
    """Return what a release declares.

    Args:
        prompt: The text of its prompt. What is filled in, and what stands in quotes to be said, is no leak.
        parameters: Its parameters; ``response_format`` says whether answers are JSON, as OpenAI's does.
        language: What every answer must be in; None where it follows the question.

    Raises:
        InputError: The schema in it cannot be applied.
    """
    runs = frozenset(run for part in _FREE.split(prompt or "") for run in _runs(_words(part)))
    return Rules(json_schema=_schema(parameters or {}), prompt_runs=runs, language=language)


def is_loop(text: str) -> bool | None:
    """Return whether a text repeats itself, whole or at its end; None where it is too short to tell."""
    units: list[str] = _words(text)
    shortest = LOOP_WORDS
    if _NO_SPACES.search(text):
        units, shortest = [sign for sign in text if not sign.isspace()], LOOP_SIGNS
    if len(units) < shortest:
        return None
    return _repeats(units) or (len(units) > _TAIL * shortest and _repeats(units[-_TAIL * shortest :]))


def is_valid_json(text: str, schema: Mapping[str, JsonValue]) -> bool:
    """Return whether a text is JSON that follows a schema; one that cannot be followed in time does not."""
    try:
        document = parse_json(text)
        return not schema or not broken_places(schema, document)
    except (ValueError, TooSlowError):
        return False


def is_declined(text: str) -> bool | None:
    """Return whether an answer begins by declining; None where it is in a script that cannot be read."""
    if is_refusal(text):
        return True
    head = text[:200]
    if _OTHER_SCRIPT.search(head):
        return None
    return bool(_REFUSALS.match(head.strip().lower().replace("\u2019", "'")))


def echoes_prompt(text: str, rules: Rules, known: Iterable[str | None]) -> bool:
    """Return whether a text repeats the prompt in words that what the user asked and what was found do not hold."""
    found = rules.prompt_runs.intersection(_runs(_words(text)))
    for other in known:
        if found and other:
            found -= set(_runs(_words(other)))
    return bool(found)


def holds_personal_data(text: str) -> bool:
    """Return whether a text holds what would be taken out of it before it is stored."""
    return bool(_PERSONAL.search(text)) and bool(_redactor().redact(text).counts)


@cache
def _redactor() -> Redactor:
    return make_redactor()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(LEAK_WORDS)), strict=False)


def _repeats(units: list[str]) -> bool:
    trios = set(zip(units, units[1:], units[2:], strict=False))
    return len(trios) < LOOP_DISTINCT * (len(units) - 2)


def _schema(parameters: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    asked: Any = parameters.get("response_format")
    if not isinstance(asked, dict) or asked.get("type") not in _ASKED_JSON:
        return None
    inner = asked.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        return {}
    try:
        return check_json_schema(schema)
    except ValueError as error:
        raise InputError(f"parameters.response_format.json_schema: {error}; the answers cannot be checked") from error
