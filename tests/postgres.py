"""A PostgreSQL server of the tests' own, and tests whose ledgers are there: ``pytest --ledger postgresql``.

With the option, every state folder has a database of its own where it would have a SQLite file (``ledgers/``), in this
process and in those that tests start. Without it, tests that ask for ``either_ledger`` run on both, but for those
marked ``one_ledger``, which take long and have a shorter one beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import state_ledgers
from postgres_server import PostgresServer, find_programs, running_postgres

from tasks.settings import Settings
from tasks.stores.ledger import Ledger, database

KINDS = ("sqlite", "postgresql")
_OPEN: list[sqlalchemy.Engine] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger", choices=KINDS, default=KINDS[0], help="where the ledger of a state folder is")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite_file(reason): is about the SQLite file of a state folder itself")
    config.addinivalue_line("markers", "one_ledger: runs on PostgreSQL where everything does, with --ledger postgresql")
    if config.getoption("--ledger") != KINDS[0] and find_programs() is None:
        raise pytest.UsageError("PostgreSQL is not installed (apt-get install postgresql)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--ledger") == KINDS[0]:
        return
    for item in items:
        for mark in item.iter_markers("sqlite_file"):
            item.add_marker(pytest.mark.skip(reason=f"is about SQLite: {mark.args[0]}"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "either_ledger" in metafunc.fixturenames:
        asked = str(metafunc.config.getoption("--ledger"))
        is_one = asked != KINDS[0] or metafunc.definition.get_closest_marker("one_ledger") is not None
        metafunc.parametrize("either_ledger", [asked] if is_one else KINDS, indirect=True, scope="module")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server."""
    with running_postgres() as server:
        if server is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        yield server


@pytest.fixture(scope="session")
def postgres(postgres_server: PostgresServer) -> str:
    """Return the address of a PostgreSQL server, without a database name."""
    return postgres_server.url


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """Close the connections of each test: a server has a hundred, a session a thousand tests."""
    try:
        yield
    finally:
        for engine in _OPEN:
            engine.dispose()


@contextmanager
def ledgers_on(server: PostgresServer) -> Iterator[None]:
    """Have a database for the ledger of every state folder until the block ends."""
    if not server.has(state_ledgers.TEMPLATE):
        Ledger(server.make(state_ledgers.TEMPLATE)).close()  # who connects to a template keeps others from copying it
    make_engine: Callable[..., sqlalchemy.Engine] = sqlalchemy.create_engine

    def create_engine(*args: Any, **options: Any) -> sqlalchemy.Engine:
        _OPEN.append(make_engine(*args, **options))
        return _OPEN[-1]

    path = os.pathsep.join([str(Path(state_ledgers.__file__).parent), os.environ.get("PYTHONPATH", "")])
    state_ledgers.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(state_ledgers.SERVER, server.url)
        patch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
        patch.setattr(Settings, "ledger", property(state_ledgers.ledger_of))
        patch.setattr(database, "create_engine", create_engine)
        yield


@pytest.fixture(scope="session", autouse=True)
def _every_ledger(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("--ledger") == KINDS[0]:
        yield
        return
    with ledgers_on(request.getfixturevalue("postgres_server")):
        yield


@pytest.fixture(scope="module")
def either_ledger(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a kind of database; the ledgers of state folders are there until the last test of a file with this kind."""
    is_there = request.config.getoption("--ledger") == request.param
    if is_there:
        yield request.param
        return
    with ledgers_on(request.getfixturevalue("postgres_server")):
        yield request.param


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """Return a function that makes an empty database and returns its URL."""
    names = (f"test_{number}" for number in count(1))
    return lambda: postgres_server.make(next(name for name in names if not postgres_server.has(name)))
