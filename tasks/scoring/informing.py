"""What a release's answers come to beside its monitors: checks, feedback, similarity, toxicity, people's calibration.

All of it informs. It decides where ``evaluation.yaml`` gives a limit, and then by the rule of the monitors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.evaluation.assess import MIN_SCORED, Limit, hold
from tasks.evaluation.clusters import Users, design_effect, users_as_numbers
from tasks.evaluation.evidence import Estimate, Measured, Shown, estimate_mean, estimate_share, estimate_toxicity
from tasks.evaluation.summary import numbers
from tasks.monitors.verdict import Check
from tasks.scoring.checks import CHECKS, CheckRate, Found, rate_check
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.people import StoredCalibration, spread_curve
from tasks.scoring.reading import hold_rate
from tasks.scoring.shares import CHECK_PREFIX, NEGATIVE
from tasks.scoring.signals import FEEDBACK_VALID, SIMILARITY_VALID
from tasks.scoring.slices import SIMILARITY, SLOW_CHECKS, SLOW_SAMPLE, TOXICITY_PROBLEM

QUALITY_VALID: Final = (
    "Copy-support: for question answering over retrieved text; not for chat, summaries or without a context."
)
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a release's answers from elsewhere.

    Attributes:
        negative: What users said of each call, as ``rate_feedback`` gives it, in the order of the calls.
        calibration: What makes the quality a probability; None: nothing does.
        problem: Why the calibration that is there cannot be used; empty: it can.
        rules_problem: What cannot be applied of what the release declares; empty: all can.
    """

    negative: Values
    calibration: StoredCalibration | None = None
    problem: str = ""
    rules_problem: str = ""


@dataclass(slots=True)
class _Said:
    shown: list[Shown] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    means: dict[str, Estimate] = field(default_factory=dict)


def join_columns(measured: Measured, looked: pa.Table) -> Measured:
    """Return a release with what was seen in the texts of its answers beside the scores; NULL where nothing was."""
    calls = measured.calls
    if calls is None:
        return measured
    at = pc.index_in(calls["interaction_id"], value_set=looked["interaction_id"].combine_chunks()).combine_chunks()
    for name in looked.column_names:
        if name != "interaction_id":
            column = looked[name].combine_chunks().take(at)
            there = calls.column_names.index(name) if name in calls.column_names else -1
            calls = calls.append_column(name, column) if there < 0 else calls.set_column(there, name, column)
    answered = calls.filter(pc.invert(calls["failed"]))
    toxicity = numbers(answered["toxicity"])
    found = estimate_toxicity(toxicity, users_as_numbers(answered["user"]))
    evidence = replace(measured.evidence, toxicity=found)
    return replace(measured, calls=calls, toxicity=toxicity, evidence=evidence)


def inform(measured: Measured, plan: EvaluationSpec, known: Known) -> Measured:
    """Return a release with what is to be said of its answers.

    Args:
        measured: With the columns of ``join_columns``.
        plan: What a team adds, with its limits.
        known: What is known from elsewhere.
    """
    if measured.calls is None:
        return measured
    calls = measured.calls.append_column(
        NEGATIVE, pa.array(known.negative, pa.float64(), mask=np.isnan(known.negative))
    )
    measured = _calibrate(replace(measured, calls=calls), known)
    said = _Said()
    answered = _answered(measured)
    users = users_as_numbers(answered["user"])
    _add_checks(said, answered, users, plan, known.rules_problem)
    _add_feedback(said, answered, users, plan)
    _add_similarity(said, answered, users, plan)
    evidence = measured.evidence
    problem = _add_toxicity(said, answered, plan)
    quality = _quality(measured, known)
    return replace(
        measured,
        evidence=replace(
            evidence,
            shown=(*evidence.shown, quality, *said.shown),
            shown_means={**evidence.shown_means, **said.means},
            scorer_checks=(*evidence.scorer_checks, *said.checks),
            toxicity_problem=problem,
            toxicity_limits=plan.toxicity.limits,
        ),
    )


def states_of(answered: pa.Table, name: str) -> NDArray[np.int8]:
    """Return the states of a check of answered calls; what was not looked at is unknown."""
    column = answered[f"{CHECK_PREFIX}{name}"]
    return np.asarray(pc.fill_null(column, int(Found.UNKNOWN)).to_numpy(), dtype=np.int8)


def _answered(measured: Measured) -> pa.Table:
    assert measured.calls is not None  # noqa: S101 - inform has seen to it
    return measured.calls.filter(pc.invert(measured.calls["failed"]))


def _calibrate(measured: Measured, known: Known) -> Measured:
    """Put probabilities in the place of the quality, where people's labels say that they are better than none."""
    stored, calls = known.calibration, measured.calls
    if stored is None or not stored.calibration.helps or calls is None:
        return measured
    raw = numbers(calls["quality"])
    good = stored.calibration.apply(raw)
    at = calls.column_names.index("quality")
    calls = calls.set_column(at, "quality", pa.array(good, pa.float64(), mask=np.isnan(good)))
    mean = estimate_mean(good, users_as_numbers(calls["user"]))
    if mean is not None:
        low, high = spread_curve(stored.calibration, raw)
        mean = replace(mean, low=min(mean.low, low), high=max(mean.high, high))
    return replace(measured, calls=calls, evidence=replace(measured.evidence, quality=mean))


def _quality(measured: Measured, known: Known) -> Shown:
    stored = known.calibration
    if stored is None:
        words = (
            f"not calibrated: {known.problem}" if known.problem else "as measured; not calibrated by people's labels"
        )
        return Shown(name="quality", statement=words, valid=QUALITY_VALID)
    curve = stored.calibration
    brier = f"Brier {curve.brier:.3f} against {curve.base_brier:.3f} for one word"
    of = f"calibration {stored.label} of {curve.labels} labels"
    raw = estimate_mean(measured.quality)
    before = "unknown" if raw is None else f"{raw.value:.4g}"
    if not curve.helps:
        words = f"as measured; {of} is no better than one and the same word for every answer ({brier})"
        return Shown(name="quality", statement=words, valid=QUALITY_VALID)
    words = f"the chance that people call it good, by {of} ({brier}); before it {before}"
    span = f"scores {curve.grid[0]:.2g} to {curve.grid[-1]:.2g}"
    return Shown(name="quality", statement=words, valid=f"For answers like those labelled, {span}. {QUALITY_VALID}")


def _add_checks(said: _Said, answered: pa.Table, users: Users, plan: EvaluationSpec, problem: str) -> None:
    for name, kind in CHECKS.items():
        states = states_of(answered, name)
        rate = rate_check(name, states)
        judged = np.isin(states, (Found.PASS, Found.FAIL))
        effect = design_effect(np.where(judged, states == Found.FAIL, np.nan), users)
        share = estimate_share(rate.failed, rate.judged, effect)
        words = f"{rate.failed} of {rate.judged}, {_span(share)}" if share else rate.words.removeprefix(f"{name}: ")
        words += f"; {problem}" if problem and name == "json" else ""
        words += f"; of about {SLOW_SAMPLE} of them" if name in SLOW_CHECKS and answered.num_rows > SLOW_SAMPLE else ""
        said.shown.append(Shown(name=f"check:{name}", statement=words, valid=kind.valid))
        if share is not None:
            said.means[f"check:{name}"] = share
        if name in plan.checks and not _does_not_apply(rate):
            said.checks.append(hold_rate(rate, plan.checks[name], effect))


def _does_not_apply(rate: CheckRate) -> bool:
    return rate.judged == 0 and rate.unknown == 0 and rate.not_applicable > 0


def _add_feedback(said: _Said, answered: pa.Table, users: Users, plan: EvaluationSpec) -> None:
    negative = numbers(answered[NEGATIVE])
    rated = negative[~np.isnan(negative)]
    share = estimate_share(int(rated.sum()), len(rated), design_effect(negative, users))
    if share is not None:
        said.means["feedback"] = share
        rates = f"users rated {len(rated)} of {len(negative)}"
        words = f"{_span(share)} of the rated answers negative (n={len(rated)}); {rates}"
        said.shown.append(Shown(name="feedback", statement=words, valid=FEEDBACK_VALID))
    if plan.feedback.threshold is not None:
        said.checks.append(hold(share, Limit("feedback", "negative feedback", plan.feedback.threshold, _percent)))


def _add_similarity(said: _Said, answered: pa.Table, users: Users, plan: EvaluationSpec) -> None:
    mean = estimate_mean(numbers(answered[SIMILARITY]), users)
    if plan.references is None:
        return
    if mean is not None:
        said.means["similarity"] = mean
    words = "no question of the window has a reference" if mean is None else f"mean {_words(mean)}"
    said.shown.append(Shown(name="similarity", statement=words, valid=SIMILARITY_VALID))
    if plan.references.threshold is not None:
        limit = Limit("similarity", "mean similarity", plan.references.threshold, _plain, highest=False)
        said.checks.append(hold(mean, limit))


def _add_toxicity(said: _Said, answered: pa.Table, plan: EvaluationSpec) -> str:
    """Say who judged toxicity; return why most answers have no score, empty where they have."""
    if plan.toxicity.source == "embedded":
        said.shown.append(Shown(name="toxicity", statement="by the embedded model", valid=plan.toxicity.limits))
        return ""
    scored = len(answered) - answered["toxicity"].null_count
    reasons = Counter(answered[TOXICITY_PROBLEM].drop_null().to_pylist())
    why = "; ".join(_reasons(reasons))
    words = f"by the {plan.toxicity.source}: {scored} of {answered.num_rows} answers have a score"
    statement = f"{words}; {why}" if why else words
    said.shown.append(Shown(name="toxicity", statement=statement, valid=plan.toxicity.limits))
    tried = scored + sum(reasons.values())
    return f"{scored} of {tried} answers have a score: {why}" if tried and scored < MIN_SCORED * tried else ""


def _reasons(reasons: Counter[str]) -> Iterator[str]:
    for reason, count in reasons.most_common(3):
        yield f"{count} times {reason}"


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}] (n={estimate.n})"


def _span(share: Estimate) -> str:
    return f"{_percent(share.value)} [{_percent(share.low)}, {_percent(share.high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _plain(value: float) -> str:
    return f"{value:.4g}"
