"""A copy of what a state folder holds, taken while everything goes on running, and put back into an empty one.

The order makes the copy consistent. The ledger comes first, and what it names after it: releases are never deleted.
The lake is copied at one version a table, the interactions first, because what is stored beside them is committed
before them; the logs come after the lake, so that no offset lies beyond the end of its log. Prefect's own database is
left out: flows are deployed anew at every start, and runs that were under way must not go on in two places.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tasks.errors import DeliveryError, InputError
from tasks.settings import Settings
from tasks.traffic.servers import write_whole

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_DATABASES: Final = ("mlflow.db", "mlflow-auth.db")
_WRITTEN_AGAIN: Final = ("stack.json",)
_FIRST_TABLE: Final = "interactions"
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds, written last: a folder without it is no backup.

    Attributes:
        format: Of the backup.
        created: When it was begun, UTC.
        ledger: The level of the ledger's tables, None where it is not in the backup.
        lake: The version of every table.
        files: The digest of every file, by its path.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: Annotated[int, Field(ge=_FORMAT, le=_FORMAT)]
    created: datetime
    ledger: str | None
    lake: dict[str, int]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line for people."""
        ledger = f"ledger at level {self.ledger}" if self.ledger is not None else "no ledger (it is not in this folder)"
        tables = ", ".join(f"{name} {version}" for name, version in sorted(self.lake.items())) or "empty"
        return f"{len(self.files)} files of {self.created:%Y-%m-%d %H:%M:%S} UTC: {ledger}; lake: {tables}; verified"


_MANIFEST = TypeAdapter(Manifest)


def make_backup(where: Settings, target: Path, now: datetime | None = None) -> Manifest:
    """Copy everything a state folder holds that cannot be made again.

    Args:
        where: The settings; the ledger is copied where it is a file.
        target: Folder of the backup, which nothing is in; readable by its owner only.
        now: The time, UTC.

    Returns:
        What was copied, read back and verified.

    Raises:
        InputError: There is no such state, or something is in the target.
        DeliveryError: A file was damaged while it was copied.
    """
    state = where.state_dir.absolute()
    if not state.is_dir():
        raise InputError(f"there is no state in {state}; give its folder: --state")
    _refuse_filled(target)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    target.chmod(0o700)
    begun = now or datetime.now(UTC)
    wishes = _wishes(state)
    level = _copy_ledger(where.ledger, target / "ledger.db")
    for name in _DATABASES:
        _copy_database(state / name, target / name)
    _copy_folder(state / "mlflow-artifacts", target / "mlflow-artifacts")
    versions = _copy_lake(where.lake_dir, target / "lake")
    _copy_logs(where.log_dir, target / "interactions")
    _copy_folder(state / "outbox", target / "outbox")
    _copy_settings(state, target)
    for name, text in {**wishes, **_wishes(state)}.items():  # a release retired meanwhile may still be in the plan
        _write(target / "servers" / name, text)
    digests = {path: _digest(target / path) for path in sorted(_paths(target))}
    manifest = Manifest(format=_FORMAT, created=begun, ledger=level, lake=versions, files=digests)
    _close_folders(target)
    write_whole(target / MANIFEST, _MANIFEST.dump_json(manifest, indent=1).decode())
    return verify_backup(target)


def verify_backup(source: Path) -> Manifest:
    """Return what a backup holds, with every file compared with its digest.

    Raises:
        InputError: It is no backup.
        DeliveryError: A file is missing, was changed, or was not in it.
    """
    try:
        manifest = _MANIFEST.validate_json((source / MANIFEST).read_bytes())
    except OSError:
        raise InputError(f"{source} is no backup: it has no {MANIFEST}, which is written last") from None
    except ValidationError as error:
        raise InputError(f"{source / MANIFEST} cannot be read: {error.errors()[0]['msg']}") from None
    found = set(_paths(source))
    for path, digest in manifest.files.items():
        if path not in found:
            raise DeliveryError(f"{source} is damaged: {path} is missing; use another backup")
        if _digest(source / path) != digest:
            raise DeliveryError(f"{source} is damaged: {path} is not what was copied; use another backup")
    if more := sorted(found - manifest.files.keys()):
        raise DeliveryError(f"{source} was changed: {more[0]} does not belong to it; take it away")
    return manifest


def restore_backup(source: Path, state: Path) -> Manifest:
    """Put a backup into a state folder; it is there whole, or not at all.

    Args:
        source: Folder of the backup.
        state: Where nothing is yet.

    Raises:
        InputError: It is no backup, or something is in the state folder.
        DeliveryError: The backup is damaged.
    """
    _refuse_filled(state)
    manifest = verify_backup(source)
    part = state.with_name(f".{state.name}.restore.{os.getpid()}")
    try:
        part.mkdir(parents=True, mode=0o700)
        for path in manifest.files:
            _copy_file(source / path, part / path)
        _close_folders(part)
        if state.exists():
            state.rmdir()
        part.rename(state)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _refuse_filled(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty, and nothing is overwritten; give a folder that does not exist yet")


def _copy_ledger(url: str, target: Path) -> str | None:
    from tasks.stores.ledger.migrate import look_up_level

    if not url.startswith("sqlite:///"):
        return None
    _copy_database(Path(url.removeprefix("sqlite:///")), target)
    return look_up_level(f"sqlite:///{target.absolute()}")


def _copy_database(source: Path, target: Path) -> None:
    """Copy an SQLite database as of one moment, others going on to write."""
    if not source.exists():
        return
    _write(target, b"")
    address = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=30)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")  # one file, whatever it was


def _copy_lake(root: Path, target: Path) -> dict[str, int]:
    """Copy each table at the version it has when its turn comes: later commits add files, and delete none."""
    from tasks.stores.lake_care import tables_of
    from tasks.stores.lake_table import files_of, open_table

    versions: dict[str, int] = {}
    if not root.is_dir():
        return versions
    names = sorted((name for name, _ in tables_of(root)), key=lambda name: (name != _FIRST_TABLE, name))
    for name in names:
        table = open_table(root / name)
        if table is None:
            continue
        versions[name] = table.version()
        for file in files_of(table):
            _copy_file(Path(file), target / name / Path(file).relative_to(root / name))
        for log in _log_files(root / name / "_delta_log", versions[name]):
            _copy_file(log, target / name / "_delta_log" / log.name)
        copied = open_table(target / name)
        missing = [file for file in files_of(copied) if not Path(file).exists()] if copied is not None else ["its log"]
        if copied is None or copied.version() != versions[name] or missing:
            raise DeliveryError(f"table {name} was cleaned up while it was copied; make the backup again")
    return versions


def _log_files(folder: Path, version: int) -> Iterator[Path]:
    for path in folder.iterdir():
        number = path.name.partition(".")[0]
        if number.isdecimal() and int(number) <= version and path.is_file():
            yield path
        elif path.name == "_last_checkpoint":
            hint: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if int(hint["version"]) <= version:
                yield path


def _copy_logs(source: Path, target: Path) -> None:
    """Copy the interaction logs up to the last whole line."""
    for path in sorted(source.rglob("*.jsonl")) if source.is_dir() else ():
        with path.open("rb") as file:
            text = file.read()
        _write(target / path.relative_to(source), text[: text.rfind(b"\n") + 1])


def _copy_settings(state: Path, target: Path) -> None:
    """Copy what people wrote into the folder - budgets, whom to alert - and the login."""
    for path in (*state.glob("*.json"), *state.glob("*.yaml"), *state.glob("*.yml")):
        if path.name not in _WRITTEN_AGAIN:
            _copy_file(path, target / path.name)


def _copy_folder(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        if path.is_file():
            _copy_file(path, target / path.relative_to(source))


def _copy_file(source: Path, target: Path) -> None:
    if not source.exists():
        return
    _write(target, b"")
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, _MIB)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _close_folders(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


def _wishes(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((state / "servers").glob("*.json"))}


def _paths(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder) != Path(MANIFEST):
            yield path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
