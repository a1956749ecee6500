"""A whole file read the fast way is the table that the exact way makes of it."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.interactions import lines, reading
from tasks.interactions.fast import FastReader
from tasks.interactions.ingest import Job, ingest_file
from tasks.interactions.recipes import Recipe
from tasks.stores.lake import Lake

START, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 31, tzinfo=UTC)
WORDS = ('say "hi"', "line\nbreak", "tab\t\\", "é€😀", "5", "null", '{"a": 1}', "", "plain words of an answer")
BROKEN = (b"{", b"", b"  \r", b"\xff\xfe", b'{"id": "x"}', b"[1]", b'"text"', b"\x00", b'{"id": "a", "id": "b"}')


def call(number: int, draw: random.Random) -> dict[str, Any]:
    """Return an answer of OpenAI's chat, of one of several shapes."""
    message: dict[str, Any] = {"role": "assistant", "content": draw.choice(WORDS) * draw.randrange(4), "refusal": None}
    usage: dict[str, Any] = {"prompt_tokens": draw.randrange(4000), "completion_tokens": draw.randrange(900)}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    made: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1709251200 + draw.randrange(20 * 86400),
        "model": draw.choice(("gpt-4o-2024-08-06", "gpt-4o-mini", "o1")),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage,
        "service_tier": draw.choice(("default", "default", "auto", "flex", None)),
        "system_fingerprint": draw.choice(("fp_1", "fp_22", None)),
    }
    kind = draw.randrange(12)
    if kind == 0:
        usage["prompt_tokens_details"] = {"cached_tokens": usage["prompt_tokens"] // 2, "audio_tokens": 0}
    elif kind == 1:
        message |= {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]}
        made["choices"][0]["finish_reason"] = "tool_calls"
    elif kind == 2:
        usage["prompt_tokens"] = draw.choice((-1, 1.0, "7", None, 2**53, 2**60, True))
    elif kind == 3:
        made["choices"][0]["finish_reason"] = draw.choice((None, "length", "a new one", 5))
    return made


def content(count: int) -> bytes:
    """Return lines, good and bad, written in several ways, some of them twice."""
    draw = random.Random(7)
    made = []
    for number in range(count):
        answer = call(number, draw)
        line = json.dumps(answer, ensure_ascii=draw.random() < 0.5).encode()
        if draw.random() < 0.2:
            line = json.dumps(answer, separators=(",", ":")).encode() + b"\r"
        made.append(draw.choice(BROKEN) if draw.random() < 0.05 else line)
        if draw.random() < 0.03:
            made.append(line)
    draw.shuffle(made)
    return b"".join(line + b"\n" for line in made) + b'{"id": "without an end'


def take_in(folder: Path, path: Path) -> tuple[tuple[int, int, int, int], pa.Table, pa.Table]:
    """Return the counts, the whole table and the rejected lines."""
    lake = Lake(folder)
    done = ingest_file(lake, path, END, job=Job(recipe=Recipe("openai", "support"), final=True))
    with lake.query(datetime(2000, 1, 1, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC)) as connection:
        rows = connection.sql("FROM interactions ORDER BY ALL").to_arrow_table()
    return (done.read, done.stored, done.duplicates, done.rejected), rows, lake.rejected().drop_columns(["seen_utc"])


def test_a_shuffled_mixed_file_gives_the_same_table_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(content(1000))
    monkeypatch.setattr(reading, "BLOCK_BYTES", 2**16)
    monkeypatch.setattr(reading, "BATCH_BYTES", 2**18)
    proved: list[int] = []
    read = FastReader.read

    def counted(reader: FastReader, held: pa.Array, application: str | None) -> tuple[pa.Table, Any]:
        rows, marks = read(reader, held, application)
        proved.append(int(marks.sum()))
        return rows, marks

    monkeypatch.setattr(FastReader, "read", counted)
    fast = take_in(tmp_path / "fast", path)
    monkeypatch.setattr(lines, "SHAPES", {})
    exact = take_in(tmp_path / "exact", path)
    assert fast[0] == exact[0]
    assert fast[0][0] == sum(fast[0][1:])
    assert fast[1].equals(exact[1]), [name for name in fast[1].column_names if not fast[1][name].equals(exact[1][name])]
    assert fast[2].equals(exact[2])
    assert len(proved) > 5
    assert sum(proved) > 0.7 * fast[0][0]
    assert fast[0][2] > 10
    assert fast[0][3] > 30
