from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tasks.errors import InputError, NotFoundError
from tasks.interactions.schema import Interaction
from tasks.interactions.sources import FORMATS, Context, detect
from tasks.stores.models import connect
from tasks.stores.traces import Traces

pytestmark = pytest.mark.stack

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def experiment(mlflow_url: str) -> Iterator[str]:
    """Five traces a minute apart, each an agent that calls a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow warns about its own type hints while it is imported
        import mlflow.pyfunc
    name = f"traced-{uuid4().hex[:8]}"
    client = connect(mlflow_url)
    experiment_id = client.create_experiment(name)
    for number in range(5):
        begun = int((DAY + timedelta(minutes=number)).timestamp() * 1e9)
        root = client.start_trace(
            "agent",
            span_type="AGENT",
            experiment_id=experiment_id,
            start_time_ns=begun,
            tags={"team": "blue"},
        )
        call = client.start_span(
            "chat", root.trace_id, root.span_id, span_type="CHAT_MODEL", start_time_ns=begun + 1_000_000
        )
        usage = {"input_tokens": 100 + number, "output_tokens": 7, "total_tokens": 107 + number}
        client.end_span(
            root.trace_id,
            call.span_id,
            outputs={"id": f"chatcmpl-{number}", "model": "gpt-4o-2024-08-06", "choices": [{"finish_reason": "stop"}]},
            attributes={
                "mlflow.chat.tokenUsage": usage | {"cache_read_input_tokens": 10},
                "mlflow.llm.model": "gpt-4o",
                "mlflow.llm.provider": "openai",
                "mlflow.llm.cost": {"total_cost": 0.0003},
            },
            end_time_ns=begun + 251_000_000,
        )
        client.end_trace(root.trace_id, end_time_ns=begun + 300_000_000)
    mlflow.flush_trace_async_logging()
    yield name
    client.delete_experiment(experiment_id)


def test_a_window_is_read_page_by_page_into_interactions(mlflow_url: str, experiment: str) -> None:
    documents = list(Traces(mlflow_url).documents(experiment, DAY, DAY + timedelta(minutes=4), page=3))

    assert len({trace_id for trace_id, _ in documents}) == 4
    assert {detect(document) for _, document in documents} == {"mlflow"}
    rows = [row for _, document in documents for row in FORMATS["mlflow"].parse(document, Context(application="bot"))]
    calls = [row for row in rows if isinstance(row, Interaction)]
    assert calls == rows
    assert [call.input_tokens for call in calls] == [100, 101, 102, 103]
    first = calls[0]
    assert first.interaction_id.startswith(f"{documents[0][0]}-")
    assert (first.time, first.latency_ms) == (DAY + timedelta(milliseconds=1), 250.0)
    assert (first.provider, first.model, first.request_model) == ("openai", "gpt-4o-2024-08-06", "gpt-4o")
    assert (first.output_tokens, first.cached_input_tokens, first.reported_cost_pusd) == (7, 10, 300_000_000)
    assert (first.finish_reason, first.status, first.tags) == ("stop", 200, ("team=blue",))


def test_a_window_is_half_open(mlflow_url: str, experiment: str) -> None:
    traces = Traces(mlflow_url)

    def count(start: int, end: int) -> int:
        return len(list(traces.documents(experiment, DAY + timedelta(minutes=start), DAY + timedelta(minutes=end))))

    assert (count(0, 2), count(2, 5), count(5, 9)) == (2, 3, 0)


def test_what_cannot_be_asked_is_said(mlflow_url: str) -> None:
    with pytest.raises(NotFoundError, match="no experiment 'nothing'"):
        next(Traces(mlflow_url).documents("nothing", DAY, DAY))
    with pytest.raises(InputError, match=r"window\.start: .* allowed: a time with a zone"):
        next(Traces(mlflow_url).documents("nothing", DAY.replace(tzinfo=None), DAY))
