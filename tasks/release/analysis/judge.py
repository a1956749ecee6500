"""The judgement of one look, in the order that things matter: abort, limits, sample ratio, harm, data, non-inferiority,
approval.

What can be wrong is asked before what is not known yet, and approval comes last, so a breach is seen while somebody is
waited for. Where users are not shared out as planned nothing can be compared: that is an error, and only the abort and
the fixed limits still speak.
"""  # noqa: D205 - the order is the summary

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.analysis.limits import LimitEvidence
from tasks.release.analysis.measure import Comparison, RampEvidence
from tasks.release.analysis.policy import RampRules
from tasks.release.analysis.ratio import is_mismatch

_LARGEST_LOG: Final = 690.0


class Ground(StrEnum):
    """What decided."""

    ABORT = "abort"
    LIMITS = "limits"
    RATIO = "ratio"
    HARM = "harm"
    DATA = "data"
    NONINFERIORITY = "noninferiority"
    APPROVAL = "approval"
    ALL_PASSED = "all passed"


class Approval(StrEnum):
    """Whether a person must agree, and did."""

    NOT_NEEDED = "not needed"
    PENDING = "pending"
    GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What people want at the moment of a look.

    Attributes:
        abort_reason: Why somebody asked to abort; None where nobody did.
        needs_noninferiority: Whether this step may end only when the candidate is shown to be not worse; the last
            one before all users at least. Earlier steps need no harm and enough data.
        approval: Of the step.
    """

    abort_reason: str | None = None
    needs_noninferiority: bool = True
    approval: Approval = Approval.NOT_NEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a look came to: the verdict, and which of the questions decided it."""

    verdict: Verdict
    ground: Ground


def judge(evidence: RampEvidence, rules: RampRules, situation: Situation) -> Decision:
    """Judge one look.

    Args:
        evidence: What the log says.
        rules: The same it was measured by.
        situation: What people want.

    Returns:
        The checks that were made, in order, and the question that decided. The questions after a failure of the
        limits are still answered; those after an abort or a mismatch of the sample ratio are not.
    """
    if situation.abort_reason is not None:
        statement = f"abort requested: {situation.abort_reason}"
        return _decide(evidence, [(Ground.ABORT, _check("abort", Outcome.FAIL, statement))])
    asked = [(Ground.LIMITS, _hold(limit, rules)) for limit in evidence.limits]
    asked.append((Ground.RATIO, _share(evidence, rules)))
    if asked[-1][1].outcome is Outcome.PASS:
        asked += [(Ground.HARM, _harm(item, rules)) for item in evidence.comparisons]
        asked += [(Ground.DATA, check) for check in _missing_data(evidence, rules)]
        if situation.needs_noninferiority and not _is_open(asked):
            asked += [(Ground.NONINFERIORITY, _noninferior(item, rules)) for item in evidence.comparisons]
        if situation.approval is not Approval.NOT_NEEDED and not _is_open(asked):
            asked.append((Ground.APPROVAL, _approve(situation.approval)))
    return _decide(evidence, asked)


def _decide(evidence: RampEvidence, asked: list[tuple[Ground, Check]]) -> Decision:
    verdict = Verdict(
        application=evidence.application,
        release_digest=evidence.release_digest,
        window_start=evidence.window_start,
        window_end=evidence.window_end,
        checks=tuple(check for _, check in asked),
    )
    # The first of the gravest: a limit that is only in doubt is a lack of data, not a breach.
    ground, check = next((g, c) for g, c in asked if c.outcome is verdict.outcome)
    if check.outcome is Outcome.PASS:
        ground = Ground.ALL_PASSED
    elif check.outcome is Outcome.INCONCLUSIVE and ground is Ground.LIMITS:
        ground = Ground.DATA
    return Decision(verdict=verdict, ground=ground)


def _is_open(asked: Iterable[tuple[Ground, Check]]) -> bool:
    return any(check.outcome is not Outcome.PASS for _, check in asked)


def _hold(limit: LimitEvidence, rules: RampRules) -> Check:
    size = f"n={limit.n_calls} calls of {limit.n_users} users"
    if limit.n_calls < rules.min_requests:
        statement = f"{limit.words}: {limit.n_calls} calls < minimum {rules.min_requests} ({size})"
        value = None if math.isnan(limit.value) else limit.value
        return _check(limit.name, Outcome.INCONCLUSIVE, statement, value, limit.limit, n=limit.n_calls)
    within, beyond = limit.value <= limit.limit, limit.low > limit.limit
    outcome = Outcome.PASS if within else Outcome.FAIL if beyond else Outcome.INCONCLUSIVE
    doubt = f", but chance allows {_percent(max(limit.low, 0))}" if outcome is Outcome.INCONCLUSIVE else ""
    sign = "<=" if within else ">"
    statement = f"{limit.words} {_percent(limit.value)} {sign} limit {_percent(limit.limit)}{doubt} ({size})"
    return _check(limit.name, outcome, statement, limit.value, limit.limit, n=limit.n_calls)


def _share(evidence: RampEvidence, rules: RampRules) -> Check:
    ratio = evidence.ratio
    n = ratio.n_candidate + ratio.n_stable
    mismatch = is_mismatch(ratio, rules.ratio_alpha)
    planned, seen = (count / n if n else 0.0 for count in (ratio.expected_candidate, ratio.n_candidate))
    statement = (
        f"users of the candidate {_percent(seen)} vs {_percent(planned)} planned: "
        f"{_against(ratio.log_peak, rules.ratio_alpha)} ({'mis-shared' if mismatch else 'as planned'}, n={n})"
    )
    outcome = Outcome.ERROR if mismatch else Outcome.PASS
    return _check("ratio", outcome, statement, seen, planned, n=n)


def _harm(item: Comparison, rules: RampRules) -> Check:
    # The peak: evidence once shown counts, also where nobody looked at that moment.
    found = item.harm.log_peak >= -math.log(rules.check_alpha)
    what = "harm" if found else "no harm shown"
    statement = f"{_versus(item)}: {_against(item.harm.log_peak, rules.check_alpha)} ({what}, {_sizes(item)})"
    value, limit = _shown(item)
    outcome = Outcome.FAIL if found else Outcome.PASS
    return _check(item.metric.name, outcome, statement, value, limit, n=item.n_candidate)


def _missing_data(evidence: RampEvidence, rules: RampRules) -> list[Check]:
    few = [item for item in evidence.comparisons if min(item.n_candidate, item.n_stable) < rules.min_units]
    return [
        _check(
            item.metric.name,
            Outcome.INCONCLUSIVE,
            f"{item.metric.words}: {min(item.n_candidate, item.n_stable)} users < minimum {rules.min_units} "
            f"({_sizes(item)})",
            *_shown(item),
            n=item.n_candidate,
        )
        for item in few
    ]


def _noninferior(item: Comparison, rules: RampRules) -> Check:
    # The value now, not the peak: a candidate that was fine once and got worse since is not let through.
    alpha, metric = rules.noninferiority_alpha, item.metric
    shown = item.noninferiority.log_e >= -math.log(alpha)
    what = f"{'not worse' if shown else 'may be worse'} by {_points(metric.margin)}"
    statement = f"{_versus(item)}: {_against(item.noninferiority.log_e, alpha)} ({what}, {_sizes(item)})"
    limit = metric.shown(item.stable + metric.margin)
    outcome = Outcome.PASS if shown else Outcome.INCONCLUSIVE
    return _check(metric.name, outcome, statement, metric.shown(item.candidate), limit, n=item.n_candidate)


def _approve(approval: Approval) -> Check:
    given = approval is Approval.GIVEN
    outcome = Outcome.PASS if given else Outcome.INCONCLUSIVE
    return _check("approval", outcome, f"approval {'given' if given else 'not given yet'}")


def _versus(item: Comparison) -> str:
    if not item.n_candidate:
        return f"{item.metric.words} unknown"
    shown = item.metric.shown
    return f"{item.metric.words} {_percent(shown(item.candidate))} vs {_percent(shown(item.stable))}"


def _shown(item: Comparison) -> tuple[float | None, float | None]:
    if not item.n_candidate:
        return None, None
    return item.metric.shown(item.candidate), item.metric.shown(item.stable)


def _sizes(item: Comparison) -> str:
    return f"n={item.n_candidate} vs {item.n_stable}"


def _against(log_e: float, alpha: float) -> str:
    sign = ">=" if log_e >= -math.log(alpha) else "<"
    shown = f"{math.exp(log_e):.3g}" if log_e < _LARGEST_LOG else f"e{log_e:.0f}"
    return f"e-value {shown} {sign} {1 / alpha:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _points(margin: float) -> str:
    return f"{100 * margin:.3g} points"


def _check(monitor: str, outcome: Outcome, statement: str, *measured: float | None, n: int = 0) -> Check:
    value, limit = measured or (None, None)
    return Check(monitor=monitor, outcome=outcome, statement=statement, value=value, limit=limit, n=n)
