"""Malformed release files: each is refused in one line that names file, field and value, before anything is started."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands import kick as kick_module
from tasks.documents import MAX_BYTES, read_document
from tasks.errors import InputError
from tasks.release.model import ReleaseSpec

VALID: Final[dict[str, Any]] = {
    "application": "faq",
    "model_id": "faq-bot",
    "version": "7",
    "endpoint": "https://models.example.com/v1",
    "endpoint_key_env": "FAQ_KEY",
    "provider": "example",
    "prompt": {"name": "faq-answer", "text": "Be kind."},
    "parameters": {"temperature": 0.2, "stop": ["###"]},
    "tools": ["search"],
    "monitors": {"latency_ms": 800, "quality": 0.8, "toxicity": 0.1, "errors": 0.05, "drift": 0.2},
    "autoscaling": {"min_replicas": 1, "max_replicas": 4, "upscale_delay_s": 3},
    "ab_test": {"name": "tone", "share": 0.3},
    "baseline": "6",
    "price": {"input_usd_per_mtok": 0.15, "output_usd_per_mtok": 0.6},
    "owner": "faq-team@example.com",
}


class Bad(NamedTuple):
    """A malformed file: what stands in it, the field that is named, and what is said of it."""

    content: bytes
    field: str
    said: str


def changed(place: str, value: Any) -> bytes:
    """Return the valid file with one value in another's place."""
    document = copy.deepcopy(VALID)
    *path, last = place.split(".")
    inner = document
    for name in path:
        inner = inner[name]
    inner[last] = value
    return yaml.safe_dump(document, allow_unicode=True).encode()


def without(place: str) -> bytes:
    document = copy.deepcopy(VALID)
    *path, last = place.split(".")
    inner = document
    for name in path:
        inner = inner[name]
    del inner[last]
    return yaml.safe_dump(document).encode()


def raw(line: str) -> bytes:
    """Return the valid file with one more line, its field taken out before."""
    document = {name: value for name, value in VALID.items() if not line.startswith(f"{name}:")}
    return f"{yaml.safe_dump(document)}{line}\n".encode()


NAMES = ("application", "model_id", "provider", "prompt.name", "ab_test.name")
SHARES = ("monitors.quality", "monitors.toxicity", "monitors.errors", "monitors.drift", "ab_test.share")
POSITIVE = ("monitors.latency_ms", "monitors.cost_usd_per_day", "autoscaling.target_ongoing_requests")
COUNTS = ("autoscaling.min_replicas", "autoscaling.max_replicas")
MONEY = ("price.input_usd_per_mtok", "price.output_usd_per_mtok")
RECORDS = ("monitors", "autoscaling", "parameters", "ab_test", "price")

WRONG_TYPE = [
    *(Bad(changed(place, 7), place, "valid string (was 7)") for place in (*NAMES, "endpoint", "owner")),
    *(Bad(changed(place, ["a"]), place, "(was ['a'])") for place in (*NAMES, "version", "owner", *SHARES[:2])),
    *(Bad(changed(place, "high"), place, "(was 'high')") for place in (*SHARES, *POSITIVE, *COUNTS, *MONEY)),
    *(Bad(changed(place, value=True), place, "not bool (was True)") for place in (*SHARES, *POSITIVE, COUNTS[1])),
    *(Bad(changed(place, "1"), place, "a number, not str (was '1')") for place in (*SHARES, *COUNTS)),
    *(Bad(changed(place, "x"), place, "(was 'x')") for place in (*RECORDS, "tools")),
    Bad(changed("version", 1.1), "version", "write it in quotes, because the number 1.10 is 1.1"),
    Bad(changed("prompt", "faq-answer"), "prompt", "write name@version, or a name and a text"),
    Bad(changed("tools", [1]), "tools.0", "valid string (was 1)"),
    Bad(raw("owner: 2026-11-24"), "owner", "(was datetime.date(2026, 11, 24))"),
]
MISSING = [
    *(
        Bad(without(place), place, "Field required")
        for place in ("application", "model_id", "version", "endpoint", "prompt", "prompt.name", "ab_test.name", *MONEY)
    ),
    Bad(without("prompt.text"), "prompt", "give either the text of the prompt or the version of a registered one"),
    *(Bad(changed(place, None), place, "(was None)") for place in (*NAMES, "version", "endpoint", *RECORDS[:3])),
]
UNKNOWN = [
    *(
        Bad(changed(f"{record}.colour", "blue"), f"{record}.colour", said)
        for record, said in (
            ("monitors", "(was 'blue') [allowed: cost_usd_per_day, drift, errors, latency_ms, quality, toxicity]"),
            ("prompt", "(was 'blue') [allowed: name, text, version]"),
            ("price", "(was 'blue') [allowed: input_usd_per_mtok, output_usd_per_mtok]"),
            ("ab_test", "(was 'blue') [allowed: name, share]"),
            ("autoscaling", "(was 'blue') [allowed: downscale_delay_s, "),
        )
    ),
    *(
        Bad(changed(name, 1), name, "(was 1) [allowed: ab_test, application, autoscaling, ")
        for name in ("colour", "Application", "model-id", "modelid", "__class__")
    ),
    Bad(changed("endpoint ", 1), "'endpoint '", "Extra inputs are not permitted (was 1) [allowed: "),
]
OUT_OF_RANGE = [
    *(Bad(changed(place, 1.01), place, "less than or equal to 1 (was 1.01)") for place in SHARES),
    *(Bad(changed(place, -0.01), place, "greater than or equal to 0 (was -0.01)") for place in SHARES),
    *(Bad(changed(place, 0), place, "greater than ") for place in (*POSITIVE, *COUNTS)),
    *(Bad(changed(place, 1001), place, "less than or equal to 1000 (was 1001)") for place in COUNTS),
    *(Bad(changed(place, -1), place, "greater than or equal to 0 (was -1)") for place in MONEY),
    Bad(changed("price.input_usd_per_mtok", 0.0000001), "price.input_usd_per_mtok", "no more than 6 decimal places"),
    Bad(changed("autoscaling.min_replicas", 9), "autoscaling", "max_replicas 4 is below min_replicas 9"),
    Bad(changed("judge_version", "mine"), "judge_version", "Input should be 'support-1' (was 'mine')"),
    Bad(changed("prompt", "p@0"), "prompt.version", "greater than or equal to 1 (was 0)"),
    Bad(changed("endpoint", "models:/bot@champion"), "endpoint", "names no fixed version"),
    Bad(changed("endpoint", "ftp://host/v1"), "endpoint", "write http(s)://host/path without a key, or models:/"),
    Bad(changed("endpoint_key_env", "sk-live-1"), "endpoint_key_env", "should match pattern"),
    Bad(changed("parameters.stream", value=True), "parameters", "stream is not a parameter of a release"),
    Bad(changed("prompt.name", "faq"), "file", "prompt 'faq' is named like its application"),
]
NOT_FINITE = [
    *(
        Bad(changed(place, number), place, f"(was {number!r})")
        for place in (*SHARES, *POSITIVE)
        for number in (float("nan"), float("inf"))
    ),
    *(Bad(changed(place, float("nan")), place, "(was nan)") for place in (*COUNTS, *MONEY)),
    Bad(changed("parameters.temperature", float("nan")), "parameters", "temperature nan is not a finite number"),
]
CONTROL = [
    *(
        Bad(changed(place, "a\x00b"), place, r"a control character (was 'a\x00b') at 1; allowed: printable")
        for place in (*NAMES, "owner", "prompt.text", "version", "endpoint")
    ),
    *(
        Bad(changed("owner", f"a{mark}b"), "owner", "a control character")
        for mark in ("\x1b[31m", "\x07", "\x7f", "\u2028")
    ),
    Bad(changed("tools", ["\x08"]), "tools.0", r"a control character (was '\x08')"),
    Bad(changed("parameters.stop", ["\x08"]), "parameters.stop.0", r"a control character (was '\x08')"),
    Bad(raw(r'"a\eb": 1'), r"'a\x1bb'", "a control character"),
    Bad(raw(r'owner: "\ud800"'), "owner", "half of a surrogate pair, which is no text"),
    Bad(changed("application", "a\nb"), "application", r"(was 'a\nb')"),
    Bad(raw('"a\\nb": 1'), r"'a\nb'", "Extra inputs are not permitted (was 1)"),
]
HUGE = [
    *(Bad(changed(place, "a" * 65), place, "should match pattern") for place in (*NAMES, "version")),
    Bad(changed("owner", "o" * 201), "owner", "at most 200 characters"),
    Bad(changed("prompt.text", "t" * 100_001), "prompt.text", "at most 100000 characters"),
    Bad(b"owner: " + b"x" * MAX_BYTES, "", f"it is too large; allowed: {MAX_BYTES} bytes"),
    Bad(raw("tools: [" + "a, " * 60_000 + "]"), "", "it holds too many values; allowed: 50000"),
    Bad(changed("autoscaling.max_replicas", 10**400), "autoscaling.max_replicas", "Input should be "),
    Bad(changed("monitors.latency_ms", 10**400), "monitors.latency_ms", "Input should be "),
    Bad(changed("n" * 100_000, 1), "n" * 80, "Extra inputs are not permitted (was 1)"),
    Bad(b"".join(b"k%d: 1\n" % number for number in range(1000)), "application", "; and 985 more"),
    Bad(raw("owner: " + "[" * 5000), "", "cannot be read: "),
    Bad(
        raw("a0: &a0 [x]\n" + "\n".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9))),
        "",
        "it holds too many values; allowed: 50000, and anchors count wherever they are used",
    ),
    Bad(raw("parameters: &a {b: *a}"), "parameters.b.dict.b", "cyclic reference"),
]
TWICE = [
    *(
        Bad(yaml.safe_dump(VALID).encode() + f"{name}: x\n".encode(), "", f"the key '{name}' stands twice")
        for name in ("application", "version", "endpoint", "prompt", "owner")
    ),
    Bad(raw("monitors: {quality: 0.1, quality: 0.9}"), "", "the key 'quality' stands twice"),
    Bad(raw('parameters: {"a": 1, a: 2}'), "", "the key 'a' stands twice"),
    Bad(raw("parameters: {1: a, true: b}"), "", "the key True stands twice"),
]
BAD_YAML = [
    *(
        Bad(text.encode(), "", said)
        for text, said in (
            ("", "expected a mapping of fields, not NoneType"),
            ("# nothing", "expected a mapping of fields, not NoneType"),
            ("faq", "expected a mapping of fields, not str"),
            ("- application: faq", "expected a mapping of fields, not list"),
            ("3.5", "expected a mapping of fields, not float"),
            ("application: [faq", "cannot be read: while parsing a flow sequence"),
            ("application: 'faq", "cannot be read: while scanning a quoted scalar"),
            ("application: faq: bot", "mapping values are not allowed here"),
            ("\tapplication: faq", "found character '\\t' that cannot start any token"),
            ("application: faq\n  model_id: bot", "mapping values are not allowed here"),
            ("application: *name", "found undefined alias"),
            ("application: !!python/object/apply:os.system [id]", "could not determine a constructor for the tag"),
            ("application: !secret x", "could not determine a constructor for the tag"),
            ("version: 2026-13-45", "month must be in 1..12"),
            ("version: !!int x", "invalid literal for int()"),
            ("a: 1\n---\nb: 2", "expected a single document"),
            ("{application: faq", "cannot be read: while parsing a flow mapping"),
            ("%YAML 9.9\n---\na: 1", "found incompatible YAML document"),
            ("? [a, b]\n: 1", "found unhashable key"),
            ("1: 2", "Keys should be strings"),
        )
    ),
]
BINARY = [
    Bad(b"\x00\x01\x02", "", "cannot be read: unacceptable character #x0000"),
    Bad(b"\x7fELF\x02\x01\x01\x00" + bytes(100), "", "cannot be read: unacceptable character"),
    Bad(b"\x1f\x8b\x08\x00" + bytes(range(256)), "", "cannot be read: 'utf-8' codec can't decode byte 0x8b"),
    Bad("application: café".encode("latin-1"), "", "cannot be read: 'utf-8' codec can't decode byte 0xe9"),
    Bad("application: faq".encode("utf-16"), "", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
    Bad(b"application: \xed\xa0\x80", "", "cannot be read: 'utf-8' codec can't decode"),
    *(
        Bad(raw(f"{name}: !!binary aGVsbG8="), name, "bytes is not allowed (was b'hello'); write a text")
        for name in ("owner", "version", "provider")
    ),
    Bad(raw("tools: [!!binary aGVsbG8=]"), "tools.0", "bytes is not allowed"),
    Bad(raw("tools: !!set {a, b}"), "tools", "set is not allowed (was {"),
]
GROUPS = {
    "wrong type": WRONG_TYPE,
    "missing": MISSING,
    "unknown": UNKNOWN,
    "range": OUT_OF_RANGE,
    "not finite": NOT_FINITE,
    "control": CONTROL,
    "huge": HUGE,
    "twice": TWICE,
    "yaml": BAD_YAML,
    "binary": BINARY,
}
CASES = [pytest.param(bad, id=f"{group} {at}") for group, found in GROUPS.items() for at, bad in enumerate(found)]
Refuse = Callable[[bytes], str]


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Return a function that gives a file to ``delivery rollout``; it fails if anything is started or asked."""

    def reached(*_: Any, **__: Any) -> None:
        pytest.fail("a malformed file got past the command")

    monkeypatch.setattr(kick_module, "kick", reached)
    monkeypatch.setattr(httpx.Client, "send", reached)
    monkeypatch.setattr(httpx.AsyncClient, "send", reached)
    monkeypatch.setattr("deployments.cli._use_stack", reached)
    path = tmp_path / "release.yaml"

    def refuse_file(content: bytes) -> str:
        path.write_bytes(content)
        ended = CliRunner().invoke(app, ["rollout", str(path)])
        assert isinstance(ended.exception, SystemExit), ended.exception
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"error: {path}: ")
        return ended.stderr.removeprefix(f"error: {path}: ")

    return refuse_file


def test_there_are_a_hundred_and_the_file_they_come_from_is_valid(tmp_path: Path) -> None:
    assert len(CASES) >= 100
    assert len({bad.content for found in GROUPS.values() for bad in found}) == len(CASES)
    path = tmp_path / "release.yaml"
    path.write_bytes(yaml.safe_dump(VALID).encode())
    assert read_document(path, ReleaseSpec).application == "faq"


@pytest.mark.parametrize("bad", CASES)
def test_a_malformed_file_is_refused_in_one_line_before_anything_is_started(refuse: Refuse, bad: Bad) -> None:
    said = refuse(bad.content)
    assert said.endswith("\n")
    line = said.removesuffix("\n")
    assert line.isprintable()
    assert bad.said in line
    assert len(line) < 8000
    problems = line.split("; ")
    assert any(problem.startswith(f"{bad.field}: ") for problem in problems) if bad.field else True


def test_a_key_in_an_address_is_masked_also_where_the_file_cannot_be_parsed(refuse: Refuse) -> None:
    assert "sk-s3cret" not in refuse(b"endpoint: https://user:sk-s3cret@host/v1: [")
    assert "sk-s3cret" not in refuse(changed("endpoint", "https://user:sk-s3cret@host/v1"))


# --- mutations ---

PLACES = [*VALID, *(f"{name}.{inner}" for name, value in VALID.items() if isinstance(value, dict) for inner in value)]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=80),
    st.binary(max_size=10),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def outcome(path: Path) -> ReleaseSpec | str:
    """Return what a file is read as, or what is said; any other error is a defect and fails the test."""
    try:
        return read_document(path, ReleaseSpec)
    except InputError as error:
        return str(error)


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), value=JUNK)
def test_a_value_in_anothers_place_is_kept_as_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(changed(place, value))
    read = outcome(path)
    if isinstance(read, str):
        assert read.startswith(f"{path}: ")
        assert read.removeprefix(f"{path}: ").isprintable()
        return
    kept: Any = read.model_dump()
    for name in place.split("."):
        kept = kept[name] if isinstance(kept, dict) else None
    assert not isinstance(value, bytes)
    if isinstance(value, bool) and not place.startswith("parameters"):
        pytest.fail(f"{place} took {value} for {kept!r}")
    assert isinstance(value, str) <= (not isinstance(kept, int | float))


@settings(max_examples=150)
@given(data=st.data())
def test_a_file_with_bytes_changed_is_a_release_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(yaml.safe_dump(VALID).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "bitten.yaml"
    path.write_bytes(content)
    read = outcome(path)
    if isinstance(read, str):
        assert re.fullmatch(r"[^\n]+", read)
        assert read.removeprefix(f"{path}: ").isprintable()
