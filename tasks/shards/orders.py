"""What one shard of an evaluation or an ingestion is asked to do, as a file that any worker can read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, JsonValue, TypeAdapter, ValidationError

from tasks.errors import InputError
from tasks.evaluation.window import Window
from tasks.interactions.gate import GatePolicy
from tasks.interactions.lines import Policy
from tasks.interactions.sources.mapping import Mapping as Columns
from tasks.release.model import Name, Record, Release
from tasks.scoring.extra import EvaluationSpec

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FORMAT: Final = "response_format"
"""The parameter that says what answers are."""


class Declared(Record):
    """A release, and what it declares of its answers.

    Attributes:
        digest: Of the release.
        prompt: The text of its prompt, which no answer should repeat.
        parameters: Those that say what its answers are.
        answered: Its answered calls in the whole window; samples are shared out among slices by it.
    """

    digest: Digest
    prompt: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    answered: int = Field(ge=0)

    @classmethod
    def of(cls, release: Release, answered: int) -> Declared:
        """Return what a release declares, with its answered calls in the window."""
        told = {name: value for name, value in release.spec.parameters.items() if name == FORMAT}
        return cls(digest=release.digest, prompt=release.prompt.text, parameters=told, answered=answered)


class ScoringOrder(Record):
    """Score the answers of some releases in a slice of a window, and look at their texts: each is read once.

    Attributes:
        application: What users call.
        start, end: The half-open slice, UTC.
        releases: The releases.
        plan: What a team adds; the keys of its endpoints are in the environment of whoever does the order.
    """

    kind: Literal["scoring"] = "scoring"
    application: Name
    start: AwareDatetime
    end: AwareDatetime
    releases: tuple[Declared, ...]
    plan: EvaluationSpec = EvaluationSpec()

    @property
    def label(self) -> str:
        """The order for people; of no text of a user."""
        return f"score {self.application} {self.start:%Y-%m-%dT%H:%M}/{self.end:%Y-%m-%dT%H:%M}"


class IngestionOrder(Record):
    """Take files in, one after the other.

    Attributes:
        paths: The files, as the worker sees them.
        form, application, content, mapping: As in ``tasks.interactions.recipes.Recipe``.
        redact: Take personal data and secrets out of what is kept.
        final, dry_run, gate: As in ``tasks.interactions.ingest.Job``.
    """

    kind: Literal["ingestion"] = "ingestion"
    paths: Annotated[tuple[Path, ...], Field(min_length=1)]
    form: str
    application: Name | None
    content: Policy
    mapping: Columns | None
    redact: bool
    final: bool
    dry_run: bool
    gate: GatePolicy

    @property
    def label(self) -> str:
        """The order for people."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"ingest {self.paths[0].name}{more}"


def plan_of_slices(plan: EvaluationSpec) -> EvaluationSpec:
    """Return the part of a plan that concerns the slices of a window: judges and others are asked once a window."""
    return EvaluationSpec(toxicity=plan.toxicity, references=plan.references, scorers=plan.scorers)


def order_slices(
    application: str,
    slices: Sequence[Window],
    releases: Sequence[Release],
    plan: EvaluationSpec,
    answered: Mapping[str, int],
) -> list[ScoringOrder]:
    """Return an order for each slice of a window.

    Args:
        application: What users call.
        slices: The window, cut.
        releases: Those to score.
        plan: What a team adds.
        answered: Answered calls of each release in the whole window, by digest.
    """
    declared = tuple(Declared.of(release, answered.get(release.digest, 0)) for release in releases)
    part = plan_of_slices(plan)
    return [
        ScoringOrder(application=application, start=one.start, end=one.end, releases=declared, plan=part)
        for one in slices
    ]


Order = Annotated[ScoringOrder | IngestionOrder, Field(discriminator="kind")]
_ORDER: TypeAdapter[ScoringOrder | IngestionOrder] = TypeAdapter(Order)


def write_order(order: ScoringOrder | IngestionOrder) -> str:
    """Return an order as one line of JSON; the same order gives the same text."""
    return order.model_dump_json()


def read_order(text: str) -> ScoringOrder | IngestionOrder:
    """Read what ``write_order`` wrote.

    Raises:
        InputError: It is no order.
    """
    try:
        return _ORDER.validate_json(text)
    except ValidationError as error:
        places = ", ".join(".".join(str(part) for part in one["loc"]) or "the whole" for one in error.errors()[:5])
        raise InputError(f"order of a shard: {places} is not allowed; run parent and workers with one version") from (
            None
        )


def order_key(order: ScoringOrder | IngestionOrder) -> str:
    """Return what tells an order from any other: a digest of its content."""
    return hashlib.sha256(write_order(order).encode()).hexdigest()[:32]


def group_sources(
    sources: Mapping[Path, int], folder: Path, *, in_turn: bool, most_bytes: int
) -> tuple[tuple[Path, ...], ...]:
    """Return files in groups that can be taken in at the same time, each in the order of the files.

    Args:
        sources: The size of each file, bytes, in the order one process would take them.
        folder: Of the logs, with a folder for each application.
        in_turn: Whether a file is held against what the files before it have brought. Then those of one application
            stay together, and so do all files of any other place, because nobody knows whose they are.
        most_bytes: How much a group holds at most, unless they stay together; one file may be more.
    """
    if in_turn:
        kept: dict[str, list[Path]] = {}
        for path in sources:
            within = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
            kept.setdefault(within[0] if len(within) > 1 else "", []).append(path)
        return tuple(tuple(group) for group in kept.values())
    groups: list[list[Path]] = []
    held = 0
    for path, size in sources.items():
        if not groups or held + size > most_bytes:
            groups.append([])
            held = 0
        groups[-1].append(path)
        held += size
    return tuple(tuple(group) for group in groups)
