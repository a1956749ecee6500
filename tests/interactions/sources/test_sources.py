"""What each source leaves out, counts twice or calls otherwise."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest

from tasks.errors import InputError
from tasks.interactions.recipes import FormatName
from tasks.interactions.schema import Interaction
from tasks.interactions.sources import FORMATS, Context, detect, from_protobuf
from tasks.interactions.sources.values import pusd

CONTEXT = Context(application="bot", received=datetime(2026, 1, 1, tzinfo=UTC))
CHAT = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "gpt-4o",
    "choices": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
USED = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2}


def rows(source: str, document: object, context: Context = CONTEXT) -> list[Interaction | str]:
    return FORMATS[source].parse(json.dumps(document).encode(), context)


def only(source: str, document: object, context: Context = CONTEXT) -> Interaction:
    (row,) = rows(source, document, context)
    assert isinstance(row, Interaction), row
    return row


def otlp(*spans: dict[str, Any], resource: dict[str, Any] | None = None) -> dict[str, Any]:
    held = {"resource": {"attributes": pairs(resource or {})}, "scopeSpans": [{"spans": list(spans)}]}
    return {"resourceSpans": [held]}


def span(own: str, attributes: dict[str, Any], parent: str = "", **more: Any) -> dict[str, Any]:
    times = {"startTimeUnixNano": "1767225600000000000", "endTimeUnixNano": "1767225601000000000"}
    ids = {"traceId": "a" * 32, "spanId": own * 16, "parentSpanId": parent * 16}
    return {**ids, **times, "attributes": pairs(attributes), **more}


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [
        {"key": name, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}
        for name, value in attributes.items()
    ]


def test_the_same_document_twice_has_the_same_id_whatever_the_order_of_its_keys() -> None:
    document = {"object": "list", "model": "e", "data": [], "usage": {"prompt_tokens": 1}}

    first, again = only("openai", document), only("openai", dict(reversed(document.items())))

    assert first.interaction_id == again.interaction_id
    assert first.interaction_id != only("openai", document | {"model": "f"}).interaction_id


def test_what_nobody_says_is_asked_for() -> None:
    assert rows("openai", CHAT, Context()) == ["application: the document does not name it; say which one it is"]
    bare = {key: value for key, value in CHAT.items() if key != "created"}
    assert rows("openai", bare, Context("bot")) == [
        "time: the document does not say it; say when it was received",
    ]


def test_the_context_never_overrides_the_document() -> None:
    enveloped = {"response": CHAT, "application": "own", "time": "2026-02-01T00:00:00Z"}

    row = only("openai", enveloped)

    assert (row.application, row.time) == ("own", datetime(2026, 2, 1, tzinfo=UTC))


def test_an_envelope_with_a_field_nobody_knows_is_refused_without_naming_it() -> None:
    (reason,) = rows("openai", {"response": CHAT, "my-secret": 1})

    assert isinstance(reason, str)
    assert reason.startswith("envelope: holds a field that is not allowed; allowed: request, response, error, user")
    assert "my-secret" not in reason


def test_an_answer_of_bedrock_through_anthropics_interface_says_who_is_paid() -> None:
    message = {"type": "message", "id": "m", "model": "claude", "usage": {"input_tokens": 1, "output_tokens": 1}}

    assert only("anthropic", {"response": message, "provider": "aws.bedrock"}).provider == "aws"


def test_tools_and_agents_are_no_calls_and_repeat_no_usage() -> None:
    agent = span("1", {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "m", **USED})
    call = span("2", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", **USED}, "1")
    tool = span("3", {"gen_ai.operation.name": "execute_tool"}, "2")

    assert only("otlp", otlp(agent, call, tool)).interaction_id == f"{'a' * 32}-{'2' * 16}"
    assert rows("otlp", otlp(agent, tool)) == ["document: holds no call of a model"]


def test_of_a_call_within_a_call_the_inner_one_counts_if_it_knows_its_usage() -> None:
    chat = {"gen_ai.operation.name": "chat"}
    inner_knows = otlp(span("1", chat | USED), span("2", chat | USED, "1"))
    outer_knows = otlp(span("1", chat | USED), span("2", chat, "1"))
    side_by_side = otlp(span("1", chat | USED), span("2", chat | USED))

    assert only("otlp", inner_knows).interaction_id.endswith("2" * 16)
    assert only("otlp", outer_knows).interaction_id.endswith("1" * 16)
    assert len(rows("otlp", side_by_side)) == 2


def test_old_and_new_names_of_attributes_say_the_same() -> None:
    old = {
        "gen_ai.system": "aws.bedrock",
        "llm.request.type": "chat",
        "gen_ai.response.model": "m",
        "gen_ai.usage.prompt_tokens": 100,
        "gen_ai.usage.completion_tokens": 7,
        "gen_ai.usage.cache_read_input_tokens": 60,
        "gen_ai.usage.cache_creation_input_tokens": 30,
        "gen_ai.usage.reasoning_tokens": 5,
    }
    new = {
        "gen_ai.provider.name": "aws.bedrock",
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": "m",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.usage.cache_write.input_tokens": 30,
        "gen_ai.usage.reasoning.output_tokens": 5,
    }

    row = only("otlp", otlp(span("1", new)))

    assert only("otlp", otlp(span("1", old))) == row
    assert (row.provider, row.input_tokens, row.output_tokens) == ("aws", 100, 7)
    assert (row.cached_input_tokens, row.cache_write_tokens, row.reasoning_tokens) == (60, 30, 5)


def test_a_failed_span_is_500_unless_it_says_its_status() -> None:
    chat = {"gen_ai.operation.name": "chat"}
    message = {"code": 2, "message": "the user said a secret"}

    plain = only("otlp", otlp(span("1", chat, status=message)))
    said = only("otlp", otlp(span("1", chat | {"error.type": "429"}, status=message)))
    http = only("otlp", otlp(span("1", chat | {"http.response.status_code": 503}, status=message)))

    assert [(row.status, row.error_type) for row in (plain, said, http)] == [
        (500, "error"),
        (429, "429"),
        (503, "error"),
    ]
    assert "secret" not in plain.model_dump_json()


def test_a_broken_span_costs_only_itself() -> None:
    good = span("1", {"gen_ai.operation.name": "chat", **USED})
    broken = span("2", {}) | {"attributes": [{"key": 5}]}

    first, reason = rows("otlp", otlp(good, broken))

    assert isinstance(first, Interaction)
    assert reason == "attributes: must be pairs of key and value"


def test_the_resource_names_application_and_environment_but_not_an_unknown_service() -> None:
    call = span("1", {"gen_ai.operation.name": "chat", "user.id": "ann", "gen_ai.conversation.id": "s"})
    known = only("otlp", otlp(call, resource={"service.name": "shop", "deployment.environment.name": "prod"}))
    unknown = only("otlp", otlp(call, resource={"service.name": "unknown_service:python"}))

    assert (known.application, known.environment, unknown.application) == ("shop", "prod", "bot")
    assert (known.unit, known.unit_kind, known.session_id) == ("ann", "user", "s")


def test_an_export_in_protobuf_reads_as_the_same_one_in_json() -> None:
    from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.cost": 0.1 + 0.2, **USED}
    document = otlp(span("1", call, "2"), resource={"service.name": "shop"})
    encoded = json.loads(json.dumps(document))
    for name in ("traceId", "spanId", "parentSpanId"):
        held = encoded["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        held[name] = base64.b64encode(bytes.fromhex(held[name])).decode()
    body = ParseDict(encoded, ExportTraceServiceRequest()).SerializeToString()

    read = FORMATS["otlp"].parse_decoded(from_protobuf(body), Context())

    assert read == rows("otlp", document, Context())
    assert isinstance(read[0], Interaction)
    assert read[0].reported_cost_pusd == 300_000_000_000
    with pytest.raises(InputError, match=r"^document: is no export of traces in protobuf$"):
        from_protobuf(b"\xff\xff")


def test_the_buckets_of_langfuse_are_added_unless_its_total_says_otherwise() -> None:
    def used(**details: int) -> Interaction:
        held = {"id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-01-01T00:00:00Z"}
        return only("langfuse", held | {"usageDetails": details})

    beside = used(input=10, input_cache_read=90, input_cache_creation=5, output=20, output_reasoning=7, total=132)
    within = used(input=100, input_cache_read=90, output=27, total=127)
    named = used(**{"input": 100, "prompt_details.cache_read": 90, "output": 27, "total": 127})
    anthropic = used(input=10, cache_read_input_tokens=90, cache_creation_input_tokens=5, output=2)

    assert (beside.input_tokens, beside.output_tokens) == (105, 27)
    assert (beside.cached_input_tokens, beside.cache_write_tokens, beside.reasoning_tokens) == (90, 5, 7)
    assert (within.input_tokens, within.output_tokens, within.cached_input_tokens) == (100, 27, 90)
    assert named == within
    assert (anthropic.input_tokens, anthropic.output_tokens) == (105, 2)


def test_a_cost_of_nothing_known_is_unknown_at_langfuse() -> None:
    held = {"id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-01-01T00:00:00Z"}

    assert only("langfuse", held | {"totalCost": 0, "costDetails": {}}).reported_cost_pusd is None
    assert only("langfuse", held | {"costDetails": {"total": 0}}).reported_cost_pusd == 0
    assert only("langfuse", held | {"costDetails": {"input": 1e-6, "output": 2e-6}}).reported_cost_pusd == 3_000_000


def test_what_the_gateway_answered_from_its_cache_bought_nothing() -> None:
    row = {"request_id": "r", "call_type": "completion", "spend": 0, "startTime": "2026-01-01 00:00:00"}
    tokens = {"prompt_tokens": 90, "completion_tokens": 9, "total_tokens": 99, "cache_hit": "True"}

    read = only("litellm-spend", row | tokens)

    assert (read.input_tokens, read.output_tokens, read.reported_cost_pusd) == (0, 0, 0)
    assert read.tags == ("gateway_cache=hit",)


def test_a_failure_at_the_gateway_has_its_status_and_no_usage() -> None:
    payload = {
        "id": "x",
        "call_type": "acompletion",
        "response_cost": 0,
        "status": "failure",
        "startTime": 1767225600.25,
        "endTime": 1767225601.0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "error_information": {"error_code": "429", "error_class": "RateLimitError", "error_message": "a secret"},
    }

    read = only("litellm", payload)

    assert (read.status, read.error_type, read.latency_ms) == (429, "RateLimitError", 750.0)
    assert (read.input_tokens, read.output_tokens) == (None, None)
    assert "secret" not in read.model_dump_json()


@pytest.mark.parametrize(
    ("usd", "pico"),
    [
        (Decimal("0.00022500000000000002"), 225_000_000),
        (Decimal("0.000234449999"), 234_449_999),
        (Decimal("0.0000000000005"), 0),
        (Decimal("0.0000000000015"), 2),
        (Decimal("-1.5"), -1_500_000_000_000),
        ("12.34", 12_340_000_000_000),
        (None, None),
    ],
)
def test_money_is_exact_from_its_decimal_text(usd: object, pico: int | None) -> None:
    assert pusd(usd, "cost") == pico


def test_a_document_of_no_shape_or_of_two_is_not_guessed() -> None:
    shapes: list[object] = [{"resourceSpans": [], **CHAT}, {}, [CHAT], "x", {"response": {}}]
    assert [detect(json.dumps(shape).encode()) for shape in shapes] == [None] * 5
    assert detect(b"{") is None


@pytest.mark.parametrize("document", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000])
def test_what_is_no_json_is_said_so(document: bytes) -> None:
    for form in FORMATS.values():
        (reason,) = form.parse(document, CONTEXT)
        assert isinstance(reason, str)
        assert reason.startswith("document: ")


def test_people_can_choose_every_format_there_is() -> None:
    assert get_args(FormatName) == ("auto", *FORMATS)
