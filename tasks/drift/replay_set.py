"""The replay set: fixed questions that are asked anew each night, so that one knows whose change a change is.

``evaluation.yaml`` names a JSONL file of the state folder, an item a line: ``id``, ``question``, and, as far as they
are known, ``context`` and ``answer`` (a stored answer, which only the judge can see differently). Every night the
release is asked; what is kept is scores, never an answer (``replay_scores.py``). Nights are held against the first
night with the same set and judge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, field_validator

from tasks.errors import InputError
from tasks.release.model import Record
from tasks.traffic.driver import Answer
from tasks.traffic.plan import Plan

MAX_ITEMS: Final = 2000
_UNITS: Final = 20_000
"""Users that are tried for one of a release's; 1 bucket of 1,000 is missed once in 10**8."""


class ReplaySpec(Record):
    """What is asked each night, and how much of it.

    Attributes:
        file: A JSONL file below the state folder.
        most: Items that are asked at most; the first ones of the file.
        timeout_s: How long an answer may take.
        total_s: No question is asked later than so many seconds after the first.
        via: Whom a question is put to: the release itself, past the traffic plan, or the data path, as a user who has
            this release. A release that no user has is asked itself.
        scores: Who scores beside the built-in quality: ``all`` judges and scorers of the application, or those named,
            as ``judge:NAME`` and ``scorer:NAME``. Judges are paid from their budget of the window.
        least: The smallest change of a score that matters, in its unit.
    """

    file: str = Field(min_length=1, max_length=200)
    most: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = 100
    timeout_s: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 30.0
    total_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 300.0
    via: Literal["release", "data_path"] = "release"
    scores: Literal["all"] | tuple[str, ...] = "all"
    least: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.02

    @field_validator("file")
    @classmethod
    def _below(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("it must be a path below the state folder")
        return value

    def is_scored_by(self, name: str) -> bool:
        """Return whether a judge or scorer, as ``judge:NAME`` or ``scorer:NAME``, scores the set."""
        return self.scores == "all" or name in self.scores


class ReplayItem(Record):
    """One fixed question."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,80}$")
    question: str = Field(min_length=1, max_length=20_000)
    context: str | None = None
    answer: str | None = None


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
    items: Sequence[ReplayItem],
    spec: ReplaySpec,
    ask: Callable[[ReplayItem, float], Answer],
    clock: Callable[[], float],
) -> list[Answer | None]:
    """Ask every item once, one after the other; None where no time was left.

    Args:
        items: The set.
        spec: For how long.
        ask: Asks the question of an item, with the seconds it may take.
        clock: Gives seconds.
    """
    until, answers = clock() + spec.total_s, list[Answer | None]()
    for item in items:
        left = until - clock()
        answers.append(ask(item, min(spec.timeout_s, left)) if left > 0 else None)
    return answers


def find_unit(plan: Plan, digest: str, name: str) -> str | None:
    """Return a user whom a plan gives a release; None where hardly anybody has it.

    Args:
        plan: The traffic plan.
        digest: The release.
        name: Another name gives another user, so that all replicas are asked; the same gives the same.
    """
    if digest not in plan.buckets:
        return None
    tried = (f"replay-{name}-{number}" for number in range(_UNITS))
    return next((unit for unit in tried if plan.release_of(unit) == digest), None)
