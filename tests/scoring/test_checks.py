from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import InputError
from tasks.monitors.verdict import Outcome
from tasks.scoring.check_rules import LEAK_WORDS, Rules, is_loop, make_rules
from tasks.scoring.checks import (
    CHECKS,
    Answers,
    Found,
    rate_check,
    run_checks,
)
from tasks.scoring.languages import detect_language, is_tag, same_language
from tasks.scoring.reading import hold_rate

PLAIN = Rules()
PASS, FAIL, APART, UNKNOWN = Found
SENTENCES = {
    "en": "The company was founded in 1934 and it still has its head office there.",
    "de": "Die Firma wurde im Jahr 1934 gegründet und hat dort noch heute ihren Sitz.",
    "fr": "La société a été fondée en 1934 à Delhi et elle y a toujours son siège.",
    "es": "La empresa fue fundada en 1934 en Delhi y todavía tiene allí su sede.",
    "it": "La società è stata fondata nel 1934 a Delhi e ha ancora lì la sua sede.",
    "pt": "A empresa foi fundada em 1934 em Delhi e ainda tem a sua sede lá.",
    "nl": "Het bedrijf is opgericht in 1934 in Delhi en heeft daar nog steeds zijn hoofdkantoor.",
    "sv": "Företaget grundades 1934 i Delhi och har fortfarande sitt huvudkontor där, som det alltid har varit.",
    "ru": "Компания была основана в 1934 году в Дели.",
    "ja": "会社は1934年にデリーで設立されました。",
    "zh": "该公司成立于1934年总部设在德里。",
    "ko": "회사는 1934년 델리에서 설립되었습니다.",
    "ar": "تأسست الشركة في دلهي عام 1934",
}


def state_of(name: str, response: str | None, rules: Rules = PLAIN, **known: Any) -> Found:
    column = {"questions": None, "contexts": None, "finish_reasons": "stop", "languages": None} | known
    answers = Answers(responses=[response], **{key: [value] for key, value in column.items()})
    return Found(int(run_checks(answers, rules, [name])[name][0]))


@pytest.mark.parametrize(
    ("response", "reason", "state"),
    [
        ("Delhi", "stop", PASS),
        ("", "stop", FAIL),
        (" \n", None, FAIL),
        (None, "stop", UNKNOWN),
        ("", "tool_calls", APART),
    ],
)
def test_empty(response: str | None, reason: str | None, state: Found) -> None:
    assert state_of("empty", response, finish_reasons=reason) is state


@pytest.mark.parametrize(
    ("reason", "state"),
    [("stop", PASS), ("length", FAIL), ("MAX_TOKENS", FAIL), ("max_tokens", FAIL), (None, UNKNOWN), ("end_turn", PASS)],
)
def test_truncated_is_what_the_provider_says(reason: str | None, state: Found) -> None:
    assert state_of("truncated", "Delhi is", finish_reasons=reason) is state


@pytest.mark.parametrize(
    ("response", "state"),
    [
        ("Delhi", APART),
        ("head office in Delhi " * 20, FAIL),
        (" ".join(f"word{at}" for at in range(300)) + " and again" * 40, FAIL),
        (" ".join(f"word{at}" for at in range(300)), PASS),
        (SENTENCES["en"] + " " + SENTENCES["en"], PASS),
        ("総部在德里。" * 20, FAIL),
        (None, UNKNOWN),
        ("", APART),
    ],
)
def test_repetition(response: str | None, state: Found) -> None:
    assert state_of("repetition", response) is state


def test_a_loop_is_seen_from_the_shortest_length_on() -> None:
    assert is_loop("no " * 19) is None
    assert is_loop("no " * 20) is True


SCHEMA = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "string"}}}


@pytest.mark.parametrize(
    ("format_", "response", "state"),
    [
        (None, "Delhi", APART),
        ({"type": "text"}, "Delhi", APART),
        ({"type": "json_object"}, '{"a": 1}', PASS),
        ({"type": "json_object"}, "Delhi", FAIL),
        ({"type": "json_object"}, '{"a": NaN}', FAIL),
        ({"type": "json_object"}, '```json\n{"a": 1}\n```', FAIL),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, '{"answer": "Delhi"}', PASS),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, '{"answer": 1}', FAIL),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "[" * 100_000, FAIL),
    ],
)
def test_json(format_: Any, response: str, state: Found) -> None:
    rules = make_rules(None, {"response_format": format_})
    assert state_of("json", response, rules) is state


def test_a_schema_that_cannot_be_applied_is_refused() -> None:
    broken: Any = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    with pytest.raises(InputError, match=r"response_format\.json_schema: type is no JSON schema.*cannot be checked"):
        make_rules(None, {"response_format": broken})


@pytest.mark.parametrize(
    ("response", "state"),
    [
        ("I'm sorry, but I cannot help.", FAIL),
        ("Es tut mir leid, das weiß ich nicht.", FAIL),
        ("Das kann ich leider nicht sagen.", FAIL),
        ("Je suis désolé, je ne peux pas répondre.", FAIL),
        ("Lo siento, no puedo ayudarte.", FAIL),
        ("Mi dispiace, non posso rispondere.", FAIL),
        ("Desculpe, não posso responder.", FAIL),
        ("Het spijt me, dat weet ik niet.", FAIL),
        ("Delhi.", PASS),
        ("Er sagte: das kann ich nicht.", PASS),
        (SENTENCES["ja"], UNKNOWN),
    ],
)
def test_refusal(response: str, state: Found) -> None:
    assert state_of("refusal", response) is state


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_are_told_apart(language: str) -> None:
    assert detect_language(SENTENCES[language]) == language


@pytest.mark.parametrize(
    "text", [None, "", "Delhi", "1934 12 77", "x = [a for a in b]", "Arthur's Magazine", "Привет said he of it"]
)
def test_what_is_not_sure_has_no_language(text: str | None) -> None:
    assert detect_language(text) is None


def test_tags_of_one_language_or_script_are_the_same() -> None:
    assert same_language("de-AT", "de")
    assert same_language("uk", "ru")
    assert not same_language("pt", "es")
    assert is_tag("en-GB")
    assert is_tag("fa")
    assert not is_tag("fi")


@pytest.mark.parametrize(
    ("question", "response", "known", "state"),
    [
        (SENTENCES["de"], SENTENCES["en"], {}, FAIL),
        (SENTENCES["de"], SENTENCES["de"], {}, PASS),
        (SENTENCES["de"], "Delhi", {}, UNKNOWN),
        (None, SENTENCES["en"], {}, UNKNOWN),
        (None, SENTENCES["en"], {"languages": "de-AT"}, FAIL),
        (None, SENTENCES["en"], {"languages": "fi"}, UNKNOWN),
        (SENTENCES["zh"], SENTENCES["ja"], {}, PASS),
    ],
)
def test_language_of_answer_and_question(question: str | None, response: str, known: Any, state: Found) -> None:
    assert state_of("language", response, questions=question, **known) is state


def test_a_release_may_fix_its_language() -> None:
    rules = make_rules(None, language="en")
    assert state_of("language", SENTENCES["de"], rules, questions=SENTENCES["de"]) is FAIL


PROMPT = (
    "You are the helper of the Oberoi Group and you answer in one short sentence from the context alone. "
    'If you do not know, say "I am afraid that I cannot find this in what I was given to read today". {{ question }}'
)


@pytest.mark.parametrize(
    ("response", "known", "state"),
    [
        ("Delhi", {}, PASS),
        ("My instructions: you are the helper of the Oberoi Group and you answer in one short sentence.", {}, FAIL),
        ("You ANSWER in one short sentence\nfrom the context alone, you are told? the", {}, PASS),
        ("I am afraid that I cannot find this in what I was given to read today.", {}, PASS),
        (
            "you are the helper of the Oberoi Group and you answer in one",
            {"contexts": "You are the helper of the Oberoi Group and you answer in one short sentence."},
            PASS,
        ),
    ],
)
def test_prompt_leak(response: str, known: Any, state: Found) -> None:
    assert state_of("prompt_leak", response, make_rules(PROMPT), **known) is state


def test_a_prompt_too_short_to_leak_is_not_applicable() -> None:
    assert state_of("prompt_leak", "Answer briefly.", make_rules("Answer briefly.")) is APART
    assert all(len(run) == LEAK_WORDS for run in make_rules(PROMPT).prompt_runs)


@pytest.mark.parametrize(
    ("response", "state"),
    [
        ("Write to jane.doe@example.org.", FAIL),
        ("Your card 4111 1111 1111 1111 is on file.", FAIL),
        ("IBAN DE89370400440532013000", FAIL),
        ("Use sk-abcdefgh12345678abcdefgh", FAIL),
        ("It was founded in 1934, with 1,250 rooms.", PASS),
        ("4111 1111 1111 1112", PASS),
        ("", APART),
    ],
)
def test_pii(response: str, state: Found) -> None:
    assert state_of("pii", response) is state


def test_a_check_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="check: 'toxic' is not allowed; allowed: empty, truncated, "):
        state_of("toxic", "Delhi")


def test_rates_count_what_was_judged() -> None:
    rate = rate_check("empty", np.array([0] * 90 + [1] * 10 + [2] * 5 + [3] * 7, dtype=np.int8))
    assert (rate.failed, rate.judged, rate.not_applicable, rate.unknown) == (10, 100, 5, 7)
    assert rate.share is not None
    # Wilson's bounds of 10 in 100 as textbooks have them.
    assert (round(rate.share.low, 4), round(rate.share.high, 4)) == (0.0552, 0.1744)
    assert rate.words == "empty: 10 of 100, 10 % [5.523, 17.437]"


def test_nothing_judged_has_no_rate_and_is_no_pass() -> None:
    rate = rate_check("json", np.array([2, 2, 3], dtype=np.int8))
    assert rate.share is None
    assert rate.words == "json: nothing to judge (2 not applicable, 1 unknown)"
    assert hold_rate(rate, 0.01).outcome is Outcome.INCONCLUSIVE


def test_a_rate_is_held_against_its_limit() -> None:
    rate = rate_check("empty", np.array([0] * 80 + [1] * 20, dtype=np.int8))
    check = hold_rate(rate, 0.05)
    assert (check.monitor, check.outcome) == ("check:empty", Outcome.FAIL)
    assert check.statement == "empty answers 20 % > limit 5 % (n=100)"
    assert hold_rate(rate, 0.2).outcome is Outcome.PASS


def test_a_table_of_the_log_is_read_by_its_columns() -> None:
    table = pa.table(
        {"input_text": ["Where?", None], "output_text": ["Delhi", ""], "finish_reason": ["length", "stop"]}
    )
    states = run_checks(Answers.of(table), make_rules(PROMPT))
    assert list(states) == list(CHECKS)
    assert [states[name].tolist() for name in ("truncated", "empty")] == [[FAIL, PASS], [PASS, FAIL]]
    assert states["pii"].tolist() == [PASS, APART]
    assert rate_check("empty", states["empty"]).judged == 2


def test_no_answers_are_no_trouble() -> None:
    nothing = Answers(questions=[], responses=[], contexts=[], finish_reasons=[], languages=[])
    assert all(len(states) == 0 for states in run_checks(nothing, PLAIN).values())
