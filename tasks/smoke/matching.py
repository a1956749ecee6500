"""How a text is held against a pattern, a JSON schema or a wanted answer, without any network and in bounded time.

Patterns are those of the ``regex`` package, which is a superset of Python's and can give up: a search that takes longer
than ``SEARCH_S`` is a failed expectation and never a hanging smoke test. Repeat counts are bounded before a pattern is
compiled, because compiling writes them out. ``$ref`` may only point into its own schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from pydantic import JsonValue

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SEARCH_S: Final = 1.0
"""A search may take this long, seconds."""
MAX_PATTERN: Final = 500
MAX_REPEATS: Final = 1_000_000
"""The counts in the braces of a pattern, multiplied with each other, are at most this."""
MAX_SCHEMA_CHARS: Final = 50_000
SHOWN_PLACES: Final = 5
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_COUNT: Final = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class TooSlowError(Exception):
    """A pattern did not come to an end in time."""

    def __init__(self) -> None:
        super().__init__(f"the pattern found no end within {SEARCH_S:g} s")


def check_pattern(pattern: str) -> str:
    """Return a pattern that can be searched for.

    Raises:
        ValueError: It is none, is too long, or repeats too often.
    """
    import regex

    if not 0 < len(pattern) <= MAX_PATTERN:
        raise ValueError(f"a pattern has 1 to {MAX_PATTERN} characters, not {len(pattern)}")
    repeats = 1
    for low, high in _COUNT.findall(pattern):
        # The number of digits first: a long one is not worth reading as a number.
        repeats *= MAX_REPEATS + 1 if len(low + high) > MAX_PATTERN // 10 else max(1, int(low or 0), int(high or 0))
    if repeats > MAX_REPEATS:
        raise ValueError(f"the counts in braces of {pattern!r:.80} multiply to more than {MAX_REPEATS}")
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r:.80} is no regular expression: {error}") from error
    return pattern


def search(pattern: str, text: str) -> bool:
    """Return whether a pattern occurs in a text.

    Raises:
        TooSlowError: It takes longer than ``SEARCH_S``.
    """
    import regex

    try:
        return regex.search(pattern, text, timeout=SEARCH_S) is not None
    except TimeoutError as error:
        raise TooSlowError from error


def check_json_schema(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a JSON schema (draft 2020-12) that can be applied without any network.

    Raises:
        ValueError: It is none, is too large, refers to something outside of itself, or uses ``patternProperties``,
            whose time cannot be bounded.
    """
    from jsonschema.exceptions import SchemaError

    if (size := len(json.dumps(schema))) > MAX_SCHEMA_CHARS:
        raise ValueError(f"a schema has at most {MAX_SCHEMA_CHARS} characters, not {size}")
    if schema.get("$schema", _DIALECT) not in {_DIALECT, f"{_DIALECT}#"}:
        raise ValueError(f"$schema {schema['$schema']!r:.80} is not {_DIALECT}")
    try:
        _kind().check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "the schema"
        raise ValueError(f"{place} is no JSON schema: {error.message:.200}") from error
    for key, value in _entries(schema):
        _check_entry(schema, key, value)
    return schema


def _check_entry(schema: dict[str, JsonValue], key: str, value: JsonValue) -> None:
    if key == "pattern" and isinstance(value, str):
        check_pattern(value)
    elif key == "patternProperties" and isinstance(value, dict):
        raise ValueError("patternProperties cannot be bounded in time; use propertyNames and additionalProperties")
    elif key in {"$ref", "$dynamicRef"} and isinstance(value, str) and not _resolves(schema, value):
        raise ValueError(f"{key} {value!r:.80} leads nowhere within the schema; write #/$defs/name")


def broken_places(schema: Mapping[str, JsonValue], document: object) -> str:
    """Return where in its schema a document breaks it, a few places of the schema; empty where it does not.

    Raises:
        TooSlowError: A pattern of the schema takes too long.
    """
    from referencing import Registry

    try:
        errors = _kind()(schema, registry=Registry()).iter_errors(document)
        places = ["/".join(map(str, error.absolute_schema_path)) for error in islice(errors, SHOWN_PLACES + 1)]
    except RecursionError:
        return "an endless $ref, or deeper nesting than can be followed"
    more = ["and more"] if len(places) > SHOWN_PLACES else []
    return ", ".join([*places[:SHOWN_PLACES], *more])


def parse_json(text: str) -> object:
    """Return the JSON document that a text is.

    Raises:
        ValueError: It is none: also NaN, Infinity and nesting that cannot be followed.
    """

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON")

    try:
        document: object = json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return document


def similarity(wanted: str, text: str) -> float:
    """Return how alike two texts are, 0 to 1: cosine of TF-IDF over character n-grams of 2 to 4 within words.

    The weights come from these two texts alone, so the same pair has the same similarity everywhere; what only one of
    them has weighs more than what both share. It sees letters and no meaning.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform([wanted, text])
    return float(min(1.0, max(0.0, (rows[0] @ rows[1].T).toarray()[0, 0])))


@cache
def _kind() -> type[Validator]:
    """Return the validator of draft 2020-12 whose patterns give up in time."""
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    def bounded(_: object, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not search(pattern, instance):
            yield ValidationError("the text does not match the pattern")

    kind: type[Validator] = extend(Draft202012Validator, {"pattern": bounded})
    return kind


def _entries(value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _entries(item)
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item)


def _resolves(schema: dict[str, Any], reference: str) -> bool:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        Registry().resolver_with_root(DRAFT202012.create_resource(schema)).lookup(reference)
    except (Unresolvable, ValueError):
        return False
    return True
