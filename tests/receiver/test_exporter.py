"""The exporter of the OpenTelemetry SDK itself, as an application uses it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tasks.interactions.ingest import ingest_folder
from tasks.receiver.app import create_app
from tasks.stores.lake import Lake
from tasks.tracking.spool import Spool

TOKEN = "a-token-of-some-length"  # noqa: S105 - of this test
sdk = pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    reason="the SDK's exporter is not installed: opentelemetry-exporter-otlp-proto-http",
)


@pytest.mark.parametrize("compression", ["Gzip", "NoCompression"])
def test_the_exporter_of_the_sdk_is_understood(
    tmp_path: Path, serve: Callable[..., str], caplog: pytest.LogCaptureFixture, compression: str
) -> None:
    logs = tmp_path / "logs"
    url = serve(create_app(Spool(logs, "received", lambda: datetime.now(UTC)), token=TOKEN))
    exporter = sdk.OTLPSpanExporter(
        f"{url}/v1/traces",
        headers={"Authorization": f"Bearer {TOKEN}"},
        compression=getattr(sdk.Compression, compression),
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "faq"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with caplog.at_level(logging.WARNING):
        with tracer.start_as_current_span("agent"):
            for number in range(1000):
                with tracer.start_as_current_span("chat gpt-4o") as span:
                    span.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"})
                    span.set_attribute("gen_ai.usage.input_tokens", "broken" if number == 7 else number)
        provider.shutdown()
    lake = Lake(tmp_path / "lake")
    counted = ingest_folder(lake, logs, datetime.now(UTC))
    assert (counted.read, counted.stored, counted.rejected) == (1000, 999, 1)
    day = datetime.now(UTC)
    rows = lake.window("faq", day - timedelta(days=2), day + timedelta(days=1), ["input_tokens", "model"]).to_pylist()
    assert sorted(row["input_tokens"] for row in rows) == [number for number in range(1000) if number != 7]
    assert "Failed to export" not in caplog.text
