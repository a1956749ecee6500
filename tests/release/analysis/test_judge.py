"""The judgement: the order of the questions, and what each of them says."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.errors import InputError
from tasks.monitors.verdict import Outcome
from tasks.release.analysis.eprocess import BETS, EProcess
from tasks.release.analysis.judge import Approval, Decision, Ground, Situation, judge
from tasks.release.analysis.limits import LimitEvidence
from tasks.release.analysis.measure import Comparison, RampEvidence
from tasks.release.analysis.metrics import default_metrics
from tasks.release.analysis.policy import AtTimeout, Move, RampRules, next_move
from tasks.release.analysis.ratio import SampleRatio

START = datetime(2026, 3, 1, tzinfo=UTC)
METRICS = default_metrics(latency_limit_ms=1000, stable_cost_pusd=1.0)
RULES = RampRules(metrics=METRICS, errors=0.05, latency_ms=1000)
LAST, EARLY = Situation(), Situation(needs_noninferiority=False)
ALIKE = SampleRatio().observe(0.5, 500, 500)


def e(value: float, peak: float | None = None) -> EProcess:
    return EProcess(log_wealth=(math.log(value),) * len(BETS), log_peak=math.log(peak or value), n=1240)


def limit(name: str = "errors", value: float = 0.01, low: float = 0.0, n: int = 900) -> LimitEvidence:
    return LimitEvidence(name=name, words="failed calls", value=value, low=low, limit=0.05, n_calls=n, n_users=n)


def comparison(at: int = 0, *, harm: EProcess | None = None, same: EProcess | None = None, n: int = 1240) -> Comparison:
    return Comparison(
        metric=METRICS[at],
        candidate=0.119 if n else math.nan,
        stable=0.097 if n else math.nan,
        n_candidate=n,
        n_stable=n,
        harm=harm or e(0.5, 1.0),
        noninferiority=same or e(33.0),
    )


FINE = RampEvidence(
    application="faq",
    release_digest="c",
    window_start=START,
    window_end=START + timedelta(hours=1),
    limits=(limit(), limit("latency")),
    ratio=ALIKE,
    comparisons=tuple(comparison(at) for at in range(len(METRICS))),
)
BROKEN = (limit(value=0.15, low=0.1), limit("latency"))
DOUBTFUL = (limit(value=0.06, low=0.02), limit("latency"))
MISSHARED = SampleRatio().observe(0.5, 100, 300)
HARMED = (comparison(harm=e(412.0)), *FINE.comparisons[1:])
FEW = tuple(comparison(at, n=12) for at in range(len(METRICS)))
UNSURE = (comparison(same=e(3.0)), *FINE.comparisons[1:])


def decide(situation: Situation = LAST, rules: RampRules = RULES, **changed: object) -> Decision:
    return judge(replace(FINE, **changed), rules, situation)


def said(situation: Situation = LAST, **changed: object) -> tuple[Outcome, Ground, str]:
    decision = decide(situation, **changed)
    return decision.verdict.outcome, decision.ground, decision.verdict.reason


def test_harm_is_an_inequality_in_words() -> None:
    expected = "success 88.1 % vs 90.3 %: e-value 412 >= 160 (harm, n=1240 vs 1240)"
    assert said(comparisons=HARMED) == (Outcome.FAIL, Ground.HARM, expected)


def test_everything_in_order_passes_and_says_why() -> None:
    decision = decide(Situation(approval=Approval.GIVEN))
    assert (decision.verdict.outcome, decision.ground) == (Outcome.PASS, Ground.ALL_PASSED)
    statements = [check.statement for check in decision.verdict.checks]
    assert statements[0] == "failed calls 1 % <= limit 5 % (n=900 calls of 900 users)"
    assert statements[2].startswith("users of the candidate 50 % vs 50 % planned: e-value 1 < 100 (as planned")
    assert statements[3] == "success 88.1 % vs 90.3 %: e-value 1 < 160 (no harm shown, n=1240 vs 1240)"
    assert statements[9] == "success 88.1 % vs 90.3 %: e-value 33 >= 20 (not worse by 3 points, n=1240 vs 1240)"
    assert statements[-1] == "approval given"
    assert len(statements) == 2 + 1 + 6 + 6 + 1


def test_the_order_of_the_questions() -> None:
    wrong = {"limits": BROKEN, "ratio": MISSHARED, "comparisons": HARMED}
    assert said(Situation(abort_reason="ann"), **wrong) == (Outcome.FAIL, Ground.ABORT, "abort requested: ann")
    assert said(**wrong)[:2] == (Outcome.FAIL, Ground.LIMITS)
    wrong["limits"] = FINE.limits
    assert said(**wrong)[:2] == (Outcome.ERROR, Ground.RATIO)
    wrong["ratio"] = ALIKE
    assert said(**wrong)[:2] == (Outcome.FAIL, Ground.HARM)
    assert said(comparisons=FEW)[:2] == (Outcome.INCONCLUSIVE, Ground.DATA)
    assert said(comparisons=UNSURE)[:2] == (Outcome.INCONCLUSIVE, Ground.NONINFERIORITY)
    assert said(Situation(approval=Approval.PENDING))[:2] == (Outcome.INCONCLUSIVE, Ground.APPROVAL)


def test_nothing_is_compared_where_users_are_not_shared_out_as_planned() -> None:
    decision = decide(ratio=MISSHARED, comparisons=HARMED)
    assert [check.monitor for check in decision.verdict.checks] == ["errors", "latency", "ratio"]
    assert "users of the candidate 25 % vs 50 % planned: e-value" in decision.verdict.reason
    assert ">= 100 (mis-shared, n=400)" in decision.verdict.reason


def test_a_breach_is_seen_while_somebody_is_waited_for() -> None:
    assert said(Situation(approval=Approval.PENDING), comparisons=HARMED)[1] is Ground.HARM
    assert said(Situation(approval=Approval.PENDING), limits=BROKEN)[1] is Ground.LIMITS


def test_approval_is_not_asked_for_before_the_rest_is_sure() -> None:
    decision = decide(Situation(approval=Approval.PENDING), comparisons=UNSURE)
    assert "approval" not in [check.monitor for check in decision.verdict.checks]


def test_an_early_step_needs_no_harm_and_enough_data_only() -> None:
    assert said(EARLY, comparisons=UNSURE)[:2] == (Outcome.PASS, Ground.ALL_PASSED)
    assert said(EARLY, comparisons=FEW)[1] is Ground.DATA
    assert said(EARLY, comparisons=HARMED)[1] is Ground.HARM


def test_a_limit_in_doubt_is_a_lack_of_data_and_no_breach() -> None:
    expected = "failed calls 6 % > limit 5 %, but chance allows 2 % (n=900 calls of 900 users)"
    assert said(limits=DOUBTFUL) == (Outcome.INCONCLUSIVE, Ground.DATA, expected)


def test_too_few_calls_are_no_breach_and_no_pass() -> None:
    outcome, ground, reason = said(limits=(limit(value=1.0, low=0.9, n=29), limit("latency")))
    assert (outcome, ground) == (Outcome.INCONCLUSIVE, Ground.DATA)
    assert reason == "failed calls: 29 calls < minimum 30 (n=29 calls of 29 users)"


def test_no_data_is_never_a_pass() -> None:
    nothing = tuple(comparison(at, n=0, same=e(1)) for at in range(len(METRICS)))
    empty = (limit(value=math.nan, low=math.nan, n=0), limit("latency", value=math.nan, low=math.nan, n=0))
    decision = decide(EARLY, limits=empty, ratio=SampleRatio(), comparisons=nothing)
    assert (decision.verdict.outcome, decision.ground) == (Outcome.INCONCLUSIVE, Ground.DATA)
    assert all(check.value is None or math.isfinite(check.value) for check in decision.verdict.checks)


def test_harm_once_shown_counts_and_non_inferiority_once_shown_does_not() -> None:
    assert said(comparisons=(comparison(harm=e(2.0, 200.0)), *FINE.comparisons[1:]))[1] is Ground.HARM
    faded = comparison(same=e(2.0, 200.0))
    assert said(comparisons=(faded, *FINE.comparisons[1:]))[1] is Ground.NONINFERIORITY


def test_the_thresholds_are_met_exactly() -> None:
    assert said(comparisons=(comparison(harm=e(159.9)), *FINE.comparisons[1:]))[1] is not Ground.HARM
    assert said(comparisons=(comparison(harm=e(160.1)), *FINE.comparisons[1:]))[1] is Ground.HARM
    assert said(comparisons=(comparison(same=e(19.9)), *FINE.comparisons[1:]))[1] is Ground.NONINFERIORITY


def test_huge_evidence_is_still_written() -> None:
    huge = EProcess(log_wealth=(900.0,) * len(BETS), log_peak=900.0, n=1)
    assert "e-value e900 >= 160" in said(comparisons=(comparison(harm=huge), *FINE.comparisons[1:]))[2]


def test_the_budget_is_shared_by_all_that_can_roll_back() -> None:
    assert RULES.check_alpha * (len(METRICS) + 2) == pytest.approx(RULES.alpha)


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": ()},
        {"metrics": (METRICS[0], METRICS[0])},
        {"alpha": 0},
        {"ratio_alpha": 1},
        {"noninferiority_alpha": -1},
        {"errors": 0},
        {"latency_ms": 0},
        {"min_units": 0},
        {"min_requests": 0},
    ],
)
def test_rules_that_make_no_sense_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replace(RULES, **changed)


@pytest.mark.parametrize(
    ("outcome", "elapsed_s", "at_timeout", "left", "move"),
    [
        (Outcome.FAIL, 0, AtTimeout.HOLD, 0, Move.ROLL_BACK),
        (Outcome.PASS, 9, AtTimeout.HOLD, 0, Move.WAIT),
        (Outcome.PASS, 10, AtTimeout.HOLD, 0, Move.ADVANCE),
        (Outcome.PASS, 999, AtTimeout.REVERT, 0, Move.ADVANCE),
        (Outcome.INCONCLUSIVE, 59.9, AtTimeout.REVERT, 0, Move.WAIT),
        (Outcome.INCONCLUSIVE, 60, AtTimeout.HOLD, 0, Move.HOLD),
        (Outcome.INCONCLUSIVE, 60, AtTimeout.REVERT, 0, Move.ROLL_BACK),
        (Outcome.INCONCLUSIVE, 60, AtTimeout.ASK, 0, Move.ASK),
        (Outcome.INCONCLUSIVE, 60, AtTimeout.EXTEND, 1, Move.EXTEND),
        (Outcome.INCONCLUSIVE, 60, AtTimeout.EXTEND, 0, Move.HOLD),
        (Outcome.ERROR, 59.9, AtTimeout.REVERT, 0, Move.WAIT),
        (Outcome.ERROR, 60, AtTimeout.REVERT, 0, Move.HOLD),
        (Outcome.ERROR, 60, AtTimeout.EXTEND, 1, Move.HOLD),
    ],
)
def test_what_follows(outcome: Outcome, elapsed_s: float, at_timeout: AtTimeout, left: int, move: Move) -> None:
    times = {"elapsed_s": elapsed_s, "min_step_s": 10, "max_step_s": 60}
    assert next_move(outcome, **times, at_timeout=at_timeout, extensions_left=left) is move


def test_inconclusive_holds_by_default() -> None:
    assert next_move(Outcome.INCONCLUSIVE, elapsed_s=60, min_step_s=0, max_step_s=60) is Move.HOLD
