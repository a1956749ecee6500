"""The fast way and the exact way give the same rows, whatever is done to a line."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.interactions.fast_shapes import SHAPES
from tasks.interactions.lines import LineReader, Lines
from tasks.interactions.recipes import Recipe

NATIVE: dict[str, Any] = {
    "interaction_id": "i-1",
    "application": "support",
    "time": "2024-03-01T12:30:00.25+02:00",
    "status": 200,
    "unit": "user-ü",
    "unit_kind": "user",
    "bucket": 999,
    "plan_revision": 3,
    "provider": "openai",
    "model": "gpt-4o",
    "input_text": 'What is "this"?\n\u00e9\t\\ /',
    "output_text": "",
    "input_tokens": 12,
    "output_tokens": 0,
    "cached_input_tokens": None,
    "latency_ms": 12.5,
    "ttft_ms": 3,
    "release_digest": "a" * 64,
    "tokens_estimated": False,
    "reported_cost_pusd": -5,
    "error_type": "rate_limit",
    "finish_reason": "stop",
}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1709251200,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "It is €5, really.", "refusal": None, "annotations": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_5796ac6771",
}
BASES = {"native": NATIVE, "openai": CHAT}
ODD: tuple[Any, ...] = (
    *(None, True, 0, -0.0, -1, 1.0, 2**53, 2**53 + 1, 2**64, 10**30, 1e400, 0.1, 599, 1000),
    *("", " ", "x" * 200, "x" * 201, "é" * 200, "stop ", "a\x00b", "a\x7fb", "a\nb", "\ud800", "auto", "default", "5"),
    *("2024-02-30T00:00:00Z", "2024-03-01 00:00:00Z", "2024-03-01T24:00:00Z", "2024-03-01T00:00:60Z"),
    *("2024-03-01T00:00:00", "1999-12-31T23:59:59Z", "2199-12-31T23:59:59.999999Z", "2024-03-01T00:00:00.1234567Z"),
    *("2024-03-01T00:00:00-14:59", "2024-03-01T00:00:00+23:59", "2024-03-01T00:00:00z", "A" * 64, "b" * 64),
    *([], {}, ["a"], {"a": 1}, [[]], float("nan"), float("inf")),
)


def both(form: str, content: bytes) -> tuple[int, int]:
    """Read lines both ways, compare, and return how many were read and how many of them fast."""
    recipe = Recipe(form=form, application="support")
    reader, lines = recipe.reader("file"), Lines.of(content, 10**6)
    rows, rejects, _ = reader.read(lines, 1)
    exact = LineReader(form="none", application="support", parse=lambda line, at: recipe.parse(line, f"file#{at}"))
    other, other_rejects, _ = exact.read(lines, 1)
    assert rows.equals(other), [name for name in rows.column_names if not rows[name].equals(other[name])]
    assert rejects == other_rejects
    fast = sum(int(reader._read_fast(lines, lines.sizes > 0)[1].sum()) for _ in range(1))
    return rows.num_rows, fast


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, held in inner for found in places(held, (*path, key)))]


def changed(document: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Return a document of which one value or key is another."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    path = draw.choice(places(document)[1:])
    holder: Any = copy
    for key in path[:-1]:
        holder = holder[key]
    what = draw.randrange(4)
    if what == 0 and isinstance(holder, dict):
        del holder[path[-1]]
    elif what == 1 and isinstance(holder, dict):
        holder[draw.choice(("extra", "tags", "error", "request", "custom_id", "kind"))] = draw.choice(ODD)
    else:
        holder[path[-1]] = draw.choice(ODD)
    return copy


def written(document: dict[str, Any], draw: random.Random) -> bytes:
    """Return a document as a line, sometimes broken as text."""
    text = json.dumps(document, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    what = draw.randrange(6)
    if what == 0:
        at = draw.randrange(len(text))
        return text[:at] + draw.choice((b",", b"}", b"]", b"\xff", b"\x00", b'"', b" ", b"nan", b"\\u0000")) + text[at:]
    if what == 1:
        return text[: draw.randrange(len(text))]
    if what == 2:  # a key twice, a comma too many
        return text[:-1] + draw.choice((b',"status":201}', b',"usage":null}', b",}", b" , }", b"}}", b"}\r"))
    return text


@pytest.mark.parametrize("form", sorted(BASES))
def test_good_lines_are_all_read_fast(form: str) -> None:
    name = {"native": "interaction_id", "openai": "id"}[form]
    content = b"".join(json.dumps(BASES[form] | {name: f"n{number}"}).encode() + b"\n" for number in range(200))
    assert both(form, content) == (200, 200)


@pytest.mark.parametrize("form", sorted(BASES))
def test_changed_and_broken_lines_are_read_alike_both_ways(form: str) -> None:
    draw = random.Random(20240301)
    good = read = 0
    for _ in range(6):
        content = b"".join(written(changed(BASES[form], draw), draw).replace(b"\n", b" ") + b"\n" for _ in range(120))
        rows, fast = both(form, content)
        good, read = good + fast, read + rows
    assert read > 120
    assert good > 30


@settings(max_examples=15)
@given(texts=st.lists(st.text(max_size=40), min_size=64, max_size=70))
def test_any_text_comes_out_as_it_went_in(texts: list[str]) -> None:
    calls = [NATIVE | {"interaction_id": f"{at}", "output_text": text} for at, text in enumerate(texts)]
    content = b"".join(json.dumps(call).encode() + b"\n" for call in calls)
    rows, rejects, _ = Recipe().reader("file").read(Lines.of(content, 1000), 1)
    assert not rejects
    assert rows["output_text"].to_pylist() == texts


def test_a_shape_both_ways_do_not_agree_on_is_read_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["native"]
    wrong = {**shape.columns, "model": "'another'"}
    broken = type(shape)(**{name: getattr(shape, name) for name in shape.__slots__} | {"columns": wrong})
    monkeypatch.setitem(SHAPES, "native", broken)
    content = b"".join(json.dumps(NATIVE | {"interaction_id": f"{at}"}).encode() + b"\n" for at in range(100))
    assert both("native", content) == (100, 0)


@pytest.mark.parametrize("form", sorted(BASES))
def test_a_key_that_stands_twice_is_never_proved_good(form: str) -> None:
    name, other = {"native": ("status", 201), "openai": ("model", '"another"')}[form]
    lines = [json.dumps(BASES[form] | {"interaction_id" if form == "native" else "id": f"{at}"}) for at in range(80)]
    # The first of the shape says the same twice, so that the two ways agree on it.
    again = [json.dumps(BASES[form][name]), *(other for _ in lines[1:])]
    content = b"".join(f'{line[:-1]},"{name}":{value}}}\n'.encode() for line, value in zip(lines, again, strict=True))
    assert both(form, content) == (80, 0)


def alike(changes: dict[int, bytes]) -> list[bool]:
    """Return which of some lines of OpenAI's chat are proved good by being like the first one."""
    lines = [json.dumps(CHAT | {"id": f"chatcmpl-{at}"}).encode() for at in range(80)]
    for at, line in changes.items():
        lines[at] = line
    both("openai", b"".join(line + b"\n" for line in lines))
    reader = (
        Recipe(form="openai", application="support")
        .reader("file")
        ._reader(Lines.of(b"{}\n" * 80, 80), np.ones(80, np.bool_))
    )
    assert reader is not None
    marks: list[bool] = reader._read_alike(pa.array([line.decode() for line in lines], pa.large_string()), "support")[
        1
    ].tolist()
    return marks


def put(path: tuple[str | int, ...], value: Any) -> bytes:
    """Return a line of OpenAI's chat with another value somewhere."""
    copy: Any = json.loads(json.dumps(CHAT))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return json.dumps(copy).encode()


CONTENT: tuple[str | int, ...] = ("choices", 0, "message", "content")


@pytest.mark.parametrize("text", ["5", "true", '{"a": "b"}', "[1]", 'a "quoted" word', "NaN", "", None, "\\", "é\n"])
def test_an_answer_may_look_like_anything(text: str | None) -> None:
    assert alike({40: put(CONTENT, text)}) == [True] * 80


@pytest.mark.parametrize(
    "line",
    [
        put(CONTENT, 5),
        put(CONTENT, ["a"]),
        put(CONTENT, {"a": "b"}),
        put(("another",), 1),
        put(("usage", "another"), "x"),
        put(("usage", "prompt_tokens"), "19"),
        put(("usage", "prompt_tokens"), 19.0),
        put(("usage", "total_tokens"), json.loads("true")),
        put(("usage", "prompt_tokens"), 2**53 + 1),
        put(("model",), float("nan")),
        put(("usage", "prompt_tokens_details"), None),
        put(("choices",), [*CHAT["choices"], *CHAT["choices"]]),
        put(("choices", 0, "logprobs"), "x"),
        # One key too many for every text that is none: the quotation marks are as many as they should be.
        put(CONTENT, 5).replace(b'"usage"', b'"x": 1, "usage"'),
        put(CONTENT, {"content": 5}).replace(b'"usage"', b'"x": 1, "usage"'),
        put(("service_tier",), 5).replace(b'"usage"', b'"x": 1, "usage"'),
        put(CONTENT, 'a "quoted" word').replace(rb"\"", rb"\u0022").replace(b'{"id"', b'{"x": 1, "id"'),
        # As long as it should be, but other before the answer.
        put(("object",), "chat.completioN"),
        put(("choices", 0, "message", "role"), "assistanT"),
        # Two answers, the second in the place of what would be more of the first; with as many quotation marks.
        put(CONTENT, "@").replace(b'"@"', b'"x", "content": "y"'),
        put(CONTENT, "@").replace(b'"@"', rb'"\u0022\u0022\u0022\u0022", "content": "\u0022\u0022\u0022\u0022"'),
        put(CONTENT, "@").replace(b'"@"', rb'"\n", "content": "\n"'),
        put(("id",), 'a"b'),
        put(("id",), "a\\b"),
        put(("system_fingerprint",), 'a"b'),
        json.dumps(CHAT).encode()[:-1] + b',"model":"another"}',
        json.dumps(CHAT).encode()[:-1] + b",}",
    ],
)
def test_what_is_not_like_the_other_lines_is_not_proved_by_them(line: bytes) -> None:
    assert alike({40: line}) == [at != 40 for at in range(80)]


def test_another_template_is_learnt_where_most_lines_are_not_like_the_first() -> None:
    reader = (
        Recipe(form="openai", application="support")
        .reader("file")
        ._reader(Lines.of(b"{}\n" * 80, 80), np.ones(80, np.bool_))
    )
    assert reader is not None
    lines = pa.array([put(("id",), f"chatcmpl-{at}").decode() for at in range(80)], pa.large_string())
    other = CHAT | {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    rest = pa.array([json.dumps(other | {"id": f"chat-{at}"}) for at in range(80)], pa.large_string())
    found = [int(reader._read_alike(some, "support")[1].sum()) for some in (lines, rest, rest, lines, lines)]
    assert found == [80, 0, 80, 0, 80]
