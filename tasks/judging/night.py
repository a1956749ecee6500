"""A window's answers before a judge: which it sees, what it says, and what follows for each release.

All releases of a window share the judge's sample order and budget, so a budget that ends leaves out any answer and no
release. The mean speaks of all answers: those that are not judged are known by their built-in quality, corrected by
what the judge says of the sample (prediction-powered). A judge whose anchors say that it changed, or that could not be
asked for them, gives scores but decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.evaluation.evidence import Measured
from tasks.evaluation.summary import numbers
from tasks.judging.agreement import Interval, estimate_with_predictor
from tasks.judging.anchors import AnchorResult, AnchorSet, JudgeState, check_judge
from tasks.judging.budget import Spent
from tasks.judging.judge import Judge, Material, judge_answers
from tasks.judging.plan import JudgePlan
from tasks.judging.sample import Kinds, Sample, draw_sample, order_sample
from tasks.scoring.checks import Found
from tasks.scoring.informing import states_of
from tasks.scoring.reading import Score, values_of
from tasks.scoring.shares import NEGATIVE

ALWAYS_JUDGED: Final = ("empty", "truncated", "repetition", "json", "language", "prompt_leak", "pii")
"""Failed checks that put an answer into every judge's sample; a refusal may be right."""
STRATA: Final = ("route", "language")
LEVEL: Final = 0.9
"""Two-sided, so that either bound holds as often as those of the monitors, 95 %."""
LoadTexts = Callable[[Sequence[str]], Mapping[str, Material]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The answers of a release that a judge may see, without their texts.

    Attributes:
        ids: The calls.
        kinds: Route and language of each.
        always: Which are judged whatever happens.
        quality: The built-in quality, NaN where it is not known.
    """

    ids: pa.StringArray
    kinds: Kinds
    always: NDArray[np.bool_]
    quality: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseScores:
    """What a judge says of one release.

    Attributes:
        ids, scores: Of the sample, in the order of the calls.
        of: Answers of the release.
        mean: Over all of them, with bounds at ``LEVEL``; None without scores.
        missing: Share of the answers whose kind has no score, 0 to 1.
    """

    ids: tuple[str, ...]
    scores: tuple[Score, ...]
    of: int
    mean: Interval | None
    missing: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one judge came to in a window.

    Attributes:
        releases: By digest.
        spent: What it used for the application in the window so far, earlier runs included; None where it was never
            asked.
        models: Which models the server says answered, and how often; scores that were looked up count too.
        anchors: Whether it is the judge it was; None without anchors.
        problem: Why it could not be asked at all; empty: it was.
    """

    releases: Mapping[str, ReleaseScores] = field(default_factory=dict)
    spent: Spent | None = None
    models: Mapping[str, int] = field(default_factory=dict)
    anchors: AnchorResult | None = None
    problem: str = ""


def find_candidates(measured: Measured) -> Candidates:
    """Return the answers of a release that a judge may see.

    Args:
        measured: After ``inform``: with the states of the checks and the feedback.
    """
    assert measured.calls is not None  # noqa: S101 - inform leaves nothing else
    answered = measured.calls.filter(pc.invert(measured.calls["failed"]))
    always = numbers(answered[NEGATIVE]) == 1
    for name in ALWAYS_JUDGED:
        always |= states_of(answered, name) == Found.FAIL
    return Candidates(
        ids=answered["interaction_id"].combine_chunks(),
        kinds=_kinds(answered),
        always=always,
        quality=measured.quality,
    )


def judge_window(  # noqa: PLR0917 - who judges what
    plan: JudgePlan,
    judge: Judge,
    anchors: AnchorSet | None,
    candidates: Mapping[str, Candidates],
    load: LoadTexts,
    night: str,
) -> Judgement:
    """Put a sample of a window's answers before a judge.

    Args:
        plan: How much it sees.
        judge: Who is asked; its budget is that of the window.
        anchors: Its remembered anchors; they are asked first, because without them the other scores decide nothing.
        candidates: The answers, by the digest of their release.
        load: Loads the texts of calls by their ids; a call that is not there has none.
        night: The window's label: the same one gives the same sample, and asks the anchors once.
    """
    seed = make_seed(night, plan.judge.name)
    checked = None if anchors is None else _check_anchors(judge, anchors, seed, night)
    samples = {
        digest: draw_sample(one.ids, one.kinds, one.always, plan.sample, seed) for digest, one in candidates.items()
    }
    scores = _ask(judge, candidates, samples, load, seed)
    releases = {digest: _of_release(one, samples[digest], scores) for digest, one in candidates.items()}
    return Judgement(releases=releases, spent=judge.budget.spent, models=dict(judge.served.models), anchors=checked)


def make_seed(*parts: str) -> int:
    """Return a seed that depends on words alone, 0 to 2**32 - 1."""
    return int.from_bytes(hashlib.sha256(" ".join(parts).encode()).digest()[:4])


def _kinds(answered: pa.Table) -> Kinds:
    """Return the kind of each answer, as numbers: there may be millions of answers and few kinds."""
    coded = [pc.dictionary_encode(answered[name], null_encoding="encode").combine_chunks() for name in STRATA]
    pairs = np.zeros(answered.num_rows, dtype=np.int64)
    for part in coded:
        pairs = pairs * len(part.dictionary) + np.asarray(part.indices.to_numpy(zero_copy_only=False))
    found, numbers_of = np.unique(pairs, return_inverse=True)
    names = [part.dictionary.to_pylist() for part in coded]
    sizes = [len(one) for one in names]
    kinds = np.unravel_index(found, sizes) if len(found) else [np.zeros(0, np.int64)] * len(sizes)
    told = (tuple(one[at] for one, at in zip(names, kind, strict=True)) for kind in zip(*kinds, strict=True))
    return Kinds(tuple(told), numbers_of.astype(np.int32))


def _chosen(found: Candidates, sample: Sample) -> list[str]:
    return list(found.ids.filter(pa.array(sample.chosen)).to_pylist())


def join_texts(rows: pa.Table) -> dict[str, Material]:
    """Return what a judge reads of calls: rows of ``interaction_id`` and the three texts."""
    columns = ("interaction_id", "input_text", "context_text", "output_text")
    each = zip(*(rows[name].to_pylist() for name in columns), strict=True)
    return {name: Material(question=asked, context=found, response=said) for name, asked, found, said in each}


def _check_anchors(judge: Judge, anchors: AnchorSet, seed: int, night: str) -> AnchorResult:
    try:
        return check_judge(judge, anchors, seed, night)
    except InputError as error:
        return AnchorResult(judge=judge.spec.name, state=JudgeState.UNKNOWN, statement=f"judge unknown: {error}", n=0)


def _ask(
    judge: Judge,
    candidates: Mapping[str, Candidates],
    samples: Mapping[str, Sample],
    load: LoadTexts,
    seed: int,
) -> dict[str, Score]:
    """Return the score of every call of the samples, asked in an order that knows no release."""
    ids = [name for digest, sample in samples.items() for name in _chosen(candidates[digest], sample)]
    whole = Sample(chosen=np.ones(len(ids), dtype=np.bool_), kinds=np.zeros(len(ids), dtype=np.int32))
    order = [ids[at] for at in order_sample(ids, whole, seed)]
    texts = load(order)
    nothing = Material(question=None, response=None)
    scores = judge_answers(judge, [texts.get(name, nothing) for name in order])
    return dict(zip(order, scores, strict=True))


def _of_release(found: Candidates, sample: Sample, scores: Mapping[str, Score]) -> ReleaseScores:
    ids = _chosen(found, sample)
    mine = tuple(scores[name] for name in ids)
    values = np.full(len(found.ids), np.nan)
    values[sample.chosen] = values_of(mine)
    known = ~np.isnan(values)
    return ReleaseScores(
        ids=tuple(ids),
        scores=mine,
        of=len(found.ids),
        mean=estimate_with_predictor(values, found.quality, sample.weigh(known), level=LEVEL),
        missing=sample.missing(known),
    )
