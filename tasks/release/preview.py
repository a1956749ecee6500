"""What a rollout would do, before anything is touched: changes, steps, checks, and how long it may take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.release.analysis.metrics import Metric
from tasks.release.analysis.plan import forecast_noninferiority, of_shares, of_spread
from tasks.release.model import ReleaseSpec
from tasks.release.ramp import RampPolicy
from tasks.release.rollout import Rollout
from tasks.smoke.suite import SmokeSuite
from tasks.traffic.plan import BUCKETS, Plan

_DAY_S = 86_400
_TYPICAL_SPREAD = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSeen:
    """What an application was asked in the last day.

    Attributes:
        requests: Calls.
        users: Different users, sessions or requests.
        failed_share: Share of failed calls, 0 to 1; None without any call.
    """

    requests: int
    users: int
    failed_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a rollout would do.

    Attributes:
        changes: Field, value now and value then, of what differs from the release that serves most users.
        steps: What each step does, in words.
        checks: What must hold, in words.
        durations: What the statistics need, in words.
        obstacles: Why it would not start as things are; empty where nothing stands in the way.
    """

    changes: tuple[tuple[str, str, str], ...]
    steps: tuple[str, ...]
    checks: tuple[str, ...]
    durations: tuple[str, ...]
    obstacles: tuple[str, ...]


def preview(
    spec: ReleaseSpec,
    policy: RampPolicy,
    suite: SmokeSuite,
    *,
    champion: ReleaseSpec | None,
    plan: Plan | None,
    open_rollout: Rollout | None,
    quarantine_reason: str | None,
    seen: TrafficSeen,
    others: Sequence[str] = (),
) -> Preview:
    """Return what a rollout would do.

    Args:
        spec: The release.
        policy: Its ramp.
        suite: Its smoke test.
        champion: Who serves most users now, None where nobody does.
        plan: The traffic plan in force.
        open_rollout: An unfinished rollout of the application.
        quarantine_reason: Why the release is in quarantine, None where it is not.
        seen: The traffic of the last day.
        others: What else is in the way, in words.
    """
    steps = policy.steps(0, alone=plan is None)
    words = [
        f"{step.buckets * 100 / BUCKETS:g} % of the users, "
        + (f"at most {_time(policy.max_step_s)}, watched every {policy.look_s:g} s" if step.watched else "at once")
        for step in steps
    ]
    return Preview(
        changes=_changes(champion, spec),
        steps=tuple(words),
        checks=_checks(spec, policy, suite, alone=plan is None),
        durations=_durations(spec, policy, seen) if plan is not None and policy.enabled else (),
        obstacles=(*_obstacles(open_rollout, quarantine_reason), *others),
    )


def _changes(champion: ReleaseSpec | None, spec: ReleaseSpec) -> tuple[tuple[str, str, str], ...]:
    before = _flat(champion.model_dump(mode="json")) if champion else {}
    after = _flat(spec.model_dump(mode="json"))
    names = [*after, *(name for name in before if name not in after)]
    pairs = [(name, before.get(name, "-"), after.get(name, "-")) for name in names]
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value, ensure_ascii=False)
    return flat


def _checks(spec: ReleaseSpec, policy: RampPolicy, suite: SmokeSuite, *, alone: bool) -> tuple[str, ...]:
    limits = spec.monitors
    cases = f"smoke test: {len(suite.cases)} cases ({', '.join(case.name for case in suite.cases)})"
    if alone or not policy.enabled:
        return (cases,)
    fixed = f"fixed limits: failed calls <= {limits.errors:.1%}, p95 latency <= {limits.latency_ms:g} ms"
    harm = f"no harm in {_names(_metrics(spec, policy))} against the release that serves now, alpha {policy.alpha:g}"
    last = "not worse by the margins before 100 %: " + ", ".join(
        f"{metric.name} {100 * metric.margin:g} points" for metric in _metrics(spec, policy)
    )
    approval = "a person's approval before 100 %"
    return (
        cases,
        f"the data path reaches it, and at most {limits.errors:.1%} of its requests end without an answer",
        fixed,
        harm,
        *([last] if policy.noninferiority else []),
        *([approval] if policy.approval else []),
    )


def _durations(spec: ReleaseSpec, policy: RampPolicy, seen: TrafficSeen) -> tuple[str, ...]:
    if not seen.users:
        return ("no traffic was seen in the last day: how long the ramp takes cannot be foretold",)
    words = [f"seen in the last day: {seen.requests} requests of {seen.users} users"]
    last = next((step for step in policy.steps(0, alone=False) if step.is_last), None)
    if not policy.noninferiority or last is None:
        return (*words, f"each step needs {policy.min_requests} requests and {policy.min_users} users of each release")
    entering_per_s = seen.users / _DAY_S * min(last.buckets, BUCKETS - last.buckets) / BUCKETS
    failed = seen.failed_share or 0.0
    for metric in _metrics(spec, policy):
        expected = of_shares(failed, failed) if metric.name == "success" else of_spread(0.0, _TYPICAL_SPREAD)
        forecast = forecast_noninferiority(expected, metric.margin, policy.rules_of(spec), entering_per_s)
        if forecast.units_per_arm is None or forecast.duration_s is None:
            words.append(f"{metric.name}: not worse by {100 * metric.margin:g} points cannot be shown")
            continue
        late = "" if forecast.duration_s <= policy.max_step_s else f" > {_time(policy.max_step_s)}, the step's longest"
        words.append(
            f"{metric.name}: not worse by {100 * metric.margin:g} points takes about {forecast.units_per_arm} users of "
            f"each release, {_time(forecast.duration_s)} at this traffic{late}"
        )
    return tuple(words)


def _obstacles(open_rollout: Rollout | None, quarantine_reason: str | None) -> tuple[str, ...]:
    obstacles = []
    if open_rollout is not None:
        obstacles.append(
            f"the rollout of release {open_rollout.release_digest[:12]} is {open_rollout.state}: continue it, or "
            f"delivery abort {open_rollout.application}"
        )
    if quarantine_reason is not None:
        obstacles.append(f"the release is in quarantine ({quarantine_reason}): it needs --override-reason")
    return tuple(obstacles)


def _metrics(spec: ReleaseSpec, policy: RampPolicy) -> tuple[Metric, ...]:
    return policy.rules_of(spec).metrics


def _names(metrics: Sequence[Metric]) -> str:
    return ", ".join(metric.name for metric in metrics)


def _time(seconds: float) -> str:
    for unit, size in (("days", _DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
