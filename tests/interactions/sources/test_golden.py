"""Every format, against what its documents must become."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.interactions.schema import Interaction
from tasks.interactions.sources import FORMATS, Context, detect, split

FIXTURES = Path(__file__).parents[1] / "formats"
SHARED = Path(__file__).parents[4] / "shared" / "data"
GOLDEN: dict[str, Any] = json.loads((FIXTURES / "golden.json").read_text(encoding="utf-8"))
CONTEXT = Context(application="bot", received=datetime(2026, 1, 1, tzinfo=UTC))
UNDETECTED = {"openai.jsonl": [3], "anthropic.jsonl": [3]}
"""A refusal in an envelope may be anybody's: the format has to be said."""


def as_shown(row: Interaction | str, source: str) -> Any:
    if isinstance(row, str):
        return row
    shown = json.loads(row.model_dump_json(exclude_none=True))
    assert shown.pop("source", "native") == source
    if re.fullmatch("[0-9a-f]{64}", shown["interaction_id"]):
        shown["interaction_id"] = "<digest>"
    return shown


@pytest.mark.parametrize("name", GOLDEN)
def test_a_document_becomes_exactly_these_rows(name: str) -> None:
    source, expected = GOLDEN[name]

    rows = [row for _, document in split(FIXTURES / name) for row in FORMATS[source].parse(document, CONTEXT)]

    wanted = [row if isinstance(row, str) else {"application": "bot"} | row for row in expected]
    assert [as_shown(row, source) for row in rows] == wanted


@pytest.mark.parametrize("name", GOLDEN)
def test_a_document_is_known_by_its_shape(name: str) -> None:
    found = {number: detect(document) for number, document in split(FIXTURES / name)}

    unknown = UNDETECTED.get(name, [])
    # A tool's span has no shape that only one format has but the prefix of its attributes.
    assert found == {number: None if number in unknown else GOLDEN[name][0] for number in found}


def test_every_format_has_a_golden_document() -> None:
    assert set(FORMATS) - {source for source, _ in GOLDEN.values()} == {"mapped"}


def test_the_session_of_77_spans_comes_out_as_its_truth() -> None:
    place = SHARED / "formats" / "otlp_genai_exgentic_session.json"
    if not place.exists():
        pytest.skip(f"no shared data at {SHARED}")
    truth = json.loads((SHARED / "truth" / "otlp_genai_exgentic_session.json").read_text(encoding="utf-8"))

    rows = [row for row in FORMATS["otlp"].parse(place.read_bytes(), Context()) if isinstance(row, Interaction)]

    assert truth == {
        "spans": len(rows),
        "input_tokens": sum(row.input_tokens or 0 for row in rows),
        "output_tokens": sum(row.output_tokens or 0 for row in rows),
        "days": sorted({row.time.date().isoformat() for row in rows}),
    }


@pytest.mark.parametrize(
    ("name", "calls", "tokens"),
    [
        ("agno-2025-06-11", 2, (826, 245)),
        ("google-adk-2025-08-28", 2, (67, 9)),
        ("google-gemini-2025-08-01", 1, (6, 2055)),
        ("koog-2025-08-26", 2, (215, 125)),
        ("langgraph-2025-08-22", 2, (168, 66)),
        ("microsoft-agent-2025-10-14", 2, (656, 105)),
        ("openai-agents-2025-09-30", 2, (140, 44)),
        ("pydantic-ai-tools-2025-12-04", 4, (1315, 209)),
    ],
)
def test_the_traces_of_langfuse_count_each_call_once(name: str, calls: int, tokens: tuple[int, int]) -> None:
    place = SHARED / "formats" / "langfuse" / f"{name}.json"
    if not place.exists():
        pytest.skip(f"no shared data at {SHARED}")

    rows = FORMATS["langfuse"].parse(place.read_bytes(), CONTEXT)

    assert all(isinstance(row, Interaction) for row in rows)
    read = [row for row in rows if isinstance(row, Interaction)]
    assert len(read) == calls
    assert (sum(row.input_tokens or 0 for row in read), sum(row.output_tokens or 0 for row in read)) == tokens
