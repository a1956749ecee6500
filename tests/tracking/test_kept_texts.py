"""What may not be kept in the lake is not on the disk before it either, where the settings say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.interactions.content import POLICIES
from tasks.interactions.redaction import make_redactor
from tasks.receiver.__main__ import _parser
from tasks.settings import Settings, settings
from tasks.tracking.breaches import QUIET
from tasks.tracking.records import Kept, Refused, as_line, interaction_of

SAID = "Write to ann@example.org please."


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DELIVERY_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(tracking, "_tracker", None)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.mark.parametrize(
    ("variables", "options", "kept"),
    [
        ({}, {}, SAID),
        ({"DELIVERY_CONTENT": "hash"}, {}, None),
        ({"DELIVERY_CONTENT": "off"}, {}, None),
        ({"DELIVERY_REDACT": "true"}, {}, "Write to [email] please."),
        ({"DELIVERY_CONTENT": "hash"}, {"content": "full"}, SAID),
        ({"DELIVERY_REDACT": "true"}, {"redact": None}, SAID),
    ],
)
def test_the_tracker_of_the_module_keeps_what_the_settings_allow(
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: dict[str, Any],
    kept: str | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracker = tracking.configure(application="faq", **options)
    tracking.track_interaction(input_text=SAID)
    tracker.close()
    (path,) = state.rglob("*.jsonl")
    line = json.loads(path.read_text())
    assert line.get("input_text") == kept
    assert ("input_sha256" in line) is (variables.get("DELIVERY_CONTENT") == "hash" and kept is None)


@pytest.mark.usefixtures("state")
def test_the_receiver_keeps_what_the_settings_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _parser().parse_args([])
    assert (plain.content, plain.redact) == ("full", False)
    monkeypatch.setenv("DELIVERY_CONTENT", "hash")
    monkeypatch.setenv("DELIVERY_REDACT", "true")
    settings.cache_clear()
    asked = _parser().parse_args([])
    assert (asked.content, asked.redact) == ("hash", True)
    told = _parser().parse_args(["--content", "off", "--no-redact"])
    assert (told.content, told.redact) == ("off", False)


def test_the_step_of_the_alerts_finds_what_a_tracker_saw(tmp_path: Path) -> None:
    from tasks.monitors import steps

    where = Settings(state_dir=tmp_path)
    limits = tracking.Monitors(max_latency_ms=10)
    with tracking.Tracker(where.log_dir, application="faq", monitors=limits) as tracker:
        tracker.track_interaction(latency_ms=11)
    (signal,) = steps.find_call_signals.fn(where)
    assert (signal.application, signal.release_digest, signal.monitor) == ("faq", "", "call:latency")
    assert signal.reason == f"latency 11 ms > limit 10 ms (1 calls in {QUIET.total_seconds() / 3600:g} h)"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_refused_line_holds_no_address_and_no_key_whatever_is_kept(policy: str) -> None:
    personal = {"user": "ann@example.org", "session": "ann@example.org", "tags": ["to=ann@example.org"]}
    said = {"route": "/reset?token=sk-abcdefgh12345678901234", "error_type": "key sk-abcdefgh12345678901234"}
    named = {"interaction_id": "a1", "application": "faq", "model": "gpt-4o", "input_tokens": 7, "input_text": SAID}
    call = interaction_of({**personal, **said, **named, "latency_ms": -5.0}, datetime(2026, 1, 5, tzinfo=UTC))
    assert isinstance(call, Refused)
    line = as_line(call, Kept.of(policy, make_redactor()))
    assert b"example.org" not in line.content
    assert b"abcdefgh1234" not in line.content
    found = json.loads(line.content)
    assert found["rejected_because"] == "latency_ms: Input should be greater than or equal to 0"
    kept = ("interaction_id", "application", "time", "status", "model", "input_tokens")
    assert [found[name] for name in kept] == ["a1", "faq", "2026-01-05T00:00:00+00:00", 500, "gpt-4o", 7]
    assert policy == "full" or set(found) == {"rejected_because", *kept}
    assert policy != "full" or found["input_text"] == "Write to [email] please."
