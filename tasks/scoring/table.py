"""Everything that is said of a window's answers beside the built-in quality: one call on a table of interactions.

Checks first, because what fails them is always judged; then toxicity, scorers and judges. Each has its own scores, its
own state in every row, and its own check where a limit is set. A judge whose anchors say that it changed, or that
could not be asked for them, gives scores but decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from tasks.costs.rates import Rate
from tasks.errors import InputError
from tasks.judging.agreement import Interval, estimate_mean
from tasks.judging.anchors import AnchorResult, AnchorSet, JudgeState, check_judge
from tasks.judging.budget import Budget, BudgetSpec, Spent
from tasks.judging.client import Client
from tasks.judging.judge import Judge, JudgeSpec, Material, judge_answers
from tasks.judging.sample import draw_sample, order_sample
from tasks.monitors.verdict import Check
from tasks.release.model import Record, Share
from tasks.scoring.cache import ScoreCache
from tasks.scoring.check_rules import Rules
from tasks.scoring.checks import CHECKS, Answers, CheckRate, Found, States, rate_checks, run_checks
from tasks.scoring.moderation import ToxicitySpec, rate_toxicity
from tasks.scoring.pool import Limits, State
from tasks.scoring.reading import Score, hold_interval, hold_rate, hold_scores, summarise_scores, values_of
from tasks.scoring.scorers import Row, ScorerSpec, draw_rows, load_scorer, run_scorer

ALWAYS_JUDGED: Final = ("empty", "truncated", "repetition", "json", "language", "prompt_leak", "pii")
"""Failed checks that put an answer into every judge's sample; a refusal may be right."""


class JudgePlan(Record):
    """A judge, and how an evaluation uses it.

    Attributes:
        sample: Answers it sees beside the failures and complaints.
        threshold: Lowest mean, 0 to 1; None is only shown.
        budget: What it may use in one evaluation.
        anchors: Its remembered anchors; None: nobody would notice that it changed.
    """

    judge: JudgeSpec
    budget: BudgetSpec
    sample: int = Field(default=200, ge=1)
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    anchors: AnchorSet | None = None
    workers: int = Field(default=4, ge=1, le=64)
    retries: int = Field(default=2, ge=0, le=10)


class ScoringPlan(Record):
    """What an evaluation scores.

    Attributes:
        checks: Highest share of failures a check may have, 0 to 1, by its name; the others are only shown.
        toxicity: Who judges toxicity.
        scorers, judges: Each with its own name.
    """

    checks: dict[str, Share] = Field(default_factory=dict)
    toxicity: ToxicitySpec = ToxicitySpec()
    scorers: tuple[ScorerSpec, ...] = ()
    judges: tuple[JudgePlan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What scoring needs beside the answers.

    Attributes:
        rules: What the release declares of its answers.
        environment: Where keys of endpoints are looked up.
        cache: Where scores are looked up and kept; None keeps none.
        rates: The price of each judge's model today, by the judge's name; none is unpriced.
        expectations: What was expected, by interaction id.
        complaints: Which answers had negative feedback, in their order; None: none is known.
        seed: For samples and permutations.
    """

    rules: Rules
    environment: Mapping[str, str] = field(repr=False)
    cache: ScoreCache | None = None
    rates: Mapping[str, Sequence[Rate]] = field(default_factory=dict)
    expectations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    complaints: NDArray[np.bool_] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one judge came to.

    Attributes:
        mean: Of all answers, by the weights of the sample; None without scores.
        missing: Share of the answers whose kind has no score, 0 to 1.
        spent: What it used, for its anchors too.
        models: Which models the server says answered.
        anchors: Whether it is the judge it was; None without anchors.
    """

    mean: Interval | None
    missing: float
    spent: Spent
    models: Mapping[str, int]
    anchors: AnchorResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What is said of a window's answers.

    Attributes:
        states: Of every check, a state of ``Found`` an answer.
        rates: How often each check failed.
        scores: A score an answer, by its name.
        judged: By the judge's name.
        checks: What was held against a limit.
    """

    states: Mapping[str, States]
    rates: tuple[CheckRate, ...]
    scores: Mapping[str, Sequence[Score]]
    judged: Mapping[str, Judged]
    checks: tuple[Check, ...]

    def as_table(self, interaction_ids: Sequence[str]) -> pa.Table:
        """Return the scores as rows of ``interaction_id``, ``score``, ``state``, ``value``, ``label``, ``reason``."""
        text = pa.string()
        kinds = {"score": text, "state": text, "value": pa.float64(), "label": text, "reason": text}
        every = [score for scores in self.scores.values() for score in scores]
        columns: dict[str, Any] = {"interaction_id": pa.array([*interaction_ids] * len(self.scores), text)}
        for name, kind in kinds.items():
            columns[name] = pa.array([getattr(score, "name" if name == "score" else name) for score in every], kind)
        return pa.table(columns)


def check_plan(plan: ScoringPlan) -> None:
    """Refuse a plan that cannot be carried out, before anything is asked or paid for.

    Raises:
        InputError: A check does not exist, two scores have one name, or a scorer cannot be loaded.
    """
    for name in plan.checks:
        if name not in CHECKS:
            raise InputError.of("scoring.checks", name, CHECKS)
    names = ["toxicity", *(spec.name for spec in plan.scorers), *(item.judge.name for item in plan.judges)]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"scoring: two scores are named {name!r}; give each its own name")
    for spec in plan.scorers:
        load_scorer(spec)


def score_table(table: pa.Table, plan: ScoringPlan, around: Surroundings) -> Scored:
    """Score the answers of one release.

    Args:
        table: Calls that did not fail, with the columns of the interaction log.
        plan: What is scored.
        around: What it needs.

    Raises:
        InputError: The plan cannot be carried out; see ``check_plan``.
    """
    check_plan(plan)
    answers, ids = Answers.of(table), table["interaction_id"].to_pylist()
    states = run_checks(answers, around.rules)
    rates = rate_checks(states)
    always = _always(states, around.complaints, len(ids))
    toxicity = rate_toxicity(plan.toxicity, answers.responses, environment=around.environment, cache=around.cache)
    scores: dict[str, list[Score]] = {"toxicity": toxicity}
    checks = [hold_rate(rate, plan.checks[rate.name]) for rate in rates if rate.name in plan.checks]
    rows = _rows(answers, ids, around)
    for spec in plan.scorers:
        found = run_scorer(load_scorer(spec), draw_rows(rows, ids, spec.sample), around.cache)
        scores |= found
        checks += _hold(spec, found)
    judged = {}
    for item in plan.judges:
        name = item.judge.name
        scores[name], judged[name] = _judge(item, table, answers, always, around)
        checks += _hold_judge(item, scores[name], judged[name])
    return Scored(states=states, rates=rates, scores=scores, judged=judged, checks=tuple(checks))


def _rows(answers: Answers, ids: Sequence[str], around: Surroundings) -> list[Row]:
    columns = zip(ids, answers.questions, answers.contexts, answers.responses, strict=True)
    return [
        Row(
            inputs={"question": question, "context": context},
            outputs=response,
            expectations=around.expectations.get(name),
        )
        for name, question, context, response in columns
    ]


def _hold(spec: ScorerSpec, found: Mapping[str, Sequence[Score]]) -> list[Check]:
    if spec.threshold is None:
        return []
    return [
        hold_scores(summarise_scores(name, scores), spec.threshold, highest=spec.highest)
        for name, scores in found.items()
    ]


def _always(states: Mapping[str, States], complaints: NDArray[np.bool_] | None, n: int) -> NDArray[np.bool_]:
    always = np.zeros(n, dtype=np.bool_) if complaints is None else complaints.copy()
    for name in ALWAYS_JUDGED:
        always |= states[name] == Found.FAIL
    return always


def _judge(
    plan: JudgePlan, table: pa.Table, answers: Answers, always: NDArray[np.bool_], around: Surroundings
) -> tuple[list[Score], Judged]:
    spec, ids = plan.judge, table["interaction_id"].to_pylist()
    kinds = [table[name].to_pylist() for name in ("route", "language") if name in table.column_names]
    strata = list(zip(*kinds, strict=True)) if kinds else [()] * len(ids)
    sample = draw_sample(ids, strata, always, plan.sample, around.seed)
    order = order_sample(ids, sample, around.seed)
    scores = [Score(name=spec.name, state=State.NOT_RUN, reason="not in the sample")] * len(ids)
    limits = Limits(workers=plan.workers, retries=plan.retries, timeout_s=spec.endpoint.timeout_s * 1.5)
    with Client(spec.endpoint, around.environment) as client:
        budget = Budget(plan.budget, around.rates.get(spec.name, ()))
        judge = Judge(spec=spec, client=client, budget=budget, limits=limits, cache=around.cache)
        # The anchors first: without them the rest of the budget would buy scores that decide nothing.
        anchors = None if plan.anchors is None else check_judge(judge, plan.anchors, around.seed)
        for at, score in zip(order, judge_answers(judge, [_material(answers, at) for at in order]), strict=True):
            scores[at] = score
    values = values_of(scores)
    known = ~np.isnan(values)
    mean = estimate_mean(values, weights=sample.weigh(known)) if known.any() else None
    return scores, Judged(
        mean=mean, missing=sample.missing(known), spent=budget.spent, models=judge.served.models, anchors=anchors
    )


def _material(answers: Answers, at: int) -> Material:
    return Material(question=answers.questions[at], response=answers.responses[at], context=answers.contexts[at])


def _hold_judge(plan: JudgePlan, scores: Sequence[Score], judged: Judged) -> list[Check]:
    changed = judged.anchors is not None and judged.anchors.state is not JudgeState.SAME
    checks = [judged.anchors.check] if judged.anchors is not None else []
    if plan.threshold is None or changed:
        return checks
    check = hold_interval(summarise_scores(plan.judge.name, scores), judged.mean, plan.threshold)
    unpaid = [score.reason for score in scores if score.state is State.NOT_RUN and "budget" in (score.reason or "")]
    if unpaid:
        check = replace(check, statement=f"{check.statement}; {len(unpaid)} were not judged: {unpaid[0]}")
    return [*checks, check]
