"""Every module stands under one of the import rules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ACTING = {
    "tasks.audit",
    "tasks.run_page",
    "tasks.settings",
    "tasks.release.acting",
    "tasks.release.admission",
    "tasks.release.telling",
    "tasks.release.lease",
    "tasks.release.looking_back",
    "tasks.release.mending",
    "tasks.release.pages",
    "tasks.release.watching",
    "tasks.experiments.ending",
    "tasks.experiments.watching",
    "tasks.shadows.replay",
    "tasks.shards.dask_runner",
    "tasks.shards.pool",
    "tasks.shards.work",
    "tasks.interactions.ingest",
    "tasks.interactions.old_logs",
    "tasks.receiver.__main__",
    "tasks.costs.days",
    "tasks.costs.billing",
    "tasks.costs.releases",
    "tasks.costs.repricing",
    "tasks.budgets.unusual",
    "tasks.budgets.watch",
    "tasks.costs.opening",
    "tasks.judging.labelling",
    "tasks.judging.opening",
    "tasks.drift.replay_raters",
}
"""Modules that act without being a step, a store, a driver or a server: they may reach stores."""
ORCHESTRATED = {
    "tasks.experiments.ending",
    "tasks.release.acting",
    "tasks.release.mending",
    "tasks.release.telling",
    "tasks.run_page",
    "tasks.shards.dask_runner",
    "tasks.shards.pool",
}
"""Modules that know Prefect without being steps."""


def test_no_module_escapes_the_contracts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {item["name"]: item for item in project["tool"]["importlinter"]["contracts"]}
    pure = set(next(item for name, item in contracts.items() if name.startswith("Pure"))["source_modules"])
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "tasks").rglob("*.py")
        if path.name != "__init__.py"
    }
    thin = {name for name in modules if name.endswith("steps")}
    ruled = {name for name in modules if name.split(".")[1] in {"stores", "traffic", "serving"}}
    assert modules - pure - thin - ruled == ACTING
    assert pure <= modules
    assert modules >= ACTING


def importers(library: str) -> set[str]:
    """Return the modules of tasks that import a library, wherever in the module."""
    pattern = re.compile(rf"^\s*(?:from|import) {library}\b", re.MULTILINE)
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "tasks").rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }


def test_the_heavy_libraries_are_known_to_those_alone_whom_the_document_names() -> None:
    assert importers("mlflow") == {"tasks.stores.models", "tasks.stores.registry"}
    assert all(name.startswith("tasks.stores.lake") for name in importers("deltalake"))
    assert {name for name in importers("prefect") if not name.endswith("steps")} == ORCHESTRATED


def test_flows_hold_no_types_and_no_functions_but_flows() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith("class ")], path.name
        defined = [number for number, line in enumerate(lines) if line.startswith("def ")]
        assert all(lines[number - 1].startswith("@flow") for number in defined), path.name
