"""What is taken out of texts, what is left in them, and that twice is once."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.interactions.numbers import luhn
from tasks.interactions.redaction import RULES, make_redactor

ALL = make_redactor()
TAKEN = [
    ("mail a.b+c@mail.example.co.uk.", "mail [email].", {"email": 1}),
    ("jürgen@exämple.de", "[email]", {"email": 1}),
    ("+49 (0)30 123456-78 or +4915112345678", "[phone] or [phone]", {"phone": 2}),
    ("(555) 123-4567, 1-800-555-0199, 555.123.4567", "[phone], [phone], [phone]", {"phone": 3}),
    ("030 1234567; 01 23 45 67 89; 0800/123456", "[phone]; [phone]; [phone]", {"phone": 3}),
    ("4111 1111 1111 1111 or 378282246310005", "[card] or [card]", {"card": 2}),
    ("no 7: 5555-5555-5555-4444!", "no 7: [card]!", {"card": 1}),
    ("+4111111111111111", "+[card]", {"card": 1}),
    ("12 4111111111111111 9", "12 [card] 9", {"card": 1}),
    ("DE89 3704 0044 0532 0130 00, GB82WEST12345698765432", "[iban], [iban]", {"iban": 2}),
    ("GB82 WEST 1234 5698 7654 32 4111 1111 1111 1111", "[iban] [card]", {"iban": 1, "card": 1}),
    ("sk-proj-abcDEF123456789012345 AKIAIOSFODNN7EXAMPLE", "[key] [key]", {"key": 2}),
    ("ghp_abcdefghijklmnopqrst123456", "[key]", {"key": 1}),
    ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [key]", {"key": 1}),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "[key]", {"key": 1}),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nx", "[key]\nx", {"key": 1}),
    ("-----BEGIN PRIVATE KEY-----\ncut off", "[key]", {"key": 1}),
    ('{"api_key": "hunter2hunter2"}', '{"api_key": "[key]"}', {"key": 1}),
    ("https://user:pass1@host.example/x", "https://[key]@host.example/x", {"key": 1}),
]
LEFT = [
    "on 2024-01-02 and 09-12-2024 at 12:34:56.789+02:00",
    "2026-11-24T08:51:10.311Z, 1776684121478 ms, 1776684121478128000 ns",
    "id 123e4567-e89b-12d3-a456-426614174000, order 2024-0012345, v1.22.333",
    "$1,234,567.89 or 0.12345678 or +12.3456789 or 192.168.100.200",
    "4111 1111 1111 1112 checks not, nor does DE88370400440532013000",
    "risk-assessment-of-the-thing and sk-learn-documentation-pages",
    "password: everything is fine, bearer certificate, a@b",
    "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
]
PIECES = [text for text, _, _ in TAKEN] + [
    "[key]",
    "[email]",
    ",",
    "+",
    "+49",
    "-",
    " ",
    "@",
    ".",
    "0",
    "4111",
    "a",
    "eyJ",
]


@pytest.mark.parametrize(("text", "redacted", "counts"), TAKEN)
def test_what_names_a_person_or_opens_a_door_is_taken_out(text: str, redacted: str, counts: dict[str, int]) -> None:
    found = ALL.redact(text)

    assert (found.text, dict(found.counts)) == (redacted, counts)


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert ALL.redact(text).text == text


@given(st.lists(st.sampled_from(PIECES) | st.text("0123456789 +-().@aA/", max_size=12), max_size=8).map("".join))
def test_twice_is_once_of_texts_made_of_what_is_found(text: str) -> None:
    once = ALL.redact(text).text

    assert ALL.redact(once).text == once


@given(st.text(max_size=300))
def test_twice_is_once_of_any_text(text: str) -> None:
    once = ALL.redact(text).text

    assert ALL.redact(once).text == once


@given(st.from_regex(re.compile(r"[2-6][0-9]{3}( [0-9]{4}){3}"), fullmatch=True))
def test_no_card_that_checks_is_left(number: str) -> None:
    assert (ALL.redact(f"card {number}.").text == "card [card].") == luhn(number.replace(" ", ""))


@pytest.mark.parametrize(
    "piece",
    ["a", "@a.", "a@", "1 ", "411 ", "+1", "+1 1", "012 34 ", "0123-", "eyJ", "eyJaaaaaaaa.", "sk-", "://a:", "token=",
     "bearer ", "DE89 ", "-----BEGIN PRIVATE KEY-----", "password: aaaaaaaa "],
)  # fmt: skip
def test_a_long_text_of_what_almost_matches_comes_back(piece: str) -> None:
    text = piece * (250_000 // len(piece))  # what grew with its square would not end before the timeout

    assert len(ALL.redact(text).text) <= len(text) + len("[phone]")


def test_rules_are_chosen_by_kind() -> None:
    assert make_redactor(["email"]).redact("a@b.co +4915112345678").text == "[email] +4915112345678"
    assert make_redactor([]).redact("a@b.co").text == "a@b.co"
    with pytest.raises(InputError, match="redaction rule: 'names' is not allowed; allowed: key, email, iban, card"):
        make_redactor(["names"])
    assert tuple(RULES) == ALL.rules


def test_a_hook_passes_after_the_rules_and_is_counted() -> None:
    found = make_redactor(hooks=["string:capwords"]).redact("write a@b.co")

    assert (found.text, dict(found.counts)) == ("Write [email]", {"email": 1, "hook": 1})


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("nowhere:f", "redaction hook 'nowhere:f' cannot be loaded: ModuleNotFoundError"),
        ("string:nothing", "redaction hook 'string:nothing' cannot be loaded: AttributeError"),
        ("string:digits", "redaction hook 'string:digits' is no function"),
        ("string", "redaction hook: 'string' is not allowed; allowed: module:function"),
    ],
)
def test_a_hook_that_cannot_be_loaded_is_named(hook: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_redactor(hooks=[hook])


def test_a_hook_that_fails_stores_nothing_and_repeats_nothing() -> None:
    with pytest.raises(InputError) as error:
        make_redactor(hooks=["json:loads"]).redact("my secret")

    assert str(error.value) == "redaction hook 'json:loads' failed with JSONDecodeError; nothing is stored"
    assert error.value.__cause__ is None
    with pytest.raises(InputError, match="returned int; it must return a text"):
        make_redactor(hooks=["builtins:len"]).redact("x")
