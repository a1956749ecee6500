"""The documents say what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tasks.interactions.columns import as_markdown
from tasks.interactions.schema import parse_line
from tasks.release.lifecycle import as_mermaid
from tasks.release.model import ReleaseSpec
from tasks.release.ramp import RampPolicy

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_in_code_style_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:tasks|flows|deployments|tests|docs)/[\w./*-]*)`", text)
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


def test_the_state_diagram_is_the_one_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- state diagram -->\n```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert shown == as_mermaid()


def test_the_release_file_of_the_readme_is_one() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n# release\.yaml\n(.*?)```", text, re.DOTALL)
    assert ReleaseSpec.model_validate(yaml.safe_load(shown)).application == "support"


def test_the_ramp_policy_of_the_documents_is_one() -> None:
    text = (ROOT / "docs" / "ramp.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n# ramp\.yaml.*?\n(.*?)```", text, re.DOTALL)
    assert RampPolicy.model_validate(yaml.safe_load(shown)).approval


def test_the_log_line_of_the_readme_is_one() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)
    read = parse_line(shown.replace("<64 hex>", "a" * 64).encode())
    assert not isinstance(read, str), read


def test_the_columns_of_the_documents_are_those_of_the_log() -> None:
    text = (ROOT / "docs" / "interactions.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- columns -->\n(.*?)\n\n", text, re.DOTALL)
    assert shown == as_markdown()


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    described = re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE)
    assert sorted(phony.split()) == sorted(described)


def test_the_lock_holds_hashes_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert not [block.split()[0] for block in blocks if "--hash=sha256:" not in block]


def test_the_lock_holds_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=;\[ ]", line)[0].lower() for line in wanted}
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {re.split(r"==|\[", line)[0] for line in lines}
    assert names <= locked
