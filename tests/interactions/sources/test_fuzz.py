"""Broken documents of every format: none ends in a traceback, each is accounted for, and no reason repeats content."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tasks.interactions.schema import Interaction
from tasks.interactions.sources import FORMATS, Context, Mapping, detect, split

FIXTURES = Path(__file__).parents[1] / "formats"
GOLDEN: dict[str, Any] = json.loads((FIXTURES / "golden.json").read_text(encoding="utf-8"))
MAPPING = Mapping.model_validate(
    {"columns": {"time": "time", "user": "user", "input_tokens": {"column": "a.b", "optional": True}}}
)
CONTEXT = Context("bot", datetime(2026, 1, 1, tzinfo=UTC), MAPPING, "file#1")
MUTANTS = 10_000
CONTENT = "Xyzzy-plugh-42"
ODD: tuple[Any, ...] = (
    *(
        None,
        "",
        CONTENT,
        f"a {CONTENT}\x00",
        "\ud83d",
        0,
        -1,
        2**70,
        1.5,
        1e300,
        True,
        [],
        {},
        [CONTENT],
        {CONTENT: CONTENT},
    ),
    *([[{"role": [CONTENT], "content": {CONTENT: [1]}}], "2026-13-45", "9" * 30, {"type": [CONTENT]}]),
)


def documents() -> list[tuple[str, bytes]]:
    found = [(source, document) for name, (source, _) in GOLDEN.items() for _, document in split(FIXTURES / name)]
    return [*found, ("mapped", b'{"time": "2026-01-01T00:00:00Z", "user": "u", "a": {"b": 7}}')]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document, with each of its keys."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def other_value(draw: random.Random, value: Any) -> bytes:
    for _ in range(draw.randint(1, 3)):
        holder, key = draw.choice(places(value) or [([0], 0)])
        holder[key] = deepcopy(draw.choice(ODD))
    return json.dumps(value).encode()


def no_value(draw: random.Random, value: Any) -> bytes:
    holder, key = draw.choice(places(value) or [([0], 0)])
    del holder[key]
    return json.dumps(value).encode()


def moved(draw: random.Random, value: Any) -> bytes:
    (holder, key), (taken, at) = (draw.choice(places(value) or [([0], 0)]) for _ in range(2))
    holder[key] = json.loads(json.dumps(taken[at] if at in taken or isinstance(taken, list) else None))
    return json.dumps(value).encode()


def cut(draw: random.Random, value: Any) -> bytes:
    text = json.dumps(value).encode()
    return text[: draw.randrange(len(text))]


def other_bytes(draw: random.Random, value: Any) -> bytes:
    text = bytearray(json.dumps(value).encode())
    for _ in range(draw.randint(1, 8)):
        text[draw.randrange(len(text))] = draw.randrange(256)
    return bytes(text)


MUTATIONS: tuple[Callable[[random.Random, Any], bytes], ...] = (other_value, no_value, moved, cut, other_bytes)


def check(source: str, document: bytes) -> int:
    detect(document)
    read = FORMATS[source].parse(document, CONTEXT)
    assert read, source
    for row in read:
        assert isinstance(row, Interaction | str)
        if isinstance(row, str):
            assert ": " in row
            assert row.isprintable()
            assert len(row) < 900
            assert CONTENT not in row, row
    return sum(isinstance(row, str) for row in read)


def test_ten_thousand_broken_documents_are_each_accounted_for() -> None:
    draw, whole, refused = random.Random(20260101), documents(), 0
    small = [(source, document) for source, document in whole if len(document) < 8_000]
    assert {source for source, _ in small} == set(FORMATS)
    for _ in range(MUTANTS):
        source, document = draw.choice(small)
        refused += check(source, draw.choice(MUTATIONS)(draw, json.loads(document))) > 0
    assert MUTANTS * 0.3 < refused < MUTANTS * 0.95  # neither all that is broken passes, nor nothing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                sorted(
                    {
                        "id",
                        "usage",
                        "model",
                        "error",
                        "response",
                        "request",
                        "attributes",
                        "spans",
                        "data",
                        "info",
                        "resourceSpans",
                        "scopeSpans",
                        "observations",
                        "trace",
                        "type",
                        "metadata",
                        "key",
                        "value",
                        "custom_id",
                        "result",
                        "context",
                    }
                )
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(document=json_values, source=st.sampled_from(sorted(FORMATS)))
def test_any_json_gives_rows_or_reasons(document: object, source: str) -> None:
    check(source, json.dumps(document).encode())


@given(document=st.binary(max_size=200), source=st.sampled_from(sorted(FORMATS)))
def test_any_bytes_give_rows_or_reasons(document: bytes, source: str) -> None:
    check(source, document)
