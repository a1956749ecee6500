"""The ledgers of state folders on PostgreSQL: every folder that would have a SQLite file has a database instead.

A process takes part while the environment says where the server is; ``sitecustomize.py`` beside this file sees to the
processes that tests start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

SERVER = "TEST_LEDGERS"
"""Environment variable: the address of the server, without a database name."""
TEMPLATE = "ledger_template"
"""A database with the tables of a ledger and no row; nobody is connected to it."""
_MADE: dict[Path, str] = {}


def ledger_of(settings: Any) -> str:
    """Return the URL of the ledger that settings lead to: what they say, or the database of their state folder."""
    return str(settings.ledger_url or database_of(settings.state_dir))


def database_of(state_dir: Path) -> str:
    """Return the URL of the database of a state folder; it is made where this is the first to ask."""
    folder = state_dir.absolute()
    if folder not in _MADE:
        name = f"state_{sha256(str(folder).encode()).hexdigest()[:24]}"
        _make(name)
        _MADE[folder] = f"{os.environ[SERVER]}/{name}"
    return _MADE[folder]


def forget() -> None:
    """Forget the databases that were made: another server is asked from now on."""
    _MADE.clear()


def _make(name: str) -> None:
    import psycopg
    from psycopg.errors import DuplicateDatabase, UniqueViolation

    address = f"{os.environ[SERVER].replace('+psycopg', '')}/postgres"
    # Two processes may ask first at one moment.
    with psycopg.connect(address, autocommit=True) as db, suppress(DuplicateDatabase, UniqueViolation):
        db.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}".encode())
