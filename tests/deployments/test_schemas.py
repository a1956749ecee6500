"""The schemas for editors: up to date, true to the records, and never stricter than them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands.schemas import KINDS, file_schema
from tasks.documents import read_document
from tasks.errors import InputError
from tasks.release.model import ReleaseSpec
from tasks.smoke.suite import SmokeSuite

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deployments" / "demo"
LEAST: dict[str, Any] = {
    "application": "faq",
    "model_id": "bot",
    "version": "7",
    "endpoint": "models:/bot/1",
    "prompt": {"name": "p", "text": "hello"},
}


def problems(kind: str, document: object) -> list[str]:
    return [error.message for error in Draft202012Validator(json.loads(file_schema(kind))).iter_errors(document)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_up_to_date(kind: str) -> None:
    committed = (ROOT / "docs" / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert committed == file_schema(kind), f"run: delivery schema {kind} > docs/schemas/{kind}.schema.json"


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_prints_a_schema_of_the_draft(kind: str) -> None:
    ended = CliRunner().invoke(app, ["schema", kind])
    assert (ended.exit_code, ended.stdout) == (0, file_schema(kind))
    schema = json.loads(ended.stdout)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_an_unknown_kind_is_one_line() -> None:
    ended = CliRunner().invoke(app, ["schema", "prompt"])
    assert (ended.exit_code, ended.stdout) == (1, "")
    allowed = "release, smoke, ramp, experiment, shadow, budgets, evaluation"
    assert ended.stderr == f"error: schema: 'prompt' is not allowed; allowed: {allowed}\n"
    with pytest.raises(InputError):
        file_schema("")


def test_the_files_of_the_demo_are_valid() -> None:
    releases = sorted((DEMO / "releases").glob("*.yaml"))
    assert releases
    for path in releases:
        assert problems("release", yaml.safe_load(path.read_text(encoding="utf-8"))) == []
    assert problems("smoke", yaml.safe_load((DEMO / "smoke.yaml").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("release", LEAST),
        ("release", LEAST | {"version": 7, "baseline": 6, "prompt": "p@3"}),
        ("release", LEAST | {"price": {"input_usd_per_mtok": "0.15", "output_usd_per_mtok": 0.6}, "ab_test": None}),
        ("release", LEAST | {"prompt": {"name": "p", "version": 2, "text": None}, "parameters": {"stop": ["a", None]}}),
        ("smoke", {"cases": [{"name": "a", "question": "?", "json": True, "max_cost_usd": "0.01"}]}),
        ("smoke", {"cases": [{"name": "a", "messages": [{"role": "user", "content": "?"}], "question": None}]}),
        ("smoke", {"defaults": {"refusal": "forbidden"}, "concurrency": 1, "retries": 0}),
        ("ramp", {"percents": [10, 100], "margins": {"success": 0.01}}),
    ],
)
def test_what_is_read_is_valid(tmp_path: Path, kind: str, document: dict[str, Any]) -> None:
    from tasks.release.ramp import RampPolicy

    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    models = {"release": ReleaseSpec, "smoke": SmokeSuite, "ramp": RampPolicy}
    read_document(path, models[kind])  # type: ignore[type-var]
    assert problems(kind, document) == []


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("release", LEAST | {"colour": "blue"}),
        ("release", {name: value for name, value in LEAST.items() if name != "prompt"}),
        ("release", LEAST | {"version": 1.1}),
        ("release", LEAST | {"endpoint": "models:/bot@champion"}),
        ("release", LEAST | {"parameters": {"stream": True}}),
        ("release", LEAST | {"prompt": "p@latest"}),
        ("release", LEAST | {"prompt": {"name": "p", "text": "a", "version": 1}}),
        ("release", LEAST | {"prompt": {"name": "p"}}),
        ("release", LEAST | {"monitors": {"quality": 1.1}}),
        ("smoke", {"cases": [{"name": "a"}]}),
        ("smoke", {"cases": [{"name": "a", "question": "?", "messages": [{"role": "user", "content": "?"}]}]}),
        ("smoke", {"cases": [{"name": "a", "question": "?", "is_json": True}]}),
        ("ramp", {"alpha": 0.5}),
    ],
)
def test_an_editor_marks_what_would_be_refused(kind: str, document: dict[str, Any]) -> None:
    assert problems(kind, document)
