from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.interactions import steps
from tasks.interactions.counts import SourceCount
from tasks.interactions.gate import GatePolicy
from tasks.settings import Settings


def test_sources_are_those_of_the_path_the_application_or_all(tmp_path: Path) -> None:
    where = Settings(state_dir=tmp_path)
    assert steps.find_sources.fn(where, None, None) == ()
    logs = [where.log_dir / name / "x.jsonl" for name in ("a", "b")]
    for log in logs:
        log.parent.mkdir(parents=True)
        log.touch()
    assert steps.find_sources.fn(where, None, None) == tuple(logs)
    assert steps.find_sources.fn(where, "b", None) == (logs[1],)
    assert steps.find_sources.fn(where, "c", None) == ()
    assert steps.find_sources.fn(where, None, logs[0]) == (logs[0],)
    (tmp_path / "export.csv").touch()
    assert steps.find_sources.fn(where, "a", tmp_path) == (tmp_path / "export.csv", *logs)


def test_a_mapping_goes_with_its_own_format_only(tmp_path: Path) -> None:
    values: Any = (Settings(state_dir=tmp_path), None, "openai", tmp_path / "mapping.yaml", "full")
    with pytest.raises(InputError, match="'openai' is not allowed; allowed: mapped, where a mapping file is given"):
        steps.plan_job.fn(*values, redact=False, final=False, dry_run=False, gate=GatePolicy())


def test_the_table_shows_counts_that_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(steps, "create_table_artifact", lambda **artifact: shown.append(artifact))
    counts = [SourceCount(Path("a"), 4, 1, 1, 2), SourceCount(Path("b"), 1, 1, 0, 0)]
    assert steps.publish_counts.fn(counts).read == 5
    assert shown[0]["description"] == "2 interactions stored of 5 lines; 2 set aside"
    assert [list(row.values()) for row in shown[0]["table"]] == [
        ["a", 4, 1, 1, 2, 0],
        ["b", 1, 1, 0, 0, 0],
        ["total", 5, 2, 1, 2, 0],
    ]
