from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving.chat import ApiError, ChatRequest, parse_request

USER = {"role": "user", "content": "Hi"}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
FIELDS = st.sampled_from(["messages", "stream", "stream_options", "n", "temperature", "max_tokens", "model", "user"])
HALF = b'{"messages": [{"role": "user", "content": "Hi"}], "user": "\\ud800"}'
NAN = b'{"messages": [{"role": "user", "content": "Hi"}], "logit_bias": NaN}'


def refused(body: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    assert caught.value.kind == "invalid_request_error"
    return caught.value


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [USER] * 1001}, "messages"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages.1.content.str"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": "no"}}, "stream_options.include_usage"),
        ({"n": 2}, "n"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": 5}, "model"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], param: str):
    error = refused({"messages": [USER], **changes})

    assert error.param == param
    assert json.loads(error.body())["error"]["param"] == param
    assert param.partition(".")[0] in str(error)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b"null", b"[" * 100_000, HALF, NAN])
def test_what_is_no_object_is_refused(body: bytes):
    assert refused(body).param is None


def test_a_whole_pair_is_text():
    assert parse_request(rb'{"messages": [{"role": "user", "content": "\ud83d\ude00"}]}').question == "\U0001f600"


def test_the_value_is_not_repeated():
    assert "secret" not in refused({"messages": [USER], "model": ["secret"]}).body().decode()


def test_the_question_is_the_last_user_message_with_its_parts():
    parts = [
        {"type": "text", "text": "Who"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "is it?"},
    ]
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": parts}]

    request = parse_request(json.dumps({"messages": messages, "logit_bias": {"1": 2}}).encode())

    assert request.question == "Who\nis it?"
    assert request.model_dump(exclude_unset=True)["logit_bias"] == {"1": 2}
    assert request.model_dump(exclude_unset=True)["messages"][1]["tool_calls"] == []


@given(st.dictionaries(FIELDS, JSON_VALUES) | st.fixed_dictionaries({"messages": JSON_VALUES}))
def test_any_json_is_a_request_or_an_api_error(document: dict[str, Any]):
    try:
        request = parse_request(json.dumps(document).encode())
    except ApiError as error:
        json.loads(error.body())
    else:
        assert isinstance(request, ChatRequest)
        assert request.question.strip()


@given(st.binary())
def test_any_bytes_are_refused_politely(body: bytes):
    refused(body)
