"""Whoever follows a sentence that names a command finds that command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deployments.cli import app

ROOT = Path(__file__).parents[2]
OF_OTHERS = {"--limit"}  # of prefect worker start
GROUP = typer.main.get_command(app)
KINDS = {".py", ".md", ".yml", ".yaml", ".service", ".timer", ".html"}
NAMED = re.compile(
    r"(?:^|[`\"'(=/:>]|(?:: |then |with |run |&& |\$ |    ))delivery (?=[a-z])([^`\n#;|)]*)", re.MULTILINE
)
"""A command as text names it: behind a mark or a word that introduces one, not in a sentence about delivery."""


def _files() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "Makefile"]
    for name in ("docs", "tasks", "flows", "deployments"):
        found += [path for path in (ROOT / name).rglob("*") if path.suffix in KINDS or "ci" in path.parts]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _named(text: str) -> Iterator[list[str]]:
    for said in NAMED.findall(text):
        try:
            yield shlex.split(said)
        except ValueError:
            yield said.replace('"', " ").replace("'", " ").split()


def wrong_words(words: list[str]) -> str:
    """Return the first command or option that there is not; empty where every one is."""
    command: Any = GROUP
    for word in words:
        name = re.sub(r"[\s.,:…\]]+$", "", word.lstrip("[")).split("=")[0]
        inside = getattr(command, "commands", None)
        if inside is not None and name and not name.startswith("-"):
            missing = [one for one in name.split("|") if one not in inside]
            if missing:
                return f"delivery {' '.join(words)}: no command {missing[0]}"
            command = inside[name.split("|")[0]]
        elif re.fullmatch(r"--[a-z][a-z-]*", name):
            known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
            if name not in known | {"--help"}:
                return f"delivery {' '.join(words)}: no option {name}"
    return ""


def test_words_that_are_no_command_are_found() -> None:
    assert wrong_words(["release", "ID"]) == "delivery release ID: no command release"
    assert wrong_words(["log", "release", "ID"]) == ""
    assert wrong_words(["log", "read"]) == "delivery log read: no command read"
    assert wrong_words(["log", "ingest", "f", "--why", "x"]) == "delivery log ingest f --why x: no option --why"


def _options(command: Any) -> set[str]:
    """Return every option of a command and of those inside it."""
    own = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return own.union(*(_options(one) for one in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("path", [path for path in _files() if path.suffix == ".md"], ids=lambda path: path.name)
def test_every_option_a_document_names_is_one(path: Path) -> None:
    receiver = (ROOT / "tasks" / "receiver" / "__main__.py").read_text(encoding="utf-8")
    known = _options(GROUP) | set(re.findall(r'"(--[a-z][a-z-]*)"', receiver)) | OF_OTHERS
    assert set(re.findall(r"`(--[a-z][a-z-]*)", path.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_a_text_names_is_there(path: Path) -> None:
    wrong = [wrong_words(words) for words in _named(path.read_text(encoding="utf-8"))]
    assert not [one for one in wrong if one]
