"""Nights of thousands of calls with real questions and answers, made column by column, and changes put into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flow_stage import START

from tasks.interactions.columns import SCHEMA, SCHEMA_VERSION
from tasks.interactions.schema import rejected_table
from tasks.release.model import Release
from tasks.settings import Settings
from tasks.stores.lake import Lake

ANSWERS = "grounded/truthfulqa_closedbook.parquet"
VERBS = re.compile(r"\b(is|are|was|were|has|have|can|do|does|did|will|would|may|should|could|must)\b")
LANGUAGES, ROUTES = ("en", "de", "fr"), ("chat", "search", "mail")
Text = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What a night is like.

    Attributes:
        day: Its first moment, UTC.
        calls: How many.
        users: Of how many users.
        says: What becomes of an answer in a language; None keeps no text.
        slower: How many times as long calls of a route take.
        source: Draws everything.
    """

    day: datetime
    calls: int
    users: int
    says: Callable[[str, str], str] | None = lambda answer, _: answer
    slower: Mapping[str, float] = field(default_factory=dict)
    source: np.random.Generator


def real_texts(data_file: Callable[[str], Path]) -> list[Text]:
    """Return real questions and answers, those that can be negated."""
    rows = pq.read_table(data_file(ANSWERS), columns=["question", "answer"]).to_pylist()
    return [(row["question"], row["answer"]) for row in rows if VERBS.search(row["answer"])]


def negated(answer: str, _: str = "") -> str:
    """Return an answer that says it is not so."""
    return VERBS.sub(r"\1 not", answer, count=1)


def log_night(config: Settings, release: Release, night: Night, texts: Sequence[Text]) -> None:
    """Put a night's calls into the lake."""
    table = calls_of(release, night, texts)
    name = f"{release.short}-{night.day:%Y%m%d}"
    Lake(config.lake_dir).append(
        name, expected=0, offset=1, interactions=table, rejected=rejected_table("none", [], START)
    )


def calls_of(release: Release, night: Night, texts: Sequence[Text]) -> pa.Table:
    """Return a night's calls: a user stays in one language, every 25th user in each of the two rare ones."""
    source, n = night.source, night.calls
    users = source.integers(0, night.users, n)
    asked = [texts[at] for at in source.integers(0, len(texts), n)]
    language = [LANGUAGES[user % 25] if user % 25 in {1, 2} else "en" for user in users.tolist()]
    route = [ROUTES[at] for at in source.choice(3, n, p=[0.76, 0.2, 0.04])]
    slower = np.array([night.slower.get(name, 1.0) for name in route])
    level = float(np.exp(source.normal(0, 0.005)))
    columns: dict[str, Any] = {
        "interaction_id": [f"{release.short}-{night.day:%m%d}-{at}" for at in range(n)],
        "time_utc": night.day.timestamp() * 1e6 + source.integers(0, 86_400_000_000, n),
        "unit": [f"u{user}" for user in users],
        "model": ["bot"] * n,
        "input_tokens": source.poisson(40, n),
        "output_tokens": source.poisson(60, n),
        "latency_ms": source.lognormal(5, 0.3, n) * slower * level,
        "route": route,
        "language": language,
        "tags": [["team=one"] if user % 2 else [] for user in users.tolist()],
    }
    if night.says is not None:
        columns["input_text"] = [question for question, _ in asked]
        columns["context_text"] = [answer for _, answer in asked]
        columns["output_text"] = [night.says(answer, of) for (_, answer), of in zip(asked, language, strict=True)]
    same = {"application": release.application, "release_digest": release.digest, "unit_kind": "user", "status": 200}
    same |= {"finish_reason": "stop", "date_utc": night.day.date(), "schema_version": SCHEMA_VERSION}
    return pa.Table.from_arrays([_column(item, columns, same, n) for item in SCHEMA], schema=SCHEMA)


def _column(item: pa.Field[Any], columns: Mapping[str, Any], same: Mapping[str, Any], n: int) -> pa.Array[Any]:
    if item.name == "time_utc":
        return pa.array(columns[item.name].astype(np.int64)).cast(item.type)
    return pa.array(columns.get(item.name, [same.get(item.name)] * n), item.type)
