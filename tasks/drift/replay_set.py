"""The replay set: fixed questions that are asked anew each night, so that one knows whose change a change is.

``evaluation.yaml`` names a JSONL file of the state folder, an item a line: ``id``, ``question``, and, as far as they
are known, ``context`` and ``answer`` (a stored answer, which only the judge can see differently). Every night the
release is asked directly, past the traffic plan; what is kept is scores, never an answer. Nights are held against the
first night with the same set and judge.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from tasks.drift.replay import Attribution, PairedChange, pair_scores, tell_apart
from tasks.errors import InputError
from tasks.evaluation.evidence import Estimate, Z
from tasks.release.model import Record
from tasks.scoring.quality import JUDGE_VERSION, score_quality
from tasks.traffic.driver import Answer

REPLAYS: Final = "replays"
MAX_ITEMS: Final = 2000
_OK: Final = 200
_UTC: Final = pa.timestamp("us", tz="UTC")
REPLAYS_SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("application", "release_digest", "window")),
        pa.field("window_end", _UTC, nullable=False),
        pa.field("judge_version", pa.string(), nullable=False),
        pa.field("set_digest", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
    ]
)
"""One row a night and release; ``content`` is the JSON of a ``ReplayNight``."""


class ReplaySpec(Record):
    """What is asked each night, and how much of it.

    Attributes:
        file: A JSONL file below the state folder.
        most: Items that are asked at most; the first ones of the file.
        timeout_s: How long an answer may take.
        total_s: No question is asked later than so many seconds after the first.
    """

    file: str = Field(min_length=1, max_length=200)
    most: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = 100
    timeout_s: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 30.0
    total_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 300.0

    @field_validator("file")
    @classmethod
    def _below(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("it must be a path below the state folder")
        return value


class ReplayItem(Record):
    """One fixed question."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,80}$")
    question: str = Field(min_length=1, max_length=20_000)
    context: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayNight:
    """What one night's replay came to.

    Attributes:
        anchors: Item to score of its stored answer.
        replays: Item to score of tonight's answer.
        live: Mean quality of live traffic, its standard error, and of how many answers; None where it is unknown.
        asked, failed: Items that were asked, and those without an answer.
    """

    anchors: dict[str, float]
    replays: dict[str, float]
    live: tuple[float, float, int] | None
    asked: int
    failed: int


def read_replay_set(folder: Path, spec: ReplaySpec) -> tuple[ReplayItem, ...]:
    """Read the first items of a replay set.

    Raises:
        InputError: The file cannot be read; the message names the line and repeats no text.
    """
    path = folder / spec.file
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"replay set {spec.file}: {type(error).__name__}; write a JSONL file there") from None
    items: list[ReplayItem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or len(items) == spec.most:
            continue
        try:
            items.append(ReplayItem.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "line"
            raise InputError(f"replay set {spec.file}, line {number}, {place}: {first['msg']}") from None
    if len({item.id for item in items}) < len(items) or not items:
        raise InputError.of(f"replay set {spec.file}", f"{len(items)} items", "one item or more, each with its own id")
    return tuple(items)


def set_digest(items: Sequence[ReplayItem]) -> str:
    """Return the SHA-256 of a set: nights of another set are not compared."""
    content = json.dumps([item.model_dump(mode="json") for item in items], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def ask_items(
    items: Sequence[ReplayItem], spec: ReplaySpec, ask: Callable[[str, float], Answer], clock: Callable[[], float]
) -> list[Answer | None]:
    """Ask every item once, one after the other; None where no time was left.

    Args:
        items: The set.
        spec: For how long.
        ask: Asks a question, with the seconds it may take.
        clock: Gives seconds.
    """
    until, answers = clock() + spec.total_s, list[Answer | None]()
    for item in items:
        left = until - clock()
        answers.append(ask(item.question, min(spec.timeout_s, left)) if left > 0 else None)
    return answers


def score_night(items: Sequence[ReplayItem], answers: Sequence[Answer | None], quality: Estimate | None) -> ReplayNight:
    """Return what a night came to: scores of stored and of fresh answers, and of live traffic.

    Args:
        items: The set.
        answers: An answer each, None where it was not asked.
        quality: Of tonight's live answers.
    """
    good = [answer if answer is not None and answer.status == _OK else None for answer in answers]
    contexts = [item.context or (answer.context if answer else None) for item, answer in zip(items, good, strict=True)]
    live = None
    if quality is not None and math.isfinite(quality.low):
        live = (quality.value, (quality.value - quality.low) / Z, quality.n)
    return ReplayNight(
        anchors=_scores(items, [item.answer for item in items], contexts),
        replays=_scores(items, [answer.text if answer else None for answer in good], contexts),
        live=live,
        asked=sum(answer is not None for answer in answers),
        failed=sum(answer is not None and fine is None for answer, fine in zip(answers, good, strict=True)),
    )


def first_night(rows: pa.Table | None, digest: str, before: pa.Scalar) -> ReplayNight | None:
    """Return the first night of the same set and judge that ended before a moment, None without any."""
    if rows is None:
        return None
    same = rows.filter((pc.field("set_digest") == digest) & (pc.field("judge_version") == JUDGE_VERSION))
    same = same.filter(pc.less(same["window_end"], before)).sort_by("window_end")
    return TypeAdapter(ReplayNight).validate_json(same["content"][0].as_py()) if same.num_rows else None


def stored_night(rows: pa.Table | None, digest: str, window: str) -> ReplayNight | None:
    """Return what was kept of a window with the same set and judge, None where nothing was."""
    if rows is None:
        return None
    same = rows.filter((pc.field("set_digest") == digest) & (pc.field("judge_version") == JUDGE_VERSION))
    same = same.filter(pc.field("window") == window)
    return TypeAdapter(ReplayNight).validate_json(same["content"][0].as_py()) if same.num_rows else None


def replay_row(keys: Mapping[str, str], window_end: datetime, digest: str, night: ReplayNight) -> pa.Table:
    """Return a night as a row of ``REPLAYS_SCHEMA``; ``keys`` are application, release and window."""
    row = {**keys, "window_end": window_end, "judge_version": JUDGE_VERSION, "set_digest": digest}
    content = {"content": TypeAdapter(ReplayNight).dump_json(night).decode()}
    return pa.Table.from_pylist([row | content], schema=REPLAYS_SCHEMA)


def attribute(before: ReplayNight, now: ReplayNight) -> Attribution:
    """Say whose change there was between two nights."""
    live = None
    if before.live is not None and now.live is not None:
        error = math.hypot(before.live[1], now.live[1])
        live = PairedChange(mean=now.live[0] - before.live[0], error=error, n=min(before.live[2], now.live[2]))
    return tell_apart(_paired(before.anchors, now.anchors), _paired(before.replays, now.replays), live)


def describe_replay(night: ReplayNight, found: Attribution | None) -> tuple[str, ...]:
    """Return what a replay came to, in sentences.

    Args:
        night: Tonight.
        found: Whose change there was; None on the first night of a set.
    """
    head = f"Replay set: {night.asked} asked, {night.failed} without an answer"
    if found is None:
        return (f"{head}; the first night of this set, which later ones are held against.",)
    return (f"{head}; quality {found.words}.", *(f"Replay: {effect.statement}" for effect in found.effects))


def _paired(before: dict[str, float], now: dict[str, float]) -> PairedChange | None:
    known = {item: score for item, score in now.items() if item in before}
    return pair_scores(before, known) if known else None


def _scores(
    items: Sequence[ReplayItem], answers: Sequence[str | None], contexts: Sequence[str | None]
) -> dict[str, float]:
    scores = score_quality([item.question for item in items], answers, contexts)
    return {
        item.id: float(score)
        for item, answer, score in zip(items, answers, scores, strict=True)
        if answer is not None and not np.isnan(score)
    }
