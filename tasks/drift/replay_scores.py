"""Who scores a replay set, what each says of a night, and whose change each of them sees.

The built-in quality always does; judges and scorers of ``evaluation.yaml`` do as well. Each scores the stored answers
and tonight's anew every night, because a score that was kept would hide a judge that changed. Live answers may be
looked up among scores of earlier nights, so where a judge is not known to be the same, nothing is said of the inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from tasks.drift.replay import Attribution, PairedChange, pair_scores, tell_apart
from tasks.drift.replay_set import ReplayItem
from tasks.evaluation.clusters import Z
from tasks.evaluation.evidence import Estimate
from tasks.judging.judge import Material
from tasks.scoring.pool import State
from tasks.scoring.quality import JUDGE_VERSION, score_quality
from tasks.scoring.reading import Score
from tasks.traffic.driver import Answer

REPLAYS: Final = "replays"
QUALITY: Final = "quality"
ALPHA: Final = 0.01
"""The chance that any score names any cause while nothing changed."""
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
"""One row a night, release and score; ``content`` is the JSON of a ``ReplayNight``. ``judge_version`` says what made
the score: the version of the built-in quality, or the name of the score and what pins who gives it."""
Rate = Callable[[Sequence[Material]], Mapping[str, Sequence[Score]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """Who scores a replay set.

    Attributes:
        name: ``quality``, ``judge:NAME`` or ``scorer:NAME``; a scorer may give several scores, ``scorer:NAME/SCORE``.
        identity: What pins it: another one is not held against its nights. Empty: the built-in quality.
        rate: Returns a score for each of some answers, by the name of the score.
    """

    name: str
    identity: str
    rate: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayNight:
    """What one night's replay came to by one score.

    Attributes:
        anchors: Item to score of its stored answer.
        replays: Item to score of tonight's answer.
        live: Mean score of live traffic, its standard error, and of how many answers; None where it is unknown.
        asked, failed: Items that were asked, and those without an answer.
        unscored: Different answers, stored or of tonight, that have no score.
        reason: The commonest reason; it repeats no text.
    """

    anchors: dict[str, float]
    replays: dict[str, float]
    live: tuple[float, float, int] | None
    asked: int
    failed: int
    unscored: int = 0
    reason: str = ""


Nights = dict[str, ReplayNight]
"""By what made the score, as ``judge_version`` has it."""


def name_of(version: str) -> str:
    """Return what people call a score."""
    return version.rpartition(" ")[0] or QUALITY


def rate_quality(materials: Sequence[Material]) -> dict[str, list[Score]]:
    """Score answers by the built-in quality."""
    texts = ([getattr(item, part) for item in materials] for part in ("question", "response", "context"))
    values = score_quality(*texts)
    nothing = Score(name=QUALITY, state=State.NOT_RUN, reason="the built-in quality is not known of it")
    return {
        QUALITY: [
            nothing if np.isnan(value) else Score(name=QUALITY, state=State.SCORED, value=float(value))
            for value in values
        ]
    }


def score_night(
    items: Sequence[ReplayItem],
    answers: Sequence[Answer | None],
    raters: Sequence[Rater],
    live: Mapping[str, Estimate | None],
) -> Nights:
    """Return what a night came to: scores of stored and of fresh answers, and of live traffic.

    Args:
        items: The set.
        answers: An answer each, None where it was not asked.
        raters: Who scores.
        live: What live answers came to, by the name of the score.
    """
    good = [answer if answer is not None and answer.status == _OK else None for answer in answers]
    materials = [_material(item, item.answer, answer) for item, answer in zip(items, good, strict=True)]
    materials += [
        _material(item, answer.text if answer else None, answer) for item, answer in zip(items, good, strict=True)
    ]
    # An answer that is the stored one is scored once, and paid for once.
    distinct = list(dict.fromkeys(item for item in materials if item is not None))
    asked = sum(answer is not None for answer in answers)
    nights: Nights = {}
    for rater in raters:
        for name, given in rater.rate(distinct).items():
            reasons = Counter(score.reason or "no reason" for score in given if score.value is None)
            known = {item: score.value for item, score in zip(distinct, given, strict=True)}
            values = [known.get(item) if item else None for item in materials]
            nights[_version(name, rater)] = ReplayNight(
                anchors=_known(items, values[: len(items)]),
                replays=_known(items, values[len(items) :]),
                live=_live(live.get(name)),
                asked=asked,
                failed=asked - sum(answer is not None for answer in good),
                unscored=sum(reasons.values()),
                reason=next((reason for reason, _ in reasons.most_common(1)), ""),
            )
    return nights


def keep_raters(nights: Nights, raters: Sequence[Rater]) -> tuple[Nights, list[str]]:
    """Return the scores of a stored night by those who score today, and the names of those who did not score then."""
    known = {rater.identity for rater in raters}
    kept = {name: night for name, night in nights.items() if name == JUDGE_VERSION or _identity(name) in known}
    there = {_identity(version) for version in kept}
    return kept, [rater.name for rater in raters if rater.identity and rater.identity not in there]


def first_nights(rows: pa.Table | None, digest: str, before: pa.Scalar) -> Nights:
    """Return the first night of the same set that ended before a moment, of each score."""
    if rows is None:
        return {}
    same = rows.filter(pc.field("set_digest") == digest)
    return _read(same.filter(pc.less(same["window_end"], before)))


def stored_nights(rows: pa.Table | None, digest: str, window: str) -> Nights:
    """Return what was kept of a window with the same set; nothing where the built-in quality is another by now."""
    if rows is None:
        return {}
    found = _read(rows.filter((pc.field("set_digest") == digest) & (pc.field("window") == window)))
    return found if JUDGE_VERSION in found else {}


def replay_rows(keys: Mapping[str, str], window_end: datetime, digest: str, nights: Nights) -> pa.Table:
    """Return a night as rows of ``REPLAYS_SCHEMA``; ``keys`` are application, release and window."""
    rows = [
        {
            **keys,
            "window_end": window_end,
            "judge_version": version,
            "set_digest": digest,
            "content": TypeAdapter(ReplayNight).dump_json(night).decode(),
        }
        for version, night in nights.items()
    ]
    return pa.Table.from_pylist(rows, schema=REPLAYS_SCHEMA)


def attribute(before: ReplayNight, now: ReplayNight, *, least: float, alpha: float, is_kept: bool) -> Attribution:
    """Say whose change there was between two nights, by one score.

    Args:
        before: The night it is held against.
        now: Tonight.
        least: The smallest change that matters, in the unit of the score.
        alpha: The chance that any cause is named while nothing changed, 0 to 1.
        is_kept: Whether live answers may have scores of earlier nights.
    """
    live = None
    if before.live is not None and now.live is not None:
        error = math.hypot(before.live[1], now.live[1])
        live = PairedChange(mean=now.live[0] - before.live[0], error=error, n=min(before.live[2], now.live[2]))
    anchors, replays = _paired(before.anchors, now.anchors), _paired(before.replays, now.replays)
    return tell_apart(anchors, replays, live, least=least, alpha=alpha, is_kept=is_kept)


def describe_replay(nights: Nights, before: Nights, least: float) -> tuple[str, ...]:
    """Return what a replay came to, in sentences: the built-in quality first.

    Args:
        nights: Tonight; with the built-in quality.
        before: The first night of each score; one that is not there has its first night tonight.
        least: The smallest change of a score that matters.
    """
    alpha, quality = ALPHA / len(nights), nights[JUDGE_VERSION]
    lines: list[str] = []
    for version, night in sorted(nights.items(), key=lambda item: (item[0] != JUDGE_VERSION, item[0])):
        name = name_of(version)
        found = None
        if version in before:
            is_kept = version != JUDGE_VERSION
            found = attribute(before[version], night, least=least, alpha=alpha, is_kept=is_kept)
        lost = f"; {night.unscored} answers not scored: {night.reason}" if night.unscored else ""
        words = f"{name} {found.words}" if found else "the first night of this set, which later ones are held against"
        if version == JUDGE_VERSION:
            head = f"Replay set: {quality.asked} asked, {quality.failed} without an answer"
            lines.append(f"{head}; {words}{lost}.")
        else:
            lines.append(f"Replay set by {name}: {words.removeprefix(f'{name} ')}{lost}.")
        prefix = "Replay" if version == JUDGE_VERSION else f"Replay by {name}"
        lines += [f"{prefix}: {effect.statement}" for effect in (found.effects if found else ())]
    return tuple(lines)


def _version(name: str, rater: Rater) -> str:
    return f"{name} {rater.identity}" if rater.identity else JUDGE_VERSION


def _identity(version: str) -> str:
    return version.rpartition(" ")[2]


def _material(item: ReplayItem, response: str | None, answer: Answer | None) -> Material | None:
    if response is None:
        return None
    context = item.context or (answer.context if answer else None)
    return Material(question=item.question, response=response, context=context)


def _known(items: Sequence[ReplayItem], values: Sequence[float | None]) -> dict[str, float]:
    pairs = zip(items, values, strict=True)
    return {item.id: value for item, value in pairs if value is not None and math.isfinite(value)}


def _live(found: Estimate | None) -> tuple[float, float, int] | None:
    if found is None or not math.isfinite(found.low):
        return None
    return found.value, (found.value - found.low) / Z, found.n


def _read(rows: pa.Table) -> Nights:
    """Return the first night of each score."""
    ordered = rows.sort_by("window_end")
    found: dict[str, str] = {}
    for version, content in zip(ordered["judge_version"].to_pylist(), ordered["content"].to_pylist(), strict=True):
        found.setdefault(version, content)
    return {version: TypeAdapter(ReplayNight).validate_json(content) for version, content in found.items()}


def _paired(before: dict[str, float], now: dict[str, float]) -> PairedChange | None:
    known = {item: score for item, score in now.items() if item in before}
    return pair_scores(before, known) if known else None
