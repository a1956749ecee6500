"""Answers a judge has scored before: asked again, they tell a judge that changed from answers that changed.

Behind one name a provider may put another model at any time. What it says of the same answers then moves, and every
verdict that rests on it says something about the judge. Three things are looked at: verdicts that flipped (McNemar's
exact test), scores that moved together (a sign-flip permutation test, with a smallest shift that matters), and scores
that scatter. A judge that changed, or could not be asked, makes verdicts that rest on it errors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tasks.documents import read_document
from tasks.errors import InputError
from tasks.judging.judge import Judge, Material, judge_answers
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Record
from tasks.scoring.pool import State
from tasks.scoring.reading import Score, values_of

MIN_ANCHORS: Final = 20
ALPHA: Final = 0.01
SHIFT: Final = 0.05
"""A mean shift below this does not matter, of a scale from 0 to 1."""
SCATTER: Final = 0.15
"""Mean distance to the remembered scores; a pinned judge at temperature 0 stays far below it."""
MIN_ANSWERED: Final = 0.8
_ROUNDS: Final = 4000
Values = NDArray[np.float64]


class JudgeState(StrEnum):
    """What the anchors say of a judge."""

    SAME = "same"
    CHANGED = "changed"
    UNKNOWN = "unknown"


class Anchor(Record):
    """One fixed answer; with its score once it is remembered."""

    question: str | None = None
    response: str = Field(min_length=1)
    context: str | None = None
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    @property
    def material(self) -> Material:
        """What the judge reads."""
        return Material(question=self.question, response=self.response, context=self.context)


class AnchorSet(Record):
    """The anchors of one judge.

    Attributes:
        judge: Digest of the judge that gave the scores.
        threshold: From this score on, 0 to 1, an answer counts as good.
        anchors: ``MIN_ANCHORS`` or more; good ones and bad ones.
    """

    kind: Literal["anchors-1"] = "anchors-1"
    judge: str = Field(pattern=r"^[0-9a-f]{64}$")
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    anchors: tuple[Anchor, ...] = Field(min_length=MIN_ANCHORS)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if any(anchor.score is None for anchor in self.anchors):
            raise ValueError("an anchor has no score; remember them with the judge first")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the set, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorResult:
    """What asking again came to.

    Attributes:
        judge: Its name.
        state: Whether the judge is the same.
        statement: The numbers that decided, for people.
        n: Anchors that were answered.
        flips: Anchors that crossed the threshold by more than ``SHIFT``, in either direction.
        shift, scatter: Mean difference and mean distance to the remembered scores; None where too few answered.
        p_flips, p_shift: How often chance alone does that; None where too few answered.
    """

    judge: str
    state: JudgeState
    statement: str
    n: int
    flips: int = 0
    shift: float | None = None
    scatter: float | None = None
    p_flips: float | None = None
    p_shift: float | None = None

    @property
    def check(self) -> Check:
        """The same as a check: a judge that changed or is not known is an error of all that rests on it."""
        outcome = Outcome.PASS if self.state is JudgeState.SAME else Outcome.ERROR
        return Check(
            monitor=f"judge:{self.judge}",
            outcome=outcome,
            statement=self.statement,
            value=self.shift,
            limit=SHIFT,
            n=self.n,
        )


def remember_anchors(judge: Judge, anchors: Sequence[Anchor], threshold: float = 0.5) -> AnchorSet:
    """Ask a judge for the scores of anchors and remember them.

    Raises:
        InputError: There are fewer than ``MIN_ANCHORS``, or one has no score.
    """
    if len(anchors) < MIN_ANCHORS:
        raise InputError.of("anchors", len(anchors), f"{MIN_ANCHORS} or more")
    scores = judge_answers(judge, [anchor.material for anchor in anchors])
    lost = [score.reason for score in scores if score.state is not State.SCORED]
    if lost:
        raise InputError(f"anchors: {len(lost)} of {len(anchors)} have no score ({lost[0]}); remember them again")
    known = tuple(
        anchor.model_copy(update={"score": score.value}) for anchor, score in zip(anchors, scores, strict=True)
    )
    return AnchorSet(judge=judge.spec.digest, threshold=threshold, anchors=known)


def check_judge(judge: Judge, remembered: AnchorSet, seed: int, occasion: str = "") -> AnchorResult:
    """Ask a judge for its anchors again, and say whether it is the same.

    Args:
        judge: Who is asked.
        remembered: Its anchors.
        seed: For the permutations.
        occasion: It is asked once on each, such as a night; empty: always, past its cache.

    Raises:
        InputError: The anchors are those of another judge.
    """
    if judge.spec.digest != remembered.judge:
        raise InputError(
            f"judge {judge.spec.name}: the anchors are of judge {remembered.judge[:12]}, not {judge.spec.digest[:12]}; "
            "remember them anew"
        )
    cache = judge.cache if occasion else None
    fresh = replace(judge, cache=cache, occasion=f"anchors {occasion}")
    scores = judge_answers(fresh, [anchor.material for anchor in remembered.anchors])
    return compare_anchors(judge.spec.name, remembered, scores, seed)


def compare_anchors(judge: str, remembered: AnchorSet, scores: Sequence[Score], seed: int) -> AnchorResult:
    """Hold scores against the remembered ones.

    Args:
        judge: Its name.
        remembered: The anchors.
        scores: A score of each, now.
        seed: For the permutations.
    """
    before = np.array([anchor.score for anchor in remembered.anchors], dtype=np.float64)
    now = values_of(scores)
    known = ~np.isnan(now)
    n = int(known.sum())
    if n < MIN_ANSWERED * len(before):
        reason = next((score.reason for score in scores if score.reason), "no reason")
        text = f"judge {judge} unknown: {n} of {len(before)} anchors answered < minimum {MIN_ANSWERED:.0%} ({reason})"
        return AnchorResult(judge=judge, state=JudgeState.UNKNOWN, statement=text, n=n)
    return _decide(judge, before[known], now[known], remembered.threshold, seed)


def read_anchors(path: Path) -> AnchorSet:
    """Read the remembered anchors of a judge.

    Raises:
        InputError: They cannot be read.
    """
    return read_document(path, AnchorSet)


def _decide(judge: str, before: Values, now: Values, threshold: float, seed: int) -> AnchorResult:
    n, differences = len(now), now - before
    moved = np.abs(differences) > SHIFT  # what lies on the threshold crosses it by a hair, and always the same way
    up = int(np.count_nonzero((now >= threshold) & (before < threshold) & moved))
    down = int(np.count_nonzero((now < threshold) & (before >= threshold) & moved))
    shift, scatter = float(differences.mean()), float(np.abs(differences).mean())
    p_flips, p_shift = _mcnemar(up, down), _sign_flips(differences, seed)
    share = ALPHA / 2
    reasons = [
        *([f"{up + down} verdicts flipped, p {p_flips:.4f} <= {share:g}"] if p_flips <= share else []),
        *(
            [f"mean shift {shift:+.3f}, p {p_shift:.4f} <= {share:g}"]
            if p_shift <= share and abs(shift) > SHIFT
            else []
        ),
        *([f"mean distance {scatter:.3f} > {SCATTER:g}"] if scatter > SCATTER else []),
    ]
    state = JudgeState.CHANGED if reasons else JudgeState.SAME
    quiet = f"{up + down} verdicts flipped, mean shift {shift:+.3f}, mean distance {scatter:.3f} <= {SCATTER:g}"
    statement = f"judge {judge} {state}: {'; '.join(reasons) or quiet} (n={n})"
    return AnchorResult(
        judge=judge, state=state, statement=statement, n=n, flips=up + down, shift=shift, scatter=scatter,
        p_flips=p_flips, p_shift=p_shift,
    )  # fmt: skip


def _mcnemar(up: int, down: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(up, up + down).pvalue) if up + down else 1.0


def _sign_flips(differences: Values, seed: int) -> float:
    """Return how often a mean as large comes about when each difference has its sign by chance."""
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_ROUNDS, len(moved)))
    beyond = np.count_nonzero(np.abs(signs @ moved) >= abs(moved.sum()) - 1e-12)
    return float(beyond + 1) / (_ROUNDS + 1)
