"""Does one order, in whatever process it was sent to, and leaves the result in the hand-over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.errors import InputError
from tasks.evaluation.shards import SHARD_COLUMNS, Scored, pack_scored, score_slice
from tasks.interactions.counts import SourceCount
from tasks.interactions.ingest import Job, ingest_file
from tasks.interactions.recipes import Recipe
from tasks.scoring.slices import open_around, read_rules
from tasks.settings import Settings
from tasks.shards.handover import HandOver
from tasks.shards.orders import IngestionOrder, ScoringOrder
from tasks.stores.lake import Lake

_COUNTS: TypeAdapter[tuple[SourceCount, ...]] = TypeAdapter(tuple[SourceCount, ...])


def handover_of(config: Settings) -> HandOver:
    """Return the hand-over of a state folder."""
    return HandOver(config.state_dir.absolute() / "shards")


def fulfil(config: Settings, name: str, attempt: int, now: datetime) -> None:
    """Do an order; one that has a result is done already.

    Args:
        config: Where things are for this process.
        name: Of the order.
        attempt: Counted from 1.
        now: When lines of a log were seen.

    Raises:
        NotFoundError: There is no such order.
    """
    handover = handover_of(config)
    if handover.is_done(name):
        return
    order = handover.order(name)
    with handover.beating(name, attempt):
        if isinstance(order, ScoringOrder):
            result = pack_scored(score_order(config, order))
        else:
            result = pack_counts(take_in(config, order, now))
        handover.put_result(name, result)


def score_order(config: Settings, order: ScoringOrder) -> Scored:
    """Score and look at the answers of every release in a slice of a window; each text is read once, here."""
    rows = Lake(config.lake_dir).window(order.application, order.start, order.end, SHARD_COLUMNS)
    rules = {one.digest: read_rules(one.prompt, one.parameters)[0] for one in order.releases}
    answered = {one.digest: one.answered for one in order.releases}
    with open_around(config.state_dir, order.plan, answered, f"{order.start:%Y-%m-%dT%H:%M:%S}") as around:
        return score_slice(rows, rules, order.plan, around)


def take_in(config: Settings, order: IngestionOrder, now: datetime) -> list[SourceCount]:
    """Store what some files hold beyond what is stored, one after the other."""
    lake, job = Lake(config.lake_dir), job_of(order, config)
    return [ingest_file(lake, path, now, job=job) for path in order.paths]


def order_of(paths: Sequence[Path], job: Job) -> IngestionOrder:
    """Return the order to take files in as a job has it."""
    recipe = job.recipe
    return IngestionOrder(
        paths=tuple(path.absolute() for path in paths),
        form=recipe.form,
        application=recipe.application,
        content=recipe.content,
        mapping=recipe.mapping,
        redact=recipe.redactor is not None,
        final=job.final,
        dry_run=job.dry_run,
        gate=job.gate,
    )


def job_of(order: IngestionOrder, config: Settings) -> Job:
    """Return the job that an order stands for."""
    from tasks.interactions.redaction import make_redactor

    recipe = Recipe(
        form=order.form,
        application=order.application,
        content=order.content,
        mapping=order.mapping,
        redactor=make_redactor() if order.redact else None,
    )
    pages = config.state_dir.absolute() / "data-docs"
    return Job(recipe=recipe, final=order.final, dry_run=order.dry_run, gate=order.gate, pages=pages)


def pack_counts(counts: Sequence[SourceCount]) -> bytes:
    """Return counts as JSON."""
    return _COUNTS.dump_json(tuple(counts))


def unpack_counts(packed: bytes) -> tuple[SourceCount, ...]:
    """Return the counts that ``pack_counts`` packed.

    Raises:
        InputError: They are none.
    """
    try:
        return _COUNTS.validate_json(packed)
    except ValidationError as error:
        raise InputError(f"counts of a shard: they cannot be read ({error.error_count()} errors)") from None
