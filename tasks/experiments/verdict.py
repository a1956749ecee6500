"""What an experiment comes to: the verdict of each arm, and who gets the users then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.evaluation.summary import release_calls
from tasks.experiments.design import OnEnd, time_words
from tasks.experiments.experiment import SHARED_ALPHA, ArmEffect, Finding, shared_p_value
from tasks.experiments.life import Decided, ExperimentRecord
from tasks.experiments.report import effect_line, experiment_markdown
from tasks.experiments.users import apart, user_means
from tasks.monitors.verdict import Check, Outcome, Verdict

_OUTCOMES = {
    Finding.BETTER: Outcome.PASS,
    Finding.SAME: Outcome.PASS,
    Finding.WORSE: Outcome.FAIL,
    Finding.OPEN: Outcome.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Whom the report rests on.

    Attributes:
        users: Users of each arm that met no other.
        p_value: The chance of sharing at least this uneven, if users were shared out as planned.
        is_reached: Whether every arm had as many users as were waited for.
        start, end: The window, UTC, half-open.
    """

    users: Mapping[str, int]
    p_value: float
    is_reached: bool
    start: datetime
    end: datetime

    @property
    def is_sound(self) -> bool:
        """Whether a winner may be taken from it."""
        return self.is_reached and self.p_value >= SHARED_ALPHA


def sampled(
    record: ExperimentRecord, calls_by_arm: Mapping[str, pa.Table], start: datetime, end: datetime, *, is_reached: bool
) -> Sampled:
    """Return whom the report rests on."""
    calls = apart({arm: release_calls(table) for arm, table in calls_by_arm.items()})
    users = {arm: len(user_means(table["unit"], np.zeros(len(table)))) for arm, table in calls.items()}
    p_value = shared_p_value(record.experiment, users)
    return Sampled(users=users, p_value=p_value, is_reached=is_reached, start=start, end=end)


def arm_verdict(record: ExperimentRecord, arm: str, effects: Sequence[ArmEffect], sample: Sampled) -> Verdict:
    """Return the verdict of one arm: how users were shared out, whether they are enough, then every metric."""
    checks = [_check_shared(sample), _check_sample(record, sample)]
    checks += [_check_effect(effect) for effect in effects if effect.arm == arm]
    return Verdict(
        application=record.application,
        release_digest=arm,
        window_start=sample.start,
        window_end=sample.end,
        checks=tuple(checks),
    )


def decide(
    record: ExperimentRecord, effects: Sequence[ArmEffect], sample: Sampled, labels: Mapping[str, str]
) -> Decided:
    """Return what the experiment comes to.

    Args:
        record: The experiment.
        effects: As ``experiment.report`` returns them.
        sample: Whom they rest on.
        labels: Digest and name for people.
    """
    best = winner_of(record, effects) if sample.is_sound else None
    won = best if record.design.on_end is OnEnd.WINNER else None
    verdicts = [arm_verdict(record, arm, effects, sample) for arm in record.treatments]
    message = "; ".join(_sentence(record, arm, effects, labels[arm], sample) for arm in record.treatments)
    end = f"{labels[won]} wins" if won else _end_words(record, labels)
    lines = [
        experiment_markdown(record.experiment, effects, labels),
        "",
        "## What it rests on",
        "",
        f"From {sample.start:%Y-%m-%d %H:%M:%S} to {sample.end:%Y-%m-%d %H:%M:%S} UTC.",
        *(f"- {check.statement} ({check.outcome.value})" for check in verdicts[0].checks[:2]),
        "- a user is whoever the data path drew the bucket from; who met two arms is left out",
        "",
        f"Then: {end}.",
    ]
    return Decided(
        ending="Concluded" if sample.is_sound else "Inconclusive",
        winner=won,
        message=f"{message}; then {end}",
        document=_document(record, effects, sample, best),
        markdown="\n".join(lines),
    )


def as_nightly(verdict: Verdict) -> Verdict:
    """Return a verdict by the monitors of a night: what the data path saw are errors, so a good night clears them."""
    checks = (
        replace(check, monitor="errors" if check.monitor == "routed" else check.monitor) for check in verdict.checks
    )
    return replace(verdict, checks=tuple(checks))


def winner_of(record: ExperimentRecord, effects: Sequence[ArmEffect]) -> str | None:
    """Return the arm that is better in the primary metric and worse in none; of several, the one with the most."""
    worse = {effect.arm for effect in effects if effect.finding is Finding.WORSE}
    better = [
        effect
        for effect in effects
        if effect.outcome.name == record.design.primary and effect.finding is Finding.BETTER and effect.arm not in worse
    ]
    return max(better, key=lambda effect: abs(effect.effect)).arm if better else None


def _end_words(record: ExperimentRecord, labels: Mapping[str, str]) -> str:
    if record.design.on_end is OnEnd.KEEP:
        longest, stop = time_words(record.design.keep_s), f"delivery experiment stop {record.application}"
        return f"the arms keep their users, guarded, for {longest} or until: {stop}"
    return f"{labels[record.control]} has every user again"


def _sentence(record: ExperimentRecord, arm: str, effects: Sequence[ArmEffect], label: str, sample: Sampled) -> str:
    if not sample.is_sound:
        doubtful = (_check_shared(sample), _check_sample(record, sample))
        return f"{label}: " + "; ".join(c.statement for c in doubtful if c.outcome is not Outcome.PASS)
    named = {
        finding: [effect.outcome.name for effect in effects if effect.arm == arm and effect.finding is finding]
        for finding in Finding
    }
    return f"{label}: " + "; ".join(f"{finding} in {', '.join(names)}" for finding, names in named.items() if names)


def _check_shared(sample: Sampled) -> Check:
    seen = " : ".join(str(count) for count in sample.users.values())
    is_planned = sample.p_value >= SHARED_ALPHA
    words = "users are shared out as planned" if is_planned else "users are not shared out as planned"
    return Check(
        monitor="ratio",
        outcome=Outcome.PASS if is_planned else Outcome.ERROR,
        statement=f"{words}: {seen}, p {sample.p_value:.2g} {'>=' if is_planned else '<'} {SHARED_ALPHA:g}",
        value=sample.p_value,
        limit=SHARED_ALPHA,
        n=sum(sample.users.values()),
    )


def _check_sample(record: ExperimentRecord, sample: Sampled) -> Check:
    least = min(sample.users.values())
    words = ">=" if sample.is_reached else "< the sample of"
    return Check(
        monitor="sample",
        outcome=Outcome.PASS if sample.is_reached else Outcome.INCONCLUSIVE,
        statement=f"users of the smallest arm {least} {words} {record.users_per_arm}",
        value=float(least),
        limit=float(record.users_per_arm),
        n=sum(sample.users.values()),
    )


def _check_effect(effect: ArmEffect) -> Check:
    return Check(
        monitor=effect.outcome.name,
        outcome=_OUTCOMES[effect.finding],
        statement=effect_line(effect),
        value=_number(effect.effect),
        limit=effect.outcome.matters_from,
        n=effect.n_control + effect.n_arm,
    )


def _document(
    record: ExperimentRecord, effects: Sequence[ArmEffect], sample: Sampled, best: str | None
) -> dict[str, Any]:
    numbers = ("control", "value", "effect", "low", "high", "p_value", "p_holm")
    return {
        "experiment": record.name,
        "application": record.application,
        "control": record.control,
        "arms": dict(record.arms),
        "window": [sample.start.isoformat(), sample.end.isoformat()],
        "users": dict(sample.users),
        "users_wanted": record.users_per_arm,
        "ratio_p_value": sample.p_value,
        "best": best,
        "effects": [
            {name: _number(getattr(effect, name)) for name in numbers}
            | {"arm": effect.arm, "metric": effect.outcome.name, "finding": effect.finding.value}
            | {"n_control": effect.n_control, "n_arm": effect.n_arm, "is_relative": effect.outcome.is_relative}
            | {"matters_from": effect.outcome.matters_from, "because": effect.because}
            for effect in effects
        ],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
