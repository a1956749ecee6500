"""Patterns, JSON schemas and likeness: bounded in time, without a network, the same everywhere."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tasks.smoke.matching import (
    TooSlowError,
    broken_places,
    check_json_schema,
    check_pattern,
    parse_json,
    search,
    similarity,
)

CATASTROPHE = "^(([a-z])+.)+[A-Z]([a-z])+$"
ENDLESS_TEXT = "a" * 2000 + "!"


def test_a_catastrophic_pattern_ends_in_time() -> None:
    with pytest.raises(TooSlowError, match="found no end within 1 s"):
        search(CATASTROPHE, ENDLESS_TEXT)


@pytest.mark.parametrize("pattern", [r"\d{4}-\d{2}-\d{2}", r"(?i)\bparis\b", "東京", r".{1,2000}", r"a{2,}", r"\{x\}"])
def test_usual_patterns_are_patterns(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "a pattern has 1 to 500 characters, not 0"),
        ("a" * 501, "a pattern has 1 to 500 characters, not 501"),
        ("a(", "is no regular expression: "),
        ("[z-a]", "is no regular expression: "),
        ("a{99999999}", "multiply to more than 1000000"),
        ("(((a{1000}){1000}){1000})", "multiply to more than 1000000"),
        ("a{0,99999999}", "multiply to more than 1000000"),
        ("a{" + "9" * 400 + "}", "multiply to more than 1000000"),
    ],
)
def test_what_is_no_pattern_or_too_much_of_one_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "texts"}, "type is no JSON schema"),
        ({"properties": []}, "properties is no JSON schema"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "is not https://json-schema.org/draft/2020-12/schema"),
        ({"$ref": "https://example.com/schema.json"}, "leads nowhere within the schema"),
        ({"$ref": "file:///etc/passwd"}, "leads nowhere within the schema"),
        ({"items": {"$ref": "#/$defs/none"}}, "leads nowhere within the schema"),
        ({"allOf": [{"$dynamicRef": "other#x"}]}, "leads nowhere within the schema"),
        ({"properties": {"a": {"pattern": "a{99999999}"}}}, "multiply to more than"),
        ({"patternProperties": {"^a": {}}}, "patternProperties cannot be bounded"),
        ({"description": "x" * 50_000}, "a schema has at most 50000 characters"),
    ],
)
def test_a_schema_that_cannot_be_applied_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("$", r"\$")):
        check_json_schema(schema)


def test_a_schema_is_applied_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        pytest.fail("something asked the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    schema = check_json_schema(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$defs": {"city": {"$anchor": "c", "type": "string", "pattern": "^[A-Z]"}},
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "other": {"$ref": "#c"}, "n": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    )
    assert broken_places(schema, {"city": "Paris", "other": "Lyon", "n": 2}) == ""
    broken = broken_places(schema, {"city": "secret", "n": "secret", "secret": 1})
    assert set(broken.split(", ")) == {
        "additionalProperties",
        "properties/city/pattern",
        "properties/n/type",
    }
    assert broken_places(schema, {}) == "required"


def test_a_schema_that_never_ends_or_is_slow_is_said() -> None:
    assert "endless $ref" in broken_places(check_json_schema({"$ref": "#"}), 1)
    with pytest.raises(TooSlowError):
        broken_places(check_json_schema({"pattern": CATASTROPHE}), ENDLESS_TEXT)


def test_many_breaks_are_counted_out() -> None:
    said = broken_places(check_json_schema({"items": {"type": "integer"}}), ["a"] * 100)
    assert said.count("items/type") == 5
    assert said.endswith(", and more")


def test_json_is_json() -> None:
    assert parse_json(' {"a": [1, null]} ') == {"a": [1, None]}
    for text in ("{'a': 1}", "NaN", "[Infinity]", "```json\n{}\n```", "{} {}", "", "[" * 100_000, "1" * 10_000):
        with pytest.raises(ValueError):  # noqa: PT011 - many kinds of
            parse_json(text)


def test_likeness_is_of_letters_and_fixed() -> None:
    wanted = "The capital of France is Paris."
    assert similarity(wanted, wanted) == pytest.approx(1.0)
    assert similarity(wanted, "12345 67890") == 0.0
    near, far = similarity(wanted, "Paris is the capital of France."), similarity(wanted, "I like green tea.")
    assert (round(near, 4), round(far, 4)) == (0.8395, 0.0451)
    assert similarity("東京", "東京") == pytest.approx(1.0)
    assert similarity("a", "!") == similarity("a", "!")
