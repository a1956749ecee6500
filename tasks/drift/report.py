"""What moved, in sentences. Terms are words of users: they stand in the HTML report only, never in an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tasks.drift.findings import Drift, Moved


def tell_moved(drift: Drift, *, terms: bool) -> list[str]:
    """Return what moved, for people: segments that account for it, ids of examples, and terms if they may be shown.

    Args:
        drift: What was found.
        terms: Whether to name terms; each is of several users or sessions, and has no digit.
    """
    return [*drift.explained, *(line for moved in drift.moved for line in _tell(moved, terms=terms))]


def moved_sections(drifts: Iterable[tuple[str, Drift]]) -> Iterator[str]:
    """Yield what moved of each release as Markdown, without any term: this is what artifacts show.

    Args:
        drifts: A release's label, and what was found of it.
    """
    for label, drift in drifts:
        if lines := tell_moved(drift, terms=False):
            yield f"What moved, {label}:\n\n" + "\n".join(f"- {line}" for line in lines)


def metric_of(monitor: str) -> str:
    """Return the name that the metrics store gives what a monitor of drift or coverage measured.

    >>> metric_of("drift:question text")
    'drift.question_text'
    """
    return "coverage_missing_share" if monitor == "coverage" else monitor.replace(":", ".").replace(" ", "_")


def example_ids(drift: Drift) -> dict[str, tuple[str, ...]]:
    """Return the ids of the interactions that look newest, by the column of texts."""
    return {moved.column: moved.examples for moved in drift.moved if moved.examples}


def _tell(moved: Moved, *, terms: bool) -> Iterator[str]:
    for dimension, leaning in moved.leanings:
        shares = f"{leaning.share:.0%} of the calls, {leaning.share_newest:.0%} of those that look newest"
        yield f"{moved.column}: {dimension}={leaning.value} made {shares}"
    if moved.examples:
        yield f"{moved.column}: interactions that look newest: {', '.join(moved.examples)}"
    for term in moved.terms if terms else ():
        shares = f"{term.share_baseline:.0%} to {term.share:.0%} of users or sessions"
        yield f"{moved.column}: “{term.term}” went from {shares}"
