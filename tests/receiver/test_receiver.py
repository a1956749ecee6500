from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette

from tasks.errors import InputError
from tasks.interactions.ingest import ingest_folder
from tasks.interactions.redaction import make_redactor
from tasks.receiver.__main__ import check_address, main
from tasks.receiver.app import Limits, create_app
from tasks.stores.lake import Lake
from tasks.tracking import Tracker
from tasks.tracking.records import Kept
from tasks.tracking.spool import Spool

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
DAY = (datetime(2024, 3, 5, tzinfo=UTC), datetime(2024, 3, 6, tzinfo=UTC))
TOKEN = "a-token-of-some-length"  # noqa: S105 - of this test
PROTOBUF = {"Content-Type": "application/x-protobuf"}
GZIP = PROTOBUF | {"Content-Encoding": "gzip"}
CLIENT = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
Serve = Callable[[Starlette], str]
LINES = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def url(logs: Path, serve: Serve) -> str:
    return serve(create_app(Spool(logs, "received", lambda: NOW), limits=Limits(body_bytes=200_000)))


def spans(numbers: range, service: str | None = "faq", **attributes: Any) -> ExportTraceServiceRequest:
    """Return an export as an SDK sends it."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    if service:
        group.resource.attributes.add(key="service.name").value.string_value = service
    scope = group.scope_spans.add()
    for number in numbers:
        span = scope.spans.add(name="chat gpt-4o", start_time_unix_nano=NOW_NS, end_time_unix_nano=NOW_NS + 10**9)
        span.trace_id, span.span_id = number.to_bytes(16), (number + 1).to_bytes(8)
        words = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": number}
        for name, value in (words | attributes).items():
            held = span.attributes.add(key=name).value
            if isinstance(value, int):
                held.int_value = value
            else:
                held.string_value = value
    return request


def post(url: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return CLIENT.post(f"{url}{path}", content=body, headers=headers)


def stored(tmp_path: Path) -> list[dict[str, Any]]:
    lake = Lake(tmp_path / "lake")
    ingest_folder(lake, tmp_path / "logs", NOW)
    columns = ["interaction_id", "source", "model", "input_tokens", "latency_ms", "output_text"]
    return list(lake.window("faq", *DAY, columns).to_pylist())


@pytest.mark.parametrize("packed", [False, True])
def test_an_export_in_protobuf_is_stored_once_however_often_it_is_sent(url: str, tmp_path: Path, packed: bool) -> None:
    body = spans(range(3)).SerializeToString()
    headers = PROTOBUF | ({"Content-Encoding": "gzip"} if packed else {})
    for _ in range(2):
        answer = post(url, "/v1/traces", gzip.compress(body, mtime=0) if packed else body, headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-protobuf")
        assert not ExportTraceServiceResponse.FromString(answer.content).HasField("partial_success")
    rows = stored(tmp_path)
    assert [row["interaction_id"] for row in rows] == [f"{number:032x}-{number + 1:016x}" for number in range(3)]
    assert [(row["source"], row["model"], row["input_tokens"], row["latency_ms"]) for row in rows] == [
        ("otlp", "gpt-4o", number, 1000.0) for number in range(3)
    ]


def test_an_export_in_json_gives_the_same_rows(url: str, tmp_path: Path) -> None:
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

    document = MessageToDict(spans(range(2)))
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        number = span["attributes"][2]["value"]["intValue"]
        span |= {"traceId": f"{int(number):032x}", "spanId": f"{int(number) + 1:016x}"}
    answer = post(url, "/v1/traces", json.dumps(document).encode(), {"Content-Type": "application/json; charset=utf-8"})
    assert (answer.status_code, answer.json()) == (200, {})
    assert post(url, "/v1/traces", spans(range(2)).SerializeToString(), PROTOBUF).status_code == 200
    assert [row["input_tokens"] for row in stored(tmp_path)] == [0, 1]
    assert post(url, "/v1/traces", b"{}", {"Content-Type": "application/json"}).json() == {}


def test_what_cannot_be_read_is_told_as_partial_success_without_content(url: str, logs: Path, tmp_path: Path) -> None:
    request = spans(range(2))
    request.MergeFrom(spans(range(10, 13), **{"gen_ai.usage.input_tokens": "the user's secret"}))
    request.MergeFrom(spans(range(20, 21), service=None))
    answer = ExportTraceServiceResponse.FromString(
        post(url, "/v1/traces", request.SerializeToString(), PROTOBUF).content
    )
    assert answer.partial_success.rejected_spans == 4
    assert answer.partial_success.error_message == (
        "gen_ai.usage.input_tokens: must be a whole number from 0 to 2**53 (3); "
        "application: the document does not name it; say which one it is (1)"
    )
    assert len(stored(tmp_path)) == 2
    assert Lake(tmp_path / "lake").rejected().num_rows == 4
    assert "secret" not in "".join(path.read_text() for path in logs.rglob("*.jsonl"))


def test_spans_that_call_no_model_are_no_mistake(url: str, logs: Path) -> None:
    request = spans(range(2), **{"gen_ai.operation.name": "execute_tool"})
    answer = post(url, "/v1/traces", request.SerializeToString(), PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")
    assert not list(logs.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "reason"),
    [
        ("/v1/traces", b"\xff\xff", PROTOBUF, 400, "document: is no export of traces in protobuf"),
        ("/v1/traces", b'{"a"', {"Content-Type": "application/json"}, 400, "document: is no JSON; it breaks at"),
        ("/v1/traces", b"[1]", {"Content-Type": "application/json"}, 400, "resourceSpans: is missing"),
        ("/v1/traces", b"[" * 90_000, {"Content-Type": "application/json"}, 400, "document: is no JSON"),
        ("/v1/traces", b"x", GZIP, 400, "the body does not unpack"),
        (
            "/v1/traces",
            gzip.compress(b"x", mtime=0)[:-9],
            GZIP,
            400,
            "it ends early",
        ),
        ("/v1/traces", b"x", PROTOBUF | {"Content-Encoding": "br"}, 415, "allowed: gzip, deflate, identity"),
        ("/v1/traces", b"x" * 200_001, PROTOBUF, 413, "the body is larger than 200000 bytes"),
        (
            "/v1/traces",
            gzip.compress(b"x" * 10**7, mtime=0),
            GZIP,
            413,
            "the body is larger",
        ),
        ("/v1/traces", b"x", {"Content-Type": "text/plain"}, 415, "allowed: application/x-protobuf, application/json"),
        ("/v1/interactions", b"[1", {"Content-Type": "application/json"}, 400, "the body is no JSON in UTF-8"),
        ("/v1/metrics", b"", PROTOBUF, 404, "Not Found"),
        ("/health", b"", PROTOBUF, 405, "Method Not Allowed"),
    ],
)
def test_what_is_refused_is_refused_with_its_status(
    url: str, path: str, body: bytes, headers: dict[str, str], *, status: int, reason: str
) -> None:
    answer = post(url, path, body, headers)
    assert answer.status_code == status
    if headers["Content-Type"] == "application/x-protobuf":
        assert answer.headers["content-type"] == "application/x-protobuf"
        assert answer.content[0] == 0x08  # a number, then a text of google.rpc.Status
        assert answer.content[2] == 0x12
        assert reason.encode() in answer.content
    else:
        assert reason in answer.json()["message"]


def test_calls_and_feedback_come_as_lines_or_as_an_array(url: str, tmp_path: Path) -> None:
    call = {"interaction_id": "i1", "application": "faq", "time": NOW.isoformat(), "status": 200}
    body = b"\n".join(
        [json.dumps(call).encode(), b"", b"the user's secret", json.dumps({**call, "status": 1}).encode()]
    )
    answer = post(url, "/v1/interactions", body, LINES).json()
    assert (answer["accepted"], answer["rejected"], [found["line"] for found in answer["reasons"]]) == (1, 2, [3, 4])
    assert answer["reasons"][1]["reason"] == "status: Input should be greater than or equal to 100"
    assert "secret" not in json.dumps(answer)
    second = [{**call, "interaction_id": "i2"}, {**call, "interaction_id": "i2"}]
    answer = post(url, "/v1/interactions", json.dumps(second).encode(), {"Content-Type": "application/json"}).json()
    assert answer == {"accepted": 2, "rejected": 0, "reasons": []}
    said = {"feedback_id": "f", "interaction_id": "i1", "application": "faq", "time": NOW.isoformat(), "value": 1.0}
    body = json.dumps({**said, "comment": "fine"}).encode()
    assert post(url, "/v1/feedback", body, {"Content-Type": "application/json"}).json()["accepted"] == 1
    assert post(url, "/v1/feedback", b'{"value": 1}', LINES).json()["reasons"] == [
        {"line": 1, "reason": "feedback_id: Field required"}
    ]
    assert [row["interaction_id"] for row in stored(tmp_path)] == ["i1", "i2"]
    lake = Lake(tmp_path / "lake")
    assert lake.feedback(*DAY, "faq")["comment"].to_pylist() == ["fine"]
    assert lake.rejected().num_rows == 3


def test_texts_are_kept_as_the_policy_says(logs: Path, serve: Serve) -> None:
    spool = Spool(logs, "received", lambda: NOW)
    url = serve(create_app(spool, kept=Kept("full", make_redactor()), application="faq"))
    told = {"gen_ai.completion": "write to ann@example.org"}
    assert post(url, "/v1/traces", spans(range(1), service=None, **told).SerializeToString(), PROTOBUF).is_success
    (path,) = logs.rglob("*.jsonl")
    line = json.loads(path.read_text())
    assert (line["output_text"], line["application"]) == ("write to [email]", "faq")


def test_a_token_is_asked_of_all_but_health(logs: Path, serve: Serve) -> None:
    url = serve(create_app(Spool(logs, "received", lambda: NOW), token=TOKEN))
    body = spans(range(1)).SerializeToString()
    assert CLIENT.get(f"{url}/health").json()["status"] == "ok"
    for shown in ({}, {"Authorization": "Bearer no"}, {"Authorization": TOKEN}):
        for path in ("/v1/traces", "/v1/interactions", "/v1/feedback"):
            answer = post(url, path, body, PROTOBUF | shown)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert not list(logs.rglob("*.jsonl"))
    assert post(url, "/v1/traces", body, PROTOBUF | {"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_without_a_token_only_loopback_names_are_answered(url: str) -> None:
    answer = post(url, "/v1/traces", b"", PROTOBUF | {"Host": "attacker.example"})
    assert answer.status_code == 400
    for name in ("localhost:4318", "127.0.0.1", "[::1]:4318"):
        assert post(url, "/v1/traces", b"", PROTOBUF | {"Host": name}).status_code == 200


def test_another_address_than_loopback_needs_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        check_address(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        check_address(host, TOKEN)
        with pytest.raises(InputError, match="is not on loopback: set DELIVERY_RECEIVER_TOKEN first"):
            check_address(host, None)
    monkeypatch.setenv("DELIVERY_RECEIVER_TOKEN", "short")
    assert main(["--host", "0.0.0.0"]) == 1
    assert capsys.readouterr().err == "error: DELIVERY_RECEIVER_TOKEN has 5 characters; give at least 16\n"


def test_a_full_disk_says_when_to_come_again(logs: Path, serve: Serve) -> None:
    limits = Limits(min_free_bytes=2**62)
    url = serve(create_app(Spool(logs, "received", lambda: NOW), limits=limits))
    answer = post(url, "/v1/traces", spans(range(1)).SerializeToString(), PROTOBUF)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert b"the disk of the interaction log is full" in answer.content


def test_only_what_is_on_the_disk_is_answered_with_200(
    logs: Path, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(create_app(Spool(logs, "received", lambda: NOW)))
    logs.touch()
    assert post(url, "/v1/traces", spans(range(1)).SerializeToString(), PROTOBUF).status_code == 503
    logs.unlink()
    logs.mkdir()
    (logs / "faq").touch()  # a file where the folder of the application should be
    both = spans(range(2))
    both.MergeFrom(spans(range(5, 6), service="other"))
    answer = post(url, "/v1/traces", both.SerializeToString(), PROTOBUF)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert caplog.messages == ["the interaction log cannot be written: Not a directory"]
    assert post(url, "/v1/traces", spans(range(1), service="other").SerializeToString(), PROTOBUF).status_code == 200
    (logs / "faq").unlink()
    assert post(url, "/v1/traces", both.SerializeToString(), PROTOBUF).status_code == 200
    assert [row["input_tokens"] for row in stored(tmp_path)] == [0, 1]


def test_too_much_at_once_says_when_to_come_again(logs: Path, serve: Serve) -> None:
    url = serve(create_app(Spool(logs, "received", lambda: NOW), limits=Limits(total_bytes=500)))
    for _ in range(6):  # what was taken is given back
        answer = post(url, "/v1/traces", spans(range(10)).SerializeToString(), PROTOBUF)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert post(url, "/v1/traces", spans(range(1)).SerializeToString(), PROTOBUF).status_code == 200
    packed = gzip.compress(b"x" * 600, mtime=0)
    assert post(url, "/v1/traces", packed, GZIP).status_code == 429


def test_many_clients_at_once_lose_and_double_nothing(url: str, tmp_path: Path) -> None:
    failed: list[int] = []

    def send(client: int) -> None:
        with httpx.Client(trust_env=False) as connection:
            for number in range(10):
                first = client * 1000 + number * 10
                body = spans(range(first, first + 10)).SerializeToString()
                answer = connection.post(f"{url}/v1/traces", content=body, headers=PROTOBUF)
                if answer.status_code != 200:
                    failed.append(answer.status_code)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    expected = {client * 1000 + number for client in range(8) for number in range(100)}
    assert sorted(row["input_tokens"] for row in stored(tmp_path)) == sorted(expected)
    assert sum(path.read_bytes().count(b"\n") for path in (tmp_path / "logs").rglob("*.jsonl")) == len(expected)


def start_receiver(state: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tasks.receiver", "--port", str(port)]
    environment = {**os.environ, "DELIVERY_STATE_DIR": str(state), "DELIVERY_RECEIVER_TOKEN": ""}
    with (state / "receiver.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        try:
            if CLIENT.get(f"{url}/health").is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.02)
    pytest.fail("the receiver did not start")


def send_until_taken(url: str, numbers: range, taken: list[int]) -> None:
    """Send batches as an exporter does: again and again until there is an answer."""
    for first in numbers:
        body = spans(range(first * 10, first * 10 + 10)).SerializeToString()
        while True:
            try:
                if post(url, "/v1/traces", body, PROTOBUF).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.01)
        taken.append(first)


def test_a_receiver_that_is_killed_loses_and_doubles_nothing(tmp_path: Path, unused_port: int) -> None:
    url, taken = f"http://127.0.0.1:{unused_port}", list[int]()
    process = start_receiver(tmp_path, unused_port)
    try:
        await_health(url, process)
        clients = [
            threading.Thread(target=send_until_taken, args=(url, range(first, first + 25), taken)) for first in (0, 100)
        ]
        with Tracker(
            tmp_path / "outbox", url=url, application="faq", flush_interval_s=0.01, clock=lambda: NOW
        ) as tracked:
            for client in clients:
                client.start()
            while len(taken) < 15:
                tracked.track_interaction(input_tokens=10**6 + len(taken), interaction_id=f"t{len(taken)}")
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = start_receiver(tmp_path, unused_port)
            for client in clients:
                client.join()
            await_health(url, process)
        assert (tmp_path / "receiver.log").read_text() == ""
    finally:
        process.terminate()
        process.wait()
    assert not list((tmp_path / "outbox").glob("*.interactions"))
    lake = Lake(tmp_path / "lake")
    counted = ingest_folder(lake, tmp_path / "interactions", NOW)
    assert counted.read == counted.stored + counted.duplicates + counted.rejected
    found = lake.window("faq", *DAY, ["input_tokens", "interaction_id"]).to_pylist()
    assert sorted(row["input_tokens"] for row in found if row["input_tokens"] < 10**6) == [
        *range(250),
        *range(1000, 1250),
    ]
    ids = [row["interaction_id"] for row in found if row["input_tokens"] >= 10**6]
    assert len(ids) == len(set(ids)) > 0
    assert counted.rejected <= 2


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
