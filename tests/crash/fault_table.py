"""The tables of ``docs/faults.md``: rendered from outcomes, put between markers, and read again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fault_cases import BEFORE, UNDISTURBED, Outcome

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
PARTS = ("stack", "singles", "pairs", "postgresql")
"""On the whole stack, one at a time; on the plain stage, one at a time, in pairs, and one at a time on PostgreSQL."""
COLUMNS = (
    *("fault", "during", "tried", UNDISTURBED, BEFORE, "runs", "asked", "refused", "longest, s", "not on the log"),
    "not right",
)
_MARKED = "<!-- faults: {part} -->\n{text}<!-- end of faults: {part} -->"


def table(outcomes: Iterable[Outcome], *, by_step: bool) -> str:
    """Return a table, one row for each fault or pair and each flow, or step.

    Args:
        outcomes: What is shown.
        by_step: Whether the steps of a flow are rows of their own.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        during = f"{outcome.flow}: {outcome.step}" if by_step else outcome.flow
        groups.setdefault((" + ".join(outcome.faults), during), []).append(outcome)
    rows = [COLUMNS, ("---",) * 2 + ("--:",) * (len(COLUMNS) - 2)]
    rows += [row(fault, during, group) for (fault, during), group in sorted(groups.items())]
    return "\n".join("| " + " | ".join(one) + " |" for one in rows)


def row(fault: str, during: str, group: Sequence[Outcome]) -> tuple[str, ...]:
    """Return the cells of a row."""
    numbers = (
        len(group),
        sum(one.left == UNDISTURBED for one in group),
        sum(one.left == BEFORE for one in group),
        max(one.runs for one in group),
        sum(one.asked for one in group),
        sum(one.failed for one in group),
    )
    longest = f"{max(one.refused_s for one in group):.1f}"
    wrong = sum(bool(one.problems) for one in group)
    return (fault, during, *map(str, numbers), longest, str(sum(one.unlogged for one in group)), str(wrong))


def write_part(part: str, text: str, document: Path = DOCUMENT) -> None:
    """Put a table into the document in the place of the one it has."""
    old = document.read_text(encoding="utf-8")
    new = _MARKED.format(part=part, text=f"{text}\n")
    changed, count = re.subn(_MARKED.format(part=part, text="(?s:.*?)"), lambda _: new, old)
    assert count == 1, f"{document} has no place for {part}"
    document.write_text(changed, encoding="utf-8")


def read_part(part: str, document: Path = DOCUMENT) -> list[dict[str, str]]:
    """Return the rows of a table of the document."""
    text = document.read_text(encoding="utf-8")
    found = re.search(_MARKED.format(part=part, text="(?s:(.*?))"), text)
    assert found is not None, f"{document} has no table of {part}"
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0]) == COLUMNS
    return [dict(zip(COLUMNS, line, strict=True)) for line in cells[2:]]
