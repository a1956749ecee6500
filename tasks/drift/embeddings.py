"""Drift of meaning: the texts of both sides as embeddings of an OpenAI-compatible endpoint, where one is configured.

Texts are sent there, so it is off unless ``evaluation.yaml`` names an endpoint; its key is named by environment
variable only. What an endpoint does not give is missing: where that is most of a side, the check is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.drift.findings import Drift
from tasks.drift.numeric import GROSS
from tasks.drift.sample import TEXT_COLUMNS, Sample
from tasks.drift.text import TextRule, Texts, compare_vectors, keep_units, shorten
from tasks.drift.wording import LEAST, Old, tell_effect
from tasks.errors import InputError
from tasks.judging.client import Client, EndpointSpec, embed_texts
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Record
from tasks.scoring.pool import CallError

FEWEST_EMBEDDED: Final = 0.5
SALT: Final = "embeddings"
_SIDES: Final = 2


class EmbeddingSpec(Record):
    """Who embeds texts, and how much of it.

    Attributes:
        endpoint: The server and its model.
        texts: Texts that are sent a release and night at most, both columns and both sides together.
        batch: Texts a request.
        total_s: No request begins later than so many seconds after the first.
    """

    endpoint: EndpointSpec
    texts: Annotated[int, Field(ge=200, le=100_000)] = 2000
    batch: Annotated[int, Field(ge=1, le=2048)] = 64
    total_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 120.0


@dataclass(frozen=True, slots=True)
class _Embedded:
    texts: Texts
    vectors: NDArray[np.float64]
    wanted: int
    problem: str


def hold_meanings(  # noqa: PLR0917 - both sides, who embeds them, and how strictly
    current: Sample,
    old: Old,
    spec: EmbeddingSpec,
    environment: Mapping[str, str],
    clock: Callable[[], float],
    level: float,
) -> Drift:
    """Hold the meaning of a window's texts against a baseline's.

    Args:
        current: The window.
        old: What it is held against; its texts have to be left.
        spec: Who embeds them.
        environment: Where the key is looked up.
        clock: Gives seconds.
        level: The chance that anything fails while nothing is wrong, 0 to 1.

    Returns:
        A check ``drift:question meaning`` and ``drift:answer meaning`` where both sides have texts.
    """
    pairs = {column: (current.texts(column), old.sample.texts(column)) for column in TEXT_COLUMNS}
    pairs = {column: sides for column, sides in pairs.items() if all(side.texts for side in sides)}
    if not pairs:
        return Drift()
    found, until = Drift(), clock() + spec.total_s
    try:
        with Client(spec.endpoint, environment) as client:
            for column, sides in pairs.items():
                most = spec.texts // (_SIDES * len(TEXT_COLUMNS))
                parts = [_embed(client, keep_units(side, most, SALT), spec, lambda: clock() < until) for side in sides]
                found = found.join(_hold(meaning_of(column), parts[0], parts[1], old, level / len(TEXT_COLUMNS)))
    except InputError as error:
        return Drift(checks=tuple(_error(meaning_of(column), str(error), 0) for column in pairs))
    return found


def meaning_of(column: str) -> str:
    """Return what checks call the meaning of one of ``TEXT_COLUMNS``."""
    return column.replace("text", "meaning")


def _hold(name: str, new: _Embedded, was: _Embedded, old: Old, level: float) -> Drift:
    for side in (new, was):
        if len(side.texts.texts) < FEWEST_EMBEDDED * side.wanted:
            reason = f"{len(side.texts.texts)} of {side.wanted} texts have an embedding: {side.problem}"
            return Drift(checks=(_error(name, reason, len(new.texts.texts)),))
    if new.vectors.shape[1] != was.vectors.shape[1]:
        return Drift(checks=(_error(name, "the endpoint's embeddings have different lengths", new.wanted),))
    rule = TextRule(least=LEAST * GROSS, level=level)
    shift = compare_vectors(name, (new.vectors, was.vectors), (new.texts, was.texts), rule)
    return tell_effect(shift.effect, old)


def _embed(client: Client, side: Texts, spec: EmbeddingSpec, is_time: Callable[[], bool]) -> _Embedded:
    kept: list[int] = []
    vectors: list[list[float]] = []
    problem = f"no time was left after {spec.total_s:g} s"
    for start in range(0, len(side.texts), spec.batch):
        if not is_time():
            break
        places = range(start, min(start + spec.batch, len(side.texts)))
        try:
            vectors += embed_texts(client, [shorten(side.texts[at] or "") for at in places])
        except CallError as error:
            problem = str(error)
            continue
        kept += places
    texts = Texts(
        texts=[side.texts[at] for at in kept], units=[side.units[at] for at in kept], ids=[side.ids[at] for at in kept]
    )
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        nothing = Texts(texts=[], units=[], ids=[])
        return _Embedded(nothing, np.empty((0, 0)), len(side.texts), "they differ in length")
    rows = np.array(vectors, dtype=np.float64).reshape(len(kept), -1) if kept else np.empty((0, 0))
    return _Embedded(texts, rows, len(side.texts), problem)


def _error(name: str, reason: str, n: int) -> Check:
    statement = f"drift: {name} could not be compared: {reason} (n={n})"
    return Check(monitor=f"drift:{name}", outcome=Outcome.ERROR, statement=statement, value=None, limit=None, n=n)
