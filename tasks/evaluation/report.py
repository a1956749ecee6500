"""The report of one evaluation in Markdown: numbers and names, never the text of a question or an answer."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tasks.drift.report import metric_of, moved_sections
from tasks.evaluation.evidence import Estimate, Evidence
from tasks.evaluation.expectations import Gate
from tasks.evaluation.segments import Explanation, Segment
from tasks.evaluation.window import Window
from tasks.monitors.verdict import SEVERITY, Check, Outcome, Verdict, worst
from tasks.release.model import Release
from tasks.scoring.showing import shown_metrics, shown_sections

MAX_HOURS: Final = 168
_METRIC_OF: Final = {
    "latency": "latency_p95_ms",
    "quality": "quality_mean",
    "toxicity": "toxic_share",
    "errors": "failed_share",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One release with what it was judged by and what came of it.

    Attributes:
        release, evidence, verdict: The release, what was measured of it, and the checks.
        segments: What was measured of its segments.
        segment_checks: The name and the check of every segment and monitor that was tested; ``fail`` is a warning.
        explanations: Segments that account for a breach.
        deployment_id: The act of deploying it, None where it was never rolled out.
    """

    release: Release
    evidence: Evidence
    verdict: Verdict
    segments: tuple[Segment, ...] = ()
    segment_checks: tuple[tuple[str, Check], ...] = ()
    explanations: tuple[Explanation, ...] = ()
    deployment_id: str | None = None

    @property
    def warnings(self) -> tuple[tuple[str, Check], ...]:
        """The segments that break a limit which the release keeps, or changed where it did not."""
        return tuple((name, check) for name, check in self.segment_checks if check.outcome is Outcome.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of an application: all that its report shows.

    Attributes:
        application: What users call.
        window: What was evaluated.
        gate: Whether the window can be trusted.
        judged: The releases, in the order they are shown.
        interactions: All interactions of the window, those of unregistered releases included.
        hours: Calls of each hour that had any.
        usual: The usual calls of each hour; empty: nothing is usual yet.
        coverage: Whether the window has the hours it usually has.
    """

    application: str
    window: Window
    gate: Gate
    judged: tuple[Judged, ...]
    interactions: int
    hours: Mapping[datetime, int] = field(default_factory=dict)
    usual: Mapping[datetime, float] = field(default_factory=dict)
    coverage: Check | None = None

    @property
    def every_hour(self) -> dict[datetime, int]:
        """Calls of every hour of the window, those without any included; of a week at most."""
        empty = dict.fromkeys(self.window.hours()[:MAX_HOURS], 0)
        return {**empty, **self.hours}

    @property
    def outcome(self) -> Outcome:
        """The gravest verdict; no release at all is inconclusive."""
        return worst(item.verdict.outcome for item in self.judged)


def write_report(night: Evaluation, *, charts: Sequence[str] = (), links: Mapping[str, str] | None = None) -> str:
    """Return the report of one evaluation.

    Args:
        night: The evaluation.
        charts: Drawings, as SVG.
        links: What leads to more, by its name: an address, or a path that stands as it is.

    Returns:
        Markdown: the outcome, a table of checks, a table of measurements, segments, and what was not judged.
    """
    judged = night.judged
    sections = (
        f"# {night.application}: {night.outcome.upper()}",
        f"{night.window.label}, {night.interactions} interactions, {len(judged)} releases",
        *([" · ".join(_link(name, to) for name, to in links.items())] if links else []),
        _table(("outcome", "release", "monitor", "inequality"), _check_rows(judged)),
        *(_image(chart) for chart in charts),
        _table(
            ("release", "interactions", "p95 latency ms", "mean quality", "toxic", "failed", "USD a day", "baseline"),
            [_measured_row(item) for item in judged],
        ),
        *shown_sections((item.release.label, item.evidence.shown) for item in judged),
        *_segments(judged),
        *moved_sections((item.release.label, item.evidence.drift) for item in judged),
        *remarks(night),
    )
    return "\n\n".join(sections) + "\n"


def evaluation_metrics(judged: Judged) -> dict[str, float]:
    """Return the numbers of one evaluation by the names they have in the registry; unknown ones are left out."""
    return {name: value.value for name, value, _ in reversed([*measurements(judged)])}


def measurements(judged: Judged) -> Iterator[tuple[str, Estimate, str]]:
    """Yield what was measured of a release: its name as a metric, the estimate, and the monitor that watches it.

    Bounds that nobody knows are not finite.
    """
    found = judged.evidence
    yield "interactions", _exact(found.summary.n, found.summary.n), "data"
    named = (
        ("latency_p95_ms", found.latency_ms, "latency"),
        ("quality_mean", found.quality, "quality"),
        ("toxic_share", found.toxicity, "toxicity"),
        ("failed_share", found.errors, "errors"),
    )
    for name, estimate, monitor in named:
        if estimate is not None:
            yield name, estimate, monitor
    if found.cost is not None and found.cost.n:
        yield "cost_coverage", _exact(found.cost.coverage, found.cost.n), "cost"
        if found.cost.coverage > 0:
            yield "cost_usd_per_day", _exact(found.cost.usd_per_day, found.cost.n), "cost"
    if found.concentration is not None:
        yield "top_user_share", _exact(found.concentration.share, found.concentration.n), "concentration"
    for name, mean in found.scorer_means.items():
        yield f"scorer.{name}", mean, f"scorer:{name}"
    yield from shown_metrics(found.shown_means)
    for check in judged.verdict.checks:
        if check.monitor.startswith(("drift", "coverage")) and check.value is not None:
            yield metric_of(check.monitor), _exact(check.value, check.n), check.monitor


def metric_rows(night: Evaluation) -> list[dict[str, Any]]:
    """Return the rows of the metrics store: every measurement of every release and segment, with its bounds."""
    return [row for item in night.judged for row in _release_rows(night, item)]


def remarks(night: Evaluation) -> list[str]:
    """Return what was not judged, and why, in sentences."""
    judged, gate = night.judged, night.gate
    alone = [
        item.release.label for item in judged if not item.evidence.baseline_name and not item.evidence.baseline_problem
    ]
    unpriced = [item.release.label for item in judged if item.evidence.cost is None or not item.evidence.cost.coverage]
    refused = sum(item.evidence.caller_errors for item in judged)
    foreign = night.interactions - refused - sum(item.evidence.summary.n for item in judged)
    unscored = sum(item.evidence.answers - _n(item.evidence.quality) for item in judged)
    shut = f"The data cannot be trusted, so nothing was concluded: {'; '.join(gate.failures)}."
    return [
        *([shut] if not gate.success else []),
        *([f"No baseline, so nothing is said about drift: {', '.join(alone)}."] if alone else []),
        *(f"{item.release.label}: {one}" for item in judged for one in item.evidence.drift.remarks),
        *([f"No call has a price, so nobody knows the cost: {', '.join(unpriced)}."] if unpriced else []),
        *(["No earlier night to hold the hours against, so nothing is said about missing hours."] * (not night.usual)),
        *([f"{foreign} interactions belong to no registered release and were not judged."] if foreign else []),
        *([f"{refused} calls were refused for the caller's own mistake and count nowhere."] if refused else []),
        *([f"{unscored} answers could not be scored for quality and count nowhere."] if unscored else []),
    ]


def sorted_checks(judged: Sequence[Judged]) -> list[tuple[Release, Check]]:
    """Return every check with its release, the gravest first: that is what people open the report for."""
    checks = [(item.release, check) for item in judged for check in item.verdict.checks]
    return sorted(checks, key=lambda pair: SEVERITY.index(pair[1].outcome), reverse=True)


def describe_estimate(estimate: Estimate | None) -> str:
    """Return an estimate with its bounds, for people."""
    if estimate is None:
        return "unknown"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}], n={estimate.n}"


def describe_explanation(one: Explanation) -> str:
    """Return how much of a breach a segment accounts for, for people."""
    return f"{one.monitor}: without {one.segment} (n={one.n}) it would be {one.without:.4g}"


def _check_rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    return [
        (
            f"**{check.outcome.upper()}**" if check.outcome is not Outcome.PASS else "pass",
            release.label,
            check.monitor,
            check.statement,
        )
        for release, check in sorted_checks(judged)
    ]


def _measured_row(item: Judged) -> tuple[str, ...]:
    found = item.evidence
    return (
        f"{item.release.label} ({item.release.short})",
        str(found.summary.n),
        *(describe_estimate(one) for one in (found.latency_ms, found.quality, found.toxicity, found.errors)),
        describe_cost(found),
        found.baseline_name or "none",
    )


def describe_cost(found: Evidence) -> str:
    """Return what a release cost a day, for people."""
    if found.cost is None or not found.cost.coverage:
        return "unknown"
    return f"{found.cost.usd_per_day:.4g}, {found.cost.coverage:.1%} of calls priced"


def _segments(judged: Sequence[Judged]) -> Iterator[str]:
    for item in judged:
        label = item.release.label
        if item.explanations:
            yield f"What explains it, {label}:\n\n" + _list([describe_explanation(one) for one in item.explanations])
        if item.warnings:
            yield f"Warnings of segments, {label}:\n\n" + _list([check.statement for _, check in item.warnings])


def _release_rows(night: Evaluation, item: Judged) -> Iterator[dict[str, Any]]:
    keys = {
        "application": night.application,
        "release_digest": item.release.digest,
        "version": item.release.spec.version,
        "deployment_id": item.deployment_id,
        "window": night.window.label,
        "window_start": night.window.start,
        "window_end": night.window.end,
    }
    outcomes = {check.monitor: check.outcome.value for check in item.verdict.checks[::-1]}
    # Several checks of drift are one series: that of the first, the gravest.
    first = {name: (estimate, monitor) for name, estimate, monitor in reversed([*measurements(item)])}
    for name, (estimate, monitor) in reversed(first.items()):
        yield {**keys, "segment": "", "metric": name, "outcome": outcomes.get(monitor), **_numbers(estimate)}
    said = {(name, check.monitor): check.outcome.value for name, check in item.segment_checks}
    for segment in item.segments:
        here = {**keys, "segment": segment.name}
        yield {**here, "metric": "interactions", "outcome": None, **_numbers(_exact(segment.n, segment.n))}
        for monitor, estimate in segment.estimates.items():
            outcome = said.get((segment.name, monitor))
            yield {**here, "metric": _METRIC_OF[monitor], "outcome": outcome, **_numbers(estimate)}
        for metric, share, monitor in shown_metrics(segment.shares):
            yield {**here, "metric": metric, "outcome": said.get((segment.name, monitor)), **_numbers(share)}


def _numbers(estimate: Estimate) -> dict[str, Any]:
    bounds = {"low": _finite(estimate.low), "high": _finite(estimate.high)}
    return {"value": estimate.value, "n": estimate.n, **bounds}


def _exact(value: float, n: int) -> Estimate:
    return Estimate(value=float(value), low=float("-inf"), high=float("inf"), n=n)


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def _n(estimate: Estimate | None) -> int:
    return estimate.n if estimate else 0


def _image(chart: str) -> str:
    # A drawing that stands alone needs its namespace; one within HTML does not.
    alone = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"![chart](data:image/svg+xml;base64,{b64encode(alone.encode()).decode()})"


def _link(name: str, to: str) -> str:
    return f"[{name}]({to})" if "://" in to else f"{name}: `{to}`"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
