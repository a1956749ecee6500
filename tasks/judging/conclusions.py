"""What a judgement means for a release: a check, a line of the report, rows of the lake; whether the judge moved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from tasks.evaluation.evidence import Estimate, Evidence, Shown
from tasks.judging.agreement import Interval
from tasks.judging.anchors import JudgeState
from tasks.judging.night import Judgement, ReleaseScores
from tasks.judging.plan import JudgePlan
from tasks.monitors.verdict import Check, Outcome
from tasks.scoring.pool import State
from tasks.scoring.reading import Score, hold_interval, summarise_scores

JUDGEMENTS: Final = "judgements"
JUDGES: Final = "judges"
_UTC: Final = pa.timestamp("us", tz="UTC")
_KEYS: Final = [
    pa.field("application", pa.string(), nullable=False),
    pa.field("window", pa.string(), nullable=False),
    pa.field("judge", pa.string(), nullable=False),
    pa.field("judge_digest", pa.string(), nullable=False),
    pa.field("release_digest", pa.string(), nullable=False),
]
JUDGEMENTS_SCHEMA: Final = pa.schema(
    [
        *_KEYS,
        pa.field("interaction_id", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("reason", pa.string()),
    ]
)
"""One row for each answer of a judge's sample; ``reason`` says why there is no value, and repeats no text."""
JUDGES_SCHEMA: Final = pa.schema(
    [
        *_KEYS,
        pa.field("window_end", _UTC, nullable=False),
        pa.field("served", pa.string(), nullable=False),
        pa.field("mean", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("answers", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64()),
        pa.field("usd", pa.float64()),
        pa.field("anchors", pa.string()),
        pa.field("anchor_shift", pa.float64()),
        pa.field("problem", pa.string()),
    ]
)
"""One row for each judge, window and release; ``served`` is JSON: which models answered, and how often. ``tokens`` and
``usd`` are those of the application's whole window, NULL where unknown."""
VALID: Final = "As far as the judge agrees with people; it is a model, and what it scores is its rubric."


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the same judge came to in the last window before.

    Attributes:
        served: The models that answered.
        means: Its mean of each release, by digest.
        window: The window's label.
    """

    served: frozenset[str]
    means: Mapping[str, float]
    window: str


def conclude(
    plan: JudgePlan, judgement: Judgement, digest: str, before: Before | None, agreement: str | None
) -> tuple[tuple[Check, ...], Shown]:
    """Return what a judgement means for a release.

    Args:
        plan: With the threshold, if there is one.
        judgement: What the judge came to.
        digest: The release.
        before: The last window of the same judge; None: there is none.
        agreement: What is known of its agreement with people, in words; None: nothing.

    Returns:
        Its check, where it has a threshold or has no score though it was asked, and the line of the report.
    """
    name = f"judge:{plan.judge.name}"
    if judgement.problem:
        statement = f"{plan.judge.name} was not asked: {judgement.problem}"
        check = Check(monitor=name, outcome=Outcome.ERROR, statement=statement, value=None, limit=plan.threshold, n=0)
        return (check,), Shown(name=name, statement=statement, valid=VALID)
    found = judgement.releases[digest]
    checks = _checks(plan, judgement, found)
    parts = [
        _mean_words(found),
        *_not_judged(found.scores),
        *_moved(judgement, digest, before),
        _identity(plan, judgement, before),
        _cost(judgement),
        "no anchors: nobody would notice that it changed" if judgement.anchors is None else _anchors(judgement),
        f"agreement with people: {agreement}" if agreement else "agreement with people: not measured",
    ]
    return checks, Shown(name=name, statement="; ".join(parts), valid=VALID)


def add_to(evidence: Evidence, name: str, checks: Sequence[Check], shown: Shown, mean: Interval | None) -> Evidence:
    """Return the evidence with what a judge says."""
    means = dict(evidence.shown_means)
    if mean is not None:
        means[f"judge:{name}"] = Estimate(value=mean.value, low=mean.low, high=mean.high, n=mean.n)
    return replace(
        evidence,
        scorer_checks=(*evidence.scorer_checks, *checks),
        shown=(*evidence.shown, shown),
        shown_means=means,
    )


def find_before(rows: pa.Table | None, judge_digest: str, until: datetime) -> Before | None:
    """Return what a judge came to in the last window that ended by a time; None: there is none."""
    each = [] if rows is None else rows.to_pylist()
    mine = [row for row in each if row["judge_digest"] == judge_digest and row["window_end"] <= until and row["n"]]
    if not mine:
        return None
    last = max(mine, key=lambda row: (row["window_end"], row["window"]))["window"]
    rows_of_last = [row for row in mine if row["window"] == last]
    served = {name for row in rows_of_last for name in json.loads(row["served"])}
    means = {row["release_digest"]: row["mean"] for row in rows_of_last if row["mean"] is not None}
    return Before(served=frozenset(served), means=means, window=last)


def judgement_rows(keys: Mapping[str, str], judgement: Judgement) -> pa.Table:
    """Return the scores of a judge's sample as rows of ``JUDGEMENTS_SCHEMA``."""
    rows = [
        {
            **keys,
            "release_digest": digest,
            "interaction_id": name,
            "state": score.state.value,
            "value": score.value,
            "reason": score.reason,
        }
        for digest, found in judgement.releases.items()
        for name, score in zip(found.ids, found.scores, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=JUDGEMENTS_SCHEMA)


def judge_rows(keys: Mapping[str, str], window_end: datetime, judgement: Judgement) -> pa.Table:
    """Return what a judge came to as rows of ``JUDGES_SCHEMA``."""
    spent, anchors = judgement.spent, judgement.anchors
    same: dict[str, Any] = {
        **keys,
        "window_end": window_end,
        "served": json.dumps(dict(judgement.models), sort_keys=True),
        "tokens": spent and spent.tokens,
        "usd": spent and spent.usd,
        "anchors": anchors and anchors.state.value,
        "anchor_shift": anchors and anchors.shift,
        "problem": judgement.problem or None,
    }
    rows = [
        {
            **same,
            "release_digest": digest,
            "mean": found.mean and found.mean.value,
            "low": found.mean and found.mean.low,
            "high": found.mean and found.mean.high,
            "n": found.mean.n if found.mean else 0,
            "answers": found.of,
        }
        for digest, found in judgement.releases.items()
    ]
    return pa.Table.from_pylist(rows, schema=JUDGES_SCHEMA)


def _checks(plan: JudgePlan, judgement: Judgement, found: ReleaseScores) -> tuple[Check, ...]:
    anchors = judgement.anchors
    if anchors is not None and anchors.state is not JudgeState.SAME:
        return (replace(anchors.check, statement=f"{anchors.statement}; what it says decides nothing"),)
    if not found.of:
        return ()
    name = plan.judge.name
    check = hold_interval(f"judge:{name}", summarise_scores(name, found.scores), found.mean, plan.threshold or 0.0)
    if found.mean is None:
        why = next((score.reason for score in found.scores if score.reason), "it was not asked")
        statement = f"{name}: none of {len(found.scores)} answers has a score: {why}"
        check = replace(check, outcome=Outcome.ERROR, statement=statement)
    lost = _not_judged(found.scores)
    check = replace(check, statement="; ".join([check.statement, *lost])) if lost and found.mean else check
    return (check,) if plan.threshold is not None or check.outcome is Outcome.ERROR else ()


def _mean_words(found: ReleaseScores) -> str:
    asked = f"{len(found.scores)} of {found.of} answers in its sample"
    if found.mean is None:
        return f"no score; {asked}"
    lost = f", which does not speak of {found.missing:.1%} of them" if found.missing else ""
    mean = found.mean
    return f"mean {mean.value:.4g} [{mean.low:.4g}, {mean.high:.4g}] of all answers{lost} (n={mean.n}); {asked}"


def _not_judged(scores: Sequence[Score]) -> list[str]:
    """Return how many of the sample have an error, and how many were not run, each with the commonest reason."""
    words = []
    for state, verb in ((State.ERROR, "failed"), (State.NOT_RUN, "were not judged")):
        reasons = [score.reason or "no reason" for score in scores if score.state is state]
        if reasons:
            words.append(f"{len(reasons)} {verb}: {max(sorted(set(reasons)), key=reasons.count)}")
    return words


def _moved(judgement: Judgement, digest: str, before: Before | None) -> list[str]:
    """Return whose move it is where the judge changed: that of the anchors is the judge's, the rest the answers'."""
    anchors, found = judgement.anchors, judgement.releases[digest]
    if anchors is None or anchors.state is not JudgeState.CHANGED or anchors.shift is None:
        return []
    old = before.means.get(digest) if before else None
    if old is None or before is None or found.mean is None:
        return [f"of any move of its mean {anchors.shift:+.3f} is the judge's own, by its anchors"]
    moved = found.mean.value - old
    rest = f"{anchors.shift:+.3f} is the judge's own, by its anchors, and {moved - anchors.shift:+.3f} the answers'"
    return [f"since {before.window} its mean moved by {moved:+.3f}: {rest}"]


def _identity(plan: JudgePlan, judgement: Judgement, before: Before | None) -> str:
    now = ", ".join(sorted(judgement.models)) or "nobody"
    words = f"judge {plan.judge.digest[:12]}, answered as {now}"
    new = sorted(set(judgement.models) - before.served) if before else []
    if before and new:
        words += f"; ANOTHER MODEL than in {before.window}, which was {', '.join(sorted(before.served))}"
    return words


def _cost(judgement: Judgement) -> str:
    spent = judgement.spent
    if spent is None:
        return "nothing spent"
    usd = "USD unknown, its model has no price" if spent.usd is None else f"{spent.usd:.4g} USD"
    return f"{spent.calls} calls, {spent.tokens} tokens, {usd} in this window"


def _anchors(judgement: Judgement) -> str:
    return judgement.anchors.statement if judgement.anchors else ""
