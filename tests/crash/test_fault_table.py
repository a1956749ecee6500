"""The tables of ``docs/faults.md``: a row for every fault that can be made; the numbers are the benchmark's."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from fault_cases import BEFORE, UNDISTURBED, Outcome
from fault_kinds import KINDS, SERVER_KINDS
from fault_table import COLUMNS, PARTS, read_part, table, write_part

NAMES = {kind.name for kind in KINDS}
ALONE = {"singles": NAMES, "postgresql": NAMES | {kind.name for kind in SERVER_KINDS}}
MOMENTS = {"rollout: rollout wanted", "rollout: ramp", "rollback: rollback wanted", "rollback: failure on record"}


@pytest.mark.parametrize("part", PARTS)
def test_the_document_has_a_row_for_every_fault(part: str) -> None:
    rows = read_part(part)
    shown = {(row["fault"], row["during"]) for row in rows}
    assert len(shown) == len(rows)
    if part == "stack":
        assert {fault for fault, _ in shown} == NAMES | {"Prefect server killed"}
        assert {moment for _, moment in shown} == MOMENTS
    else:
        names = ALONE.get(part) or {f"{a.name} + {b.name}" for a, b in combinations(KINDS, 2)}
        assert shown == {(name, flow) for name in names for flow in ("rollout", "rollback")}
    assert all(int(row[UNDISTURBED]) + int(row[BEFORE]) == int(row["tried"]) > 0 for row in rows)
    assert all(row["not right"] == "0" for row in rows)


def test_a_table_is_put_between_its_markers_and_read_again(tmp_path: Path) -> None:
    plain = Outcome(
        flow="rollout",
        step="ramp",
        faults=("disk full", "runner killed"),
        left=UNDISTURBED,
        runs=2,
        asked=100,
        failed=3,
        refused_s=0.25,
        unlogged=1,
        problems=(),
    )
    document = tmp_path / "faults.md"
    document.write_text("before\n<!-- faults: pairs -->\nold\n<!-- end of faults: pairs -->\nafter\n")
    write_part("pairs", table([plain, plain], by_step=False), document)
    write_part("pairs", table([plain, plain], by_step=False), document)
    text = document.read_text()
    assert text.startswith("before\n<!-- faults: pairs -->\n| fault | during |")
    assert text.endswith("<!-- end of faults: pairs -->\nafter\n")
    cells = ("disk full + runner killed", "rollout", "2", "2", "0", "2", "200", "6", "0.2", "2", "0")
    assert read_part("pairs", document) == [dict(zip(COLUMNS, cells, strict=True))]
    with pytest.raises(AssertionError, match="has no place for stack"):
        write_part("stack", "", document)
