"""What a scorer returned, read as a score; and scores of a window, held against a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.assess import MIN_SAMPLE, MIN_SCORED, Limit, hold
from tasks.evaluation.evidence import Estimate, estimate_mean, estimate_share
from tasks.judging.agreement import Interval
from tasks.monitors.verdict import Check, Outcome
from tasks.scoring.checks import CHECKS, CheckRate
from tasks.scoring.pool import CallError, State

MAX_LABEL: Final = 100
"""A longer word than this is a text, and may repeat what was judged."""
_WORDS: Final = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "pass": 1.0, "fail": 0.0}
_KINDS: Final = "int, float, bool, str, Feedback, a list of Feedback, or None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one scorer says of one answer.

    Attributes:
        name: The score.
        state: Whether it was scored, failed, or did not run.
        value: A number; None where it is missing, or where the score is a word that is no yes and no no.
        label: The word, where it was one.
        reason: Why there is no score; it repeats nothing that was judged.
    """

    name: str
    state: State
    value: float | None = None
    label: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The scores of a window.

    Attributes:
        name: The score.
        scored, errors, not_run: Answers in each state.
        mean: Mean of the numbers, with one-sided 95 % bounds; None without any.
        labels: How often each word was given.
        reasons: The commonest reasons of errors, with their numbers.
    """

    name: str
    scored: int
    errors: int
    not_run: int
    mean: Estimate | None
    labels: Mapping[str, int]
    reasons: Mapping[str, int]


def read_result(name: str, result: Any) -> tuple[Score, ...]:
    """Read what a scorer returned.

    Returns:
        The scores; a single one has the name of the scorer, those of a list ``name/feedback``. Nothing (None) is
        *not run*: the scorer says that it does not apply.

    Raises:
        CallError: It is NaN, infinite or nothing that a scorer may return.
    """
    if isinstance(result, list):
        if not result:
            return (Score(name=name, state=State.NOT_RUN, reason="the scorer gave no feedback"),)
        return tuple(_read_feedback(f"{name}/{getattr(item, 'name', None) or 'feedback'}", item) for item in result)
    if _is_feedback(result):
        return (_read_feedback(name, result),)
    return (_read_plain(name, result),)


def failed_row(name: str, state: State, reason: str | None) -> tuple[Score, ...]:
    """Return the scores of a row that has none."""
    return (Score(name=name, state=state, reason=reason),)


def keep_value(scores: Sequence[Score]) -> dict[str, object]:
    """Return scores as a cache keeps them."""
    return {"scores": [[score.name, score.value, score.label] for score in scores]}


def read_value(value: Mapping[str, Any]) -> tuple[Score, ...]:
    """Return the scores of a value of the cache."""
    return tuple(
        Score(name=name, state=State.SCORED, value=number, label=label) for name, number, label in value["scores"]
    )


def values_of(scores: Sequence[Score]) -> NDArray[np.float64]:
    """Return the numbers; NaN where there is none."""
    return np.array([np.nan if score.value is None else score.value for score in scores], dtype=np.float64)


def summarise_scores(name: str, scores: Sequence[Score]) -> Summary:
    """Return the scores of a window in figures."""
    counts = {state: sum(score.state is state for score in scores) for state in State}
    return Summary(
        name=name,
        scored=counts[State.SCORED],
        errors=counts[State.ERROR],
        not_run=counts[State.NOT_RUN],
        mean=estimate_mean(values_of(scores)),
        labels=_tally(score.label for score in scores if score.label is not None),
        reasons=_tally(score.reason or "" for score in scores if score.state is State.ERROR),
    )


def hold_scores(summary: Summary, threshold: float, *, highest: bool = False) -> Check:
    """Hold the mean of a score against its threshold.

    Args:
        summary: The scores of the window.
        threshold: In the unit of the score.
        highest: Whether it is the highest mean allowed, or the lowest.

    Returns:
        An error where too few of the answers it ran on have a score, or where it ran on none of many.
    """
    problem = _problem(summary, threshold)
    if problem is not None:
        return problem
    limit = Limit(f"scorer:{summary.name}", f"mean {summary.name}", threshold, _plain, highest=highest)
    return hold(summary.mean, limit)


def hold_interval(monitor: str, summary: Summary, mean: Interval | None, lowest: float) -> Check:
    """Hold a weighted mean of a sample, such as a judge's, against the lowest mean allowed; see ``hold_scores``."""
    problem = _problem(summary, lowest)
    if problem is not None:
        return replace(problem, monitor=monitor)
    limit = Limit(monitor, f"mean {summary.name}", lowest, _plain, highest=False)
    known = None if mean is None else Estimate(value=mean.value, low=mean.low, high=mean.high, n=mean.n)
    return hold(known, limit)


def hold_rate(rate: CheckRate, highest: float, effect: float = 1.0) -> Check:
    """Hold how often a check failed against the highest share that is allowed, by the rule of the monitors.

    Args:
        rate: How often it failed.
        highest: 0 to 1.
        effect: How many of the answers say as much as one that depends on no other, 1 or more.
    """
    limit = Limit(f"check:{rate.name}", CHECKS[rate.name].failure, highest, _percent)
    return hold(estimate_share(rate.failed, rate.judged, effect), limit)


def _problem(summary: Summary, threshold: float) -> Check | None:
    """Return the error of a score that too few answers have, None where enough have it or nobody tried."""
    tried, n = summary.scored + summary.errors, summary.mean.n if summary.mean else 0
    if tried >= MIN_SAMPLE and n < MIN_SCORED * tried:
        why = max(summary.reasons, key=lambda reason: summary.reasons[reason], default="its scores are words")
        statement = f"{summary.name}: {n} of {tried} answers have a score < minimum {MIN_SCORED:.0%}: {why}"
    elif tried == 0 and summary.not_run >= MIN_SAMPLE:
        statement = f"{summary.name}: it ran on none of {summary.not_run} answers"
    else:
        return None
    name = f"scorer:{summary.name}"
    return Check(monitor=name, outcome=Outcome.ERROR, statement=statement, value=None, limit=threshold, n=n)


def _is_feedback(result: Any) -> bool:
    return hasattr(result, "value") and hasattr(result, "error") and not isinstance(result, str)


def _read_feedback(name: str, feedback: Any) -> Score:
    if not _is_feedback(feedback):
        raise CallError(f"a scorer returns {_KINDS}; its list holds {type(feedback).__name__}")
    if feedback.error is not None:
        code = getattr(feedback.error, "error_code", None)
        return Score(name=name, state=State.ERROR, reason=str(code)[:MAX_LABEL] if code else "the scorer's own error")
    return _read_plain(name, feedback.value)


def _read_plain(name: str, value: Any) -> Score:
    if value is None:
        return Score(name=name, state=State.NOT_RUN, reason="the scorer gave nothing")
    if isinstance(value, str):
        word = str(getattr(value, "value", value)).strip()
        if len(word) > MAX_LABEL:
            raise CallError(f"a word of a scorer has at most {MAX_LABEL} characters, not {len(word)}")
        return Score(name=name, state=State.SCORED, value=_WORDS.get(word.lower()), label=word)
    if isinstance(value, bool | int | float | np.floating | np.integer | np.bool_):
        number = float(value)
        if not math.isfinite(number):
            raise CallError(f"it gave {number}, which is no score")
        return Score(name=name, state=State.SCORED, value=number)
    raise CallError(f"a scorer returns {_KINDS}, not {type(value).__name__}")


def _tally(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
