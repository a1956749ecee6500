"""What a release is: how it is read, what is refused, and how that is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import ValidationError

from flows.rollout import rollout
from tasks.errors import InputError
from tasks.release.model import (
    Autoscaling,
    PromptRef,
    ReleaseSpec,
    read_release_file,
)

WHOLE: dict[str, Any] = {
    "application": "faq",
    "model_id": "faq-bot",
    "version": "7",
    "endpoint": "https://models.example.com/v1",
    "endpoint_key_env": "FAQ_KEY",
    "provider": "example",
    "prompt": {"name": "faq-answer", "text": "Antworte höflich: {{ question }}"},
    "parameters": {"temperature": 0.2, "max_tokens": 400, "logprobs": False, "stop": "###"},
    "tools": ["search", "order"],
    "monitors": {"latency_ms": 800, "quality": 0.8},
    "autoscaling": {"min_replicas": 1, "max_replicas": 4},
    "ab_test": {"name": "tone", "share": 0.3},
    "baseline": "6",
    "price": {"input_usd_per_mtok": 0.15, "output_usd_per_mtok": 0.6},
    "owner": "faq-team@example.com",
}
LEAST = {name: WHOLE[name] for name in ("application", "model_id", "version", "endpoint", "prompt")}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a release file."""

    def write_file(text: str) -> Path:
        path = tmp_path / "release.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def spec(**changes: Any) -> ReleaseSpec:
    return ReleaseSpec.model_validate({**WHOLE, **changes})


def refusal(write: Write, **changes: Any) -> str:
    path = write(yaml.safe_dump({**LEAST, **changes}))
    with pytest.raises(InputError) as caught:
        read_release_file(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


# --- reading ---


def test_yaml_and_json_say_the_same(write: Write) -> None:
    from_yaml = read_release_file(write(yaml.safe_dump(WHOLE, allow_unicode=True)))
    from_json = read_release_file(write(json.dumps(WHOLE)))
    assert from_yaml == from_json == spec()


def test_what_is_not_given_has_the_defaults_of_the_design(write: Write) -> None:
    read = read_release_file(write(yaml.safe_dump(LEAST)))
    limits = read.monitors
    assert (limits.latency_ms, limits.quality, limits.cost_usd_per_day, limits.toxicity) == (1000, 0.7, 100, 0.1)
    assert (limits.errors, limits.drift) == (0.05, 0.2)
    assert (read.autoscaling.min_replicas, read.autoscaling.max_replicas) == (1, 1)
    assert (read.provider, read.judge_version, read.tools, read.parameters) == ("internal", "support-1", (), {})
    assert (read.ab_test, read.baseline, read.price, read.endpoint_key_env) == (None, None, None, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"application": "f a q"}, "application: String should match pattern"),
        ({"application": ""}, "application: String should match pattern"),
        ({"model_id": "-bot"}, "(was '-bot')"),
        ({"model_id": "b" * 65}, "model_id: String should match pattern"),
        ({"version": "../7"}, "version: String should match pattern"),
        ({"version": True}, "version: Input should be a valid string (was True)"),
        ({"version": None}, "version: Input should be a valid string (was None)"),
        ({"endpoint_key_env": "sk-live-1"}, "endpoint_key_env: String should match pattern"),
        ({"provider": "a/b"}, "provider: String should match pattern"),
        ({"prompt": "p"}, "prompt: Value error, 'p' is not a prompt; write name@version, or a name and a text"),
        ({"prompt": {"name": "p"}}, "prompt: Value error, give either the text of the prompt or the version"),
        ({"prompt": {"name": "p", "text": ""}}, "prompt.text: String should have at least 1 character (was '')"),
        ({"parameters": ["a"]}, "parameters: Input should be a valid dictionary (was ['a'])"),
        ({"parameters": {"a": {1: 2}}}, "Input should be a valid string (was 1)"),
        ({"parameters": {1: 2}}, "parameters.1.[key]: Input should be a valid string (was 1)"),
        ({"tools": "search"}, "tools: Input should be a valid tuple (was 'search')"),
        ({"monitors": {"latency_ms": 0}}, "monitors.latency_ms: Input should be greater than 0 (was 0)"),
        ({"monitors": {"quality": 1.01}}, "monitors.quality: Input should be less than or equal to 1 (was 1.01)"),
        ({"monitors": {"toxicity": -0.1}}, "monitors.toxicity: Input should be greater than or equal to 0 (was -0.1)"),
        ({"monitors": {"cost_usd_per_day": "free"}}, "monitors.cost_usd_per_day: Input should be a valid number"),
        ({"monitors": {"latency": 1}}, "monitors.latency: Extra inputs are not permitted (was 1)"),
        ({"ab_test": {"name": "t", "share": 2}}, "ab_test.share: Input should be less than or equal to 1 (was 2)"),
        ({"price": {"input_usd_per_mtok": 1}}, "price.output_usd_per_mtok: Field required"),
        ({"judge_version": "mine"}, "judge_version: Input should be 'support-1' (was 'mine')"),
        ({"owner": "o" * 201}, "owner: String should have at most 200 characters"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted (was 'blue')"),
    ],
)
def test_a_bad_field_is_named_with_its_value(write: Write, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(write, **changes)


def test_every_bad_field_is_named_not_the_first_alone(write: Write) -> None:
    said = refusal(write, application="a b", monitors={"quality": 7, "drift": -1}, colour="blue")
    assert all(f"{place}: " in said for place in ("application", "monitors.quality", "monitors.drift", "colour"))
    assert all(value in said for value in ("'a b'", "(was 7)", "(was -1)", "'blue'"))


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "NaN", "Infinity"])
@pytest.mark.parametrize(
    "place",
    [
        *("monitors.latency_ms", "monitors.quality", "monitors.cost_usd_per_day"),
        *("autoscaling.target_ongoing_requests", "autoscaling.upscale_delay_s", "price.input_usd_per_mtok"),
    ],
)
def test_a_limit_that_is_no_finite_number_is_refused(write: Write, place: str, number: str) -> None:
    group, name = place.split(".")
    other = "\n  output_usd_per_mtok: 1" if group == "price" else ""
    with pytest.raises(InputError, match=rf"{place}: Input should be "):
        read_release_file(write(f"{yaml.safe_dump(LEAST)}\n{group}:\n  {name}: {number}{other}\n"))


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    ("parameters", "place"),
    [("{a: %s}", "a"), ("{a: [1, %s]}", "a.1"), ("{a: {b: [{c: %s}]}}", "a.b.0.c")],
)
def test_a_parameter_that_has_no_json_is_refused(write: Write, parameters: str, place: str, number: str) -> None:
    with pytest.raises(InputError, match=rf"parameters: Value error, {place} -?(nan|inf) is not a finite number"):
        read_release_file(write(f"{yaml.safe_dump(LEAST)}\nparameters: {parameters % number}\n"))


@pytest.mark.parametrize("value", [r'"\ud800"', r'["\udfff"]', r'{"\ud800": 1}'])
def test_a_parameter_that_is_no_text_is_refused(write: Write, value: str) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair, which is no text"):
        read_release_file(write(f'{yaml.safe_dump(LEAST)}\nparameters: {{"a": {value}}}\n'))


def test_a_parameter_that_holds_itself_is_refused(write: Write) -> None:
    with pytest.raises(InputError, match="cyclic reference"):
        read_release_file(write(f"{yaml.safe_dump(LEAST)}\nparameters: &a {{b: *a}}\n"))


def test_a_parameter_may_be_any_json(write: Write) -> None:
    parameters = {
        "stop": ["###", "\n"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": {}}},
        "seed": None,
        "logit_bias": {"50256": -100},
    }
    assert read_release_file(write(yaml.safe_dump({**LEAST, "parameters": parameters}))).parameters == parameters


@pytest.mark.parametrize("name", ["messages", "model", "stream", "stream_options", "user", "n"])
def test_a_parameter_that_would_mangle_the_request_is_refused_with_the_reason(write: Write, name: str) -> None:
    said = refusal(write, parameters={"temperature": 0, name: None})
    assert said.startswith(f"parameters: Value error, {name} is not a parameter of a release: ")
    assert "; remove it" in said


def test_a_prompt_cannot_be_named_like_its_application(write: Write) -> None:
    said = refusal(write, prompt={"name": "faq", "text": "Hello."})
    assert "prompt 'faq' is named like its application, and the registry keeps both in one namespace" in said
    assert "is named like its application" in refusal(write, prompt="faq@1")


def test_the_form_of_a_rollout_has_a_field_for_parameters_and_takes_any_json() -> None:
    schema = parameter_schema(rollout.fn).model_dump_for_openapi()
    field = schema["definitions"]["ReleaseSpec"]["properties"]["parameters"]
    assert (field["type"], field["title"]) == ("object", "Parameters")
    assert field["description"]
    sent = spec(parameters={"stop": ["a"], "response_format": {"type": "json_object"}, "seed": None}).model_dump(
        mode="json"
    )
    validate({"release": sent}, schema, raise_on_error=True)
    assert rollout.validate_parameters({"release": sent})["release"].parameters == sent["parameters"]


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words", "7"])
def test_a_file_that_is_no_mapping_is_refused(write: Write, text: str) -> None:
    with pytest.raises(InputError, match=r"release\.yaml: expected a mapping of fields, not \w+"):
        read_release_file(write(text))


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: 'b", "\t- a", "a: b: c", "version: 2026-13-45", "a: !!int b", "a: !!float ''", "[" * 3000, "\x00"],
)
def test_a_file_that_cannot_be_parsed_is_refused_in_one_line(write: Write, text: str) -> None:
    with pytest.raises(InputError, match=r"release\.yaml: cannot be read: [^\n]+$"):
        read_release_file(write(text))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.yaml: cannot be read: .*No such file"):
        read_release_file(tmp_path / "nope.yaml")
    with pytest.raises(InputError, match=r"cannot be read: .*Is a directory"):
        read_release_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("application: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: cannot be read: 'utf-8' codec"):
        read_release_file(tmp_path / "latin.yaml")


def test_a_file_runs_no_code(write: Write, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for tag in (f"!!python/object/apply:os.mkdir ['{ran}']", f"!!python/object/new:os.mkdir ['{ran}']"):
        with pytest.raises(InputError, match="could not determine a constructor for the tag"):
            read_release_file(write(f"{yaml.safe_dump(LEAST)}\nowner: {tag}\n"))
    assert not ran.exists()


@given(st.text(max_size=200))
def test_whatever_stands_in_a_file_it_is_a_release_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(InputError, match=r"any\.yaml"):
        read_release_file(path)


# --- versions, prompts, endpoints ---


def test_a_version_may_be_a_whole_number_but_no_fraction(write: Write) -> None:
    assert spec(version=7, baseline=6) == spec()
    said = refusal(write, version=1.10)
    assert "version: Value error, a version is a text; write it in quotes, because the number 1.10 is 1.1" in said


@pytest.mark.parametrize(("text", "name", "version"), [("faq-answer@3", "faq-answer", 3), ("p@007", "p", 7)])
def test_a_prompt_can_be_written_as_name_and_version(text: str, name: str, version: int) -> None:
    assert spec(prompt=text).prompt == PromptRef(name=name, version=version)


@pytest.mark.parametrize(
    "prompt", ["faq-answer", "@3", "faq-answer@", "p@latest", "p@-1", "p@1.0", "p@0", "a@b@1", "p @1", "p@\u00b2", ""]
)
def test_any_other_shorthand_is_refused(prompt: str) -> None:
    with pytest.raises(ValidationError, match="prompt"):
        spec(prompt=prompt)


@pytest.mark.parametrize("given_", [{"text": "hi", "version": 1}, {}, {"version": 0}, {"text": "t" * 100_001}])
def test_a_prompt_is_a_text_or_a_version_and_not_both(given_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PromptRef(name="p", **given_)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://127.0.0.1:8000", "https://models.example.com/v1", "https://h/team@eu/v1"),
        *("models:/bot/3", "models:/the_bot.v2/120"),
    ],
)
def test_an_endpoint_is_a_base_url_or_a_model_of_the_registry(endpoint: str) -> None:
    assert spec(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "models.example.com/v1", "ftp://h/v1", "file:///etc/passwd", "https://", "https:///v1", "http://h /v1"),
        *("https://h/v1?x=1", "https://h/v1#x", "https://h/v1\n", "models:bot/1", "models:/", "models:/bot/1/2"),
        *("models:/bot/../x", "runs:/1/model", "models:/bot/1\n"),
    ],
)
def test_anything_else_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="is no endpoint"):
        spec(endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint", ["models:/bot", "models:/bot@champion", "models:/bot/Production", "models:/bot/latest", "models:/bot/0"]
)
def test_a_model_that_can_be_moved_is_no_endpoint(write: Write, endpoint: str) -> None:
    said = refusal(write, endpoint=endpoint)
    assert "names no fixed version: an alias or a stage can be moved to another model; write models:/" in said


@pytest.mark.parametrize(
    "endpoint",
    [
        *("https://sk-s3cret@h/v1", "https://user:sk-s3cret@h/v1", "https://user:a@sk-s3cret@h", "http://:sk-s3cret@h"),
        *("https://h/v1?api_key=sk-s3cret", "https://user:" + 60 * "x" + "sk-s3cret@h/v1"),
    ],
)
def test_a_key_in_an_endpoint_is_refused_and_not_repeated(write: Write, endpoint: str) -> None:
    said = refusal(write, endpoint=endpoint)
    assert said.startswith("endpoint: Value error, 'http")
    assert "is no endpoint; write http(s)://host/path without a key" in said
    assert "s3cret" not in said
    assert "x" * 30 not in said


# --- autoscaling ---


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 1000), (3, 4), (1000, 1000)])
def test_replicas_within_the_bounds_are_accepted(low: int, high: int) -> None:
    assert Autoscaling(min_replicas=low, max_replicas=high).max_replicas == high


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"min_replicas": 0}, "min_replicas: Input should be greater than or equal to 1 (was 0)"),
        ({"max_replicas": 1001}, "max_replicas: Input should be less than or equal to 1000 (was 1001)"),
        ({"min_replicas": 1.5}, "min_replicas: Input should be a valid integer"),
        ({"min_replicas": 3, "max_replicas": 2}, "Value error, max_replicas 2 is below min_replicas 3"),
        ({"min_replicas": 2}, "Value error, max_replicas 1 is below min_replicas 2"),
        ({"target_ongoing_requests": 0}, "target_ongoing_requests: Input should be greater than 0 (was 0)"),
        ({"downscale_delay_s": -1}, "downscale_delay_s: Input should be greater than or equal to 0 (was -1)"),
    ],
)
def test_replicas_outside_the_bounds_are_refused(write: Write, bounds: dict[str, Any], said: str) -> None:
    assert said in refusal(write, autoscaling=bounds)
