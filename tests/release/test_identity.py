"""The identity of a release: the same content is the same release, and any change makes another one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.release.model import (
    Autoscaling,
    Monitors,
    Prompt,
    Release,
    ReleaseSpec,
    read_release_file,
    release_digest,
    text_sha256,
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
TEXT_SHA = text_sha256(WHOLE["prompt"]["text"])


def spec(**changes: Any) -> ReleaseSpec:
    return ReleaseSpec.model_validate({**WHOLE, **changes})


def test_the_digest_of_a_release_never_changes() -> None:
    # Whatever changes this vector makes every registered release unknown.
    assert release_digest(spec(), TEXT_SHA) == "4028243f6efe28a1cf048297f838bde2d6cab00c145dd1f13011bada9c2dca5c"


@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    again = ReleaseSpec.model_validate(shuffled(WHOLE))
    assert release_digest(again, TEXT_SHA) == release_digest(spec(), TEXT_SHA)


def test_a_release_from_a_file_and_from_the_form_is_the_same_release(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump(WHOLE), encoding="utf-8")
    from_file = read_release_file(path)
    sent = json.loads(json.dumps(from_file.model_dump(mode="json")))
    from_form = ReleaseSpec.model_validate(sent)
    assert from_form == from_file
    assert release_digest(from_form, TEXT_SHA) == release_digest(from_file, TEXT_SHA)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"parameters": {"temperature": 1.0, "seed": -0.0}}, {"parameters": {"temperature": 1, "seed": 0}}),
        (
            {"parameters": {"logit_bias": {"50256": -100.0, "7": [2.0, {"x": 0.0}]}, "stop": None}},
            {"parameters": {"stop": None, "logit_bias": {"7": [2, {"x": 0}], "50256": -100}}},
        ),
        ({"monitors": {"latency_ms": 800.0}}, {"monitors": {"latency_ms": 800}}),
        (
            {"price": {"input_usd_per_mtok": 30.0, "output_usd_per_mtok": "0.60"}},
            {"price": {"input_usd_per_mtok": 30, "output_usd_per_mtok": 0.6}},
        ),
        ({"version": 7}, {"version": "7"}),
        ({"tools": []}, {"tools": ()}),
        ({"monitors": {}}, {"monitors": Monitors().model_dump()}),
        ({"baseline": None}, {"baseline": None, "ab_test": WHOLE["ab_test"]}),
    ],
)
def test_the_same_content_in_another_spelling_is_the_same_release(one: Any, other: Any) -> None:
    assert release_digest(spec(**one), TEXT_SHA) == release_digest(spec(**other), TEXT_SHA)


CHANGES: dict[str, list[Any]] = {
    "application": ["help"],
    "model_id": ["faq-bot-2"],
    "version": ["8", "07"],
    "endpoint": ["https://models.example.com/v2", "models:/faq-bot/7"],
    "endpoint_key_env": ["HELP_KEY", None],
    "provider": ["internal"],
    "prompt": [{"name": "faq-reply", "text": WHOLE["prompt"]["text"]}],
    "parameters": [
        {},
        WHOLE["parameters"] | {"temperature": 0.3},
        WHOLE["parameters"] | {"max_tokens": "400"},
        WHOLE["parameters"] | {"logprobs": 0},
        WHOLE["parameters"] | {"logprobs": None},
        WHOLE["parameters"] | {"stop": ["###"]},
        WHOLE["parameters"] | {"stop": ["###", "\n"]},
        WHOLE["parameters"] | {"stop": ["\n", "###"]},
        WHOLE["parameters"] | {"response_format": {"type": "json_object"}},
    ],
    "tools": [["order", "search"], ["search"]],
    "monitors": [WHOLE["monitors"] | {name: 0.5} for name in Monitors.model_fields],
    "autoscaling": [
        WHOLE["autoscaling"] | {name: 3 if name.endswith("replicas") else 1.5} for name in Autoscaling.model_fields
    ],
    "ab_test": [None, {"name": "tone", "share": 0.31}, {"name": "length", "share": 0.3}],
    "baseline": ["5", None],
    "price": [None, {"input_usd_per_mtok": 0.16, "output_usd_per_mtok": 0.6}],
    "owner": [""],
}


def test_any_change_of_any_field_is_another_release() -> None:
    assert set(CHANGES) == set(ReleaseSpec.model_fields) - {"judge_version"}  # it has one value so far
    digests = [release_digest(spec(**{name: value}), TEXT_SHA) for name, values in CHANGES.items() for value in values]
    digests += [release_digest(spec(), TEXT_SHA), release_digest(spec(), text_sha256("another text"))]
    assert len(set(digests)) == len(digests)


_scalars = st.none() | st.text(max_size=5) | st.integers(-5, 5) | st.floats(-5, 5) | st.booleans()
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_parameters = st.dictionaries(st.text(max_size=3).filter(lambda name: name != "n"), _values, max_size=3)


@given(_parameters, _parameters)
def test_two_sets_of_parameters_have_one_digest_exactly_when_json_says_they_are_equal(a: Any, b: Any) -> None:
    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    one, other = (release_digest(spec(parameters=values), TEXT_SHA) for values in (a, b))
    assert (one == other) == (json.dumps(whole(a), sort_keys=True) == json.dumps(whole(b), sort_keys=True))


def test_a_prompt_by_text_and_by_version_is_the_same_release() -> None:
    prompt = Prompt(name="faq-answer", version=3, text=WHOLE["prompt"]["text"], sha256=TEXT_SHA)
    by_text = Release(spec=spec(), prompt=prompt, registry_version=1)
    by_version = Release(spec=spec(prompt="faq-answer@3"), prompt=prompt, registry_version=9)
    assert by_text.digest == by_version.digest == release_digest(spec(prompt="faq-answer@8"), TEXT_SHA)
    assert (by_text.short, by_text.label, by_text.application) == (by_text.digest[:12], "faq-bot 7", "faq")


def test_a_deployment_is_named_after_model_version_and_utc_time() -> None:
    east = datetime.fromisoformat("2026-03-01T01:30:05.9+02:00")
    assert spec().deployment_id(east) == "faq-bot-7-2026-02-28T23:30:05Z"
    assert spec().deployment_id(datetime(2026, 3, 1, tzinfo=UTC)) == "faq-bot-7-2026-03-01T00:00:00Z"


def test_a_release_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().version = "8"  # type: ignore[misc]
