"""What informs beside the monitors, for the reports: what it is, what it says, and where it can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tasks.evaluation.evidence import Estimate, Shown

Rows = list[tuple[str, str, str, str]]


def shown_rows(releases: Iterable[tuple[str, tuple[Shown, ...]]]) -> Rows:
    """Return a row for everything that is shown of each release: release, what, what it says, where it is valid."""
    return [(label, one.name, one.statement, one.valid) for label, shown in releases for one in shown]


def shown_sections(releases: Iterable[tuple[str, tuple[Shown, ...]]]) -> Iterator[str]:
    """Yield the same as a table in Markdown; nothing where nothing is shown."""
    rows = shown_rows(releases)
    if rows:
        lines = [("release", "also measured", "it says", "valid"), ("---",) * 4, *rows]
        yield "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def shown_metrics(means: Mapping[str, Estimate]) -> Iterator[tuple[str, Estimate, str]]:
    """Yield the numbers as metrics: their name, the estimate, and the monitor that may watch it."""
    for name, mean in means.items():
        yield f"scorer.{name.replace(':', '.')}", mean, name


def describe_shares(shares: Mapping[str, Estimate]) -> str:
    """Return the shares of a segment that are not 0, the largest first, in one line; empty where there are none."""
    ordered = sorted(shares.items(), key=lambda item: (-item[1].value, item[0]))
    return ", ".join(
        f"{name} {100 * one.value:.4g} % [{100 * one.low:.4g}, {100 * one.high:.4g}] (n={one.n})"
        for name, one in ordered
        if one.value > 0
    )
