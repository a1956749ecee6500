from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks.evaluation.expectations import GATE_COLUMNS, validate
from tasks.evaluation.window import Window
from tasks.interactions.columns import SCHEMA

WINDOW = Window(start=datetime(2026, 1, 2, tzinfo=UTC), end=datetime(2026, 1, 3, tzinfo=UTC))
N = 200


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return a window in which everything holds, with what may be unknown unknown in places."""
    return pd.DataFrame(
        {
            "interaction_id": [f"i{at}" for at in range(N)],
            "application": "faq",
            "time_utc": pd.date_range(WINDOW.start, periods=N, freq="7min"),
            "status": 200,
            "latency_ms": [None, *np.linspace(0, 900, N - 1)],
            "input_tokens": [None, *[12.0] * (N - 1)],
            "output_tokens": 3,
            "cached_input_tokens": [5.0, None, *[12.0] * (N - 2)],
        }
    )


def test_a_sound_window_opens_the_gate(frame: pd.DataFrame) -> None:
    gate = validate(frame, WINDOW)
    assert (gate.success, gate.n, gate.failures) == (True, N, ())
    assert gate.expectations == 12


def test_an_empty_window_opens_the_gate(frame: pd.DataFrame) -> None:
    assert validate(frame[:0], WINDOW).success


@pytest.mark.parametrize(
    ("column", "value", "statement"),
    [
        ("interaction_id", "i1", "interaction_id must be unique: broken by 2 of 200 rows"),
        ("interaction_id", None, "interaction_id must be known: broken by 1 of 200 rows"),
        ("application", None, "application must be known: broken by 1 of 200 rows"),
        ("status", 0, "status must be from 100 to 599: broken by 1 of 200 rows"),
        ("latency_ms", -1.0, "latency_ms must be from 0 ms to a day: broken by 1 of 200 rows"),
        ("output_tokens", -1, "output_tokens must be 0 or more: broken by 1 of 200 rows"),
        ("cached_input_tokens", 13.0, "input_tokens must be at least cached_input_tokens: broken by 1 of 200 rows"),
        ("time_utc", WINDOW.end, f"time_utc must be in {WINDOW.label}: broken by 1 of 200 rows"),
        (
            "time_utc",
            WINDOW.start - timedelta(seconds=1),
            f"time_utc must be in {WINDOW.label}: broken by 1 of 200 rows",
        ),
    ],
)
def test_what_does_not_hold_is_said_with_its_count(
    frame: pd.DataFrame, column: str, value: object, statement: str
) -> None:
    frame.loc[7, column] = value
    gate = validate(frame, WINDOW)
    assert not gate.success
    assert gate.failures == (statement,)


def test_missing_columns_are_named(frame: pd.DataFrame) -> None:
    gate = validate(frame.drop(columns=["status", "time_utc"]), WINDOW)
    assert gate.failures == ("column time_utc is missing", "column status is missing")


def test_no_text_passes_the_gate() -> None:
    assert set(GATE_COLUMNS) <= set(SCHEMA.names)
    assert not [name for name in GATE_COLUMNS if name.endswith("_text")]


def test_nothing_is_sent_anywhere(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the gate opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert validate(frame, WINDOW).success
