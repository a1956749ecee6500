from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from tasks.evaluation.evidence import SCORE_COLUMNS, Measured, gather, measure_shard
from tasks.interactions.columns import SCHEMA

CONTEXT = "The Oberoi Group is a hotel company with its head office in Delhi."
QUESTION = "In what city does the Oberoi Group have its head office?"


def calls(*answers: tuple[int, str | None]) -> pa.Table:
    rows = [
        {
            "interaction_id": f"i{at}",
            "status": status,
            "latency_ms": 100.0 if status == 200 else 0.0,
            "input_text": QUESTION,
            "context_text": CONTEXT,
            "output_text": answer,
        }
        for at, (status, answer) in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in SCORE_COLUMNS]))


def measure(interactions: pa.Table) -> Measured:
    return gather([measure_shard(interactions)])


def test_each_monitor_counts_what_it_can_count() -> None:
    found = measure(
        calls((200, "Delhi"), (200, "Mumbai"), (200, "you stupid idiot"), (200, "yes"), (200, None), (429, ""))
    )
    evidence = found.evidence
    assert found.interaction_ids.to_pylist() == ["i0", "i1", "i2", "i3", "i4"]
    assert np.isnan(found.quality).tolist() == [False, False, False, True, True]
    assert np.isnan(found.toxicity).tolist() == [False, False, False, False, True]
    assert evidence.answers == 5
    assert evidence.errors is not None
    assert evidence.latency_ms is not None
    assert evidence.quality is not None
    assert evidence.toxicity is not None
    assert (evidence.errors.value, evidence.errors.n) == (1 / 6, 6)
    assert (evidence.latency_ms.value, evidence.latency_ms.n) == (100.0, 5)
    assert (evidence.quality.value, evidence.quality.n) == (1 / 3, 3)
    assert (evidence.toxicity.value, evidence.toxicity.n) == (1 / 4, 4)
    assert evidence.summary.n == 6


def test_a_client_with_broken_requests_counts_nowhere() -> None:
    good = [(200, "Delhi")] * 70
    found = measure(calls(*good, *[(400, None)] * 30))
    alone = measure(calls(*good))
    assert found.evidence == replace(alone.evidence, caller_errors=30)
    assert found.evidence.errors is not None
    assert (found.evidence.errors.value, found.evidence.errors.n) == (0.0, 70)
    assert found.interaction_ids.to_pylist() == alone.interaction_ids.to_pylist()


def test_a_window_of_broken_requests_has_no_evidence() -> None:
    evidence = measure(calls((400, None), (499, None))).evidence
    assert evidence == replace(measure(calls()).evidence, caller_errors=2)


def test_a_window_without_calls_has_no_evidence() -> None:
    evidence = measure(calls()).evidence
    assert (evidence.errors, evidence.latency_ms, evidence.quality, evidence.toxicity) == (None, None, None, None)
    assert evidence.summary.n == 0
