"""The report of one evaluation in Markdown: numbers and names, never the text of a question or an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.evaluation.evidence import Estimate, Evidence
from tasks.evaluation.expectations import Gate
from tasks.evaluation.window import Window
from tasks.monitors.verdict import SEVERITY, Outcome, Verdict, worst
from tasks.release.model import Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One release with what it was judged by and what came of it."""

    release: Release
    evidence: Evidence
    verdict: Verdict


def write_report(application: str, window: Window, gate: Gate, judged: Sequence[Judged], interactions: int) -> str:
    """Return the report of one evaluation.

    Args:
        application: What users call.
        window: What was evaluated.
        gate: Whether the window can be trusted.
        judged: The releases, in the order they are shown.
        interactions: All interactions of the window, those of unregistered releases included.

    Returns:
        Markdown: the outcome, a table of checks, a table of measurements, and what was not judged.
    """
    outcome = worst(item.verdict.outcome for item in judged)
    sections = (
        f"# {application}: {outcome.upper()}",
        f"{window.label}, {interactions} interactions, {len(judged)} releases",
        _table(("outcome", "release", "monitor", "inequality"), _check_rows(judged)),
        _table(
            ("release", "interactions", "p95 latency ms", "mean quality", "toxic", "failed", "baseline"),
            [_measured_row(item) for item in judged],
        ),
        *_remarks(gate, judged, interactions),
    )
    return "\n\n".join(sections) + "\n"


def evaluation_metrics(judged: Judged) -> dict[str, float]:
    """Return the numbers of one evaluation by the names they have in the registry; unknown ones are left out."""
    found = judged.evidence
    estimates = {
        "latency_p95_ms": found.latency_ms,
        "quality_mean": found.quality,
        "toxic_share": found.toxicity,
        "failed_share": found.errors,
    }
    metrics = {name: estimate.value for name, estimate in estimates.items() if estimate is not None}
    metrics["interactions"] = float(found.summary.n)
    for check in judged.verdict.checks:
        if check.monitor == "drift" and check.value is not None:
            metrics["drift"] = check.value
    return metrics


def _check_rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    """Return one row a check, the gravest first: that is what people open the report for."""
    checks = [(item.release, check) for item in judged for check in item.verdict.checks]
    checks.sort(key=lambda pair: SEVERITY.index(pair[1].outcome), reverse=True)
    return [
        (
            f"**{check.outcome.upper()}**" if check.outcome is not Outcome.PASS else "pass",
            release.label,
            check.monitor,
            check.statement,
        )
        for release, check in checks
    ]


def _measured_row(item: Judged) -> tuple[str, ...]:
    found = item.evidence
    return (
        f"{item.release.label} ({item.release.short})",
        str(found.summary.n),
        _estimate(found.latency_ms),
        _estimate(found.quality),
        _estimate(found.toxicity),
        _estimate(found.errors),
        found.baseline.name if found.baseline else "none",
    )


def _remarks(gate: Gate, judged: Sequence[Judged], interactions: int) -> list[str]:
    alone = [item.release.label for item in judged if item.evidence.baseline is None]
    refused = sum(item.evidence.caller_errors for item in judged)
    foreign = interactions - refused - sum(item.evidence.summary.n for item in judged)
    unscored = sum(item.evidence.answers - _n(item.evidence.quality) for item in judged)
    remarks = [f"The data cannot be trusted, so nothing was concluded: {'; '.join(gate.failures)}."]
    return [
        *(remarks if not gate.success else []),
        *([f"No baseline, so nothing is said about drift: {', '.join(alone)}."] if alone else []),
        *([f"{foreign} interactions belong to no registered release and were not judged."] if foreign else []),
        *([f"{refused} calls were refused for the caller's own mistake and count nowhere."] if refused else []),
        *([f"{unscored} answers could not be scored for quality and count nowhere."] if unscored else []),
    ]


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}], n={estimate.n}"


def _n(estimate: Estimate | None) -> int:
    return estimate.n if estimate else 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
