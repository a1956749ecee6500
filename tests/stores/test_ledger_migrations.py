"""The ledger's tables: migrations make what the program uses, old ledgers come along, nothing is dropped."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, Text, create_engine, inspect, text

from tasks.errors import DeliveryError
from tasks.stores.ledger import Ledger, migrate
from tasks.stores.ledger.migrate import bring_up, look_up_level, read_level
from tasks.stores.ledger.migrations import HEAD, VERSION_TABLE
from tasks.stores.ledger.schema import metadata
from tasks.traffic.plan import BUCKETS, Plan

FOLDER = Path(migrate.__file__).parent / "migrations"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("new_database")())


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


def config(connection: Any = None) -> Config:
    made = Config(attributes={"connection": connection})
    made.set_main_option("script_location", str(FOLDER))
    return made


def differences(engine: Engine) -> list[Any]:
    def ours(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or name != VERSION_TABLE

    with engine.connect() as db:
        options = {"compare_type": _same_or_text, "include_name": ours, "version_table": VERSION_TABLE}
        return list(compare_metadata(MigrationContext.configure(db, opts=options), metadata))


def _same_or_text(_context: Any, _column: Any, _other: Any, found: Any, wanted: Any) -> bool | None:
    return None if not isinstance(wanted, Text) else not isinstance(found, Text)


def level(engine: Engine) -> str | None:
    with engine.connect() as db:
        return read_level(db)


def migrate_to(engine: Engine, revision: str) -> None:
    with engine.begin() as db:
        command.upgrade(config(db), revision)


def test_the_head_that_is_written_down_is_the_last_migration() -> None:
    assert ScriptDirectory.from_config(config()).get_heads() == [HEAD]


def test_all_migrations_make_exactly_the_tables_the_program_uses(engine: Engine) -> None:
    migrate_to(engine, "head")
    assert differences(engine) == []


def test_a_new_ledger_is_at_the_head_and_has_exactly_the_tables(engine: Engine) -> None:
    bring_up(engine)
    assert (level(engine), differences(engine)) == (HEAD, [])


def test_a_table_without_a_migration_is_seen(engine: Engine) -> None:
    migrate_to(engine, "head")
    with engine.begin() as db:
        db.execute(text("ALTER TABLE decisions DROP COLUMN who"))
    ((what, _, table, column),) = differences(engine)
    assert (what, table, column.name) == ("add_column", "decisions", "who")


@pytest.mark.parametrize("before_levels", [True, False])
def test_an_older_ledger_is_brought_up_and_keeps_its_rows(engine: Engine, url: str, *, before_levels: bool) -> None:
    migrate_to(engine, "0001")
    with engine.begin() as db:
        if before_levels:
            db.execute(text(f"DROP TABLE {VERSION_TABLE}"))
            db.execute(text("DROP TABLE experiment_events"))  # an even older one
        buckets = json.dumps([0] * BUCKETS)
        values = f"'faq', 1, 's', '[\"aa\"]', '{buckets}', 'me', NULL, 'why', '2026-03-01 00:00:00+00:00'"
        db.exec_driver_sql(f"INSERT INTO plans VALUES ({values})")  # noqa: S608 - constants
    assert look_up_level(url) == (None if before_levels else "0001")
    ledger = Ledger(url)
    plan = ledger.plan("faq")
    assert plan is not None
    assert (plan.revision, plan.buckets, plan.time) == (1, ("aa",) * BUCKETS, NOW)
    assert (level(engine), differences(engine)) == (HEAD, [])
    ledger.close()


def test_a_ledger_at_the_head_is_opened_without_a_writer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    Ledger(url).close()
    writer = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")  # it would be waited for, 30 s
    engine = create_engine(url, connect_args={"timeout": 0})
    bring_up(engine)
    engine.dispose()
    writer.close()


def test_a_newer_ledger_is_used_as_it_is(engine: Engine, url: str) -> None:
    bring_up(engine)
    with engine.begin() as db:
        db.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608 - constants
        db.execute(text("ALTER TABLE plans ADD COLUMN later VARCHAR(10)"))
    ledger = Ledger(url)
    plan = Plan(
        application="faq",
        revision=1,
        salt="s",
        buckets=("aa",) * BUCKETS,
        author="me",
        flow_run_id=None,
        reason="why",
        time=NOW,
    )
    ledger.write_plan(plan, ledger.acquire("faq", "me", NOW))
    assert ledger.plan("faq") == plan
    assert level(engine) == "9999"
    ledger.close()


def test_migrations_only_add() -> None:
    # Programs of the version before go on working while an upgrade is under way.
    for path in (FOLDER / "versions").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for word in ("drop_", "rename", "DROP", "RENAME", "nullable=False, server_default=None"):
            assert word not in source, f"{path.name} has {word}"


def test_what_fails_changes_nothing_and_shows_no_address(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate_to(engine, "0001")
    engine.dispose()
    folder = tmp_path / "ledger.db"
    before = folder.read_bytes()
    readonly = create_engine(f"sqlite:///file:{folder}?mode=ro&uri=true")
    with pytest.raises(
        DeliveryError, match=rf"cannot be brought to level {HEAD} \(OperationalError\): nothing was changed"
    ):
        bring_up(readonly)
    readonly.dispose()
    assert folder.read_bytes() == before


def test_looking_makes_nothing_and_a_dead_server_is_said_without_its_password(tmp_path: Path) -> None:
    assert look_up_level(f"sqlite:///{tmp_path / 'none.db'}") is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DeliveryError, match="check DELIVERY_LEDGER_URL") as caught:
        look_up_level("postgresql+psycopg://me:hunter2@127.0.0.1:1/ledger")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_two_that_come_first_together_make_one_set_of_tables(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engines = [create_engine(url, **({"connect_args": {"timeout": 20}} if "sqlite" in url else {})) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_first if "sqlite" in url else bring_up, engines))
    assert [level(engine) for engine in engines] == [HEAD, HEAD]
    assert "plans" in inspect(engines[0]).get_table_names()
    for engine in engines:
        engine.dispose()


def _first(engine: Engine) -> None:
    from tasks.stores.ledger.database import _serialise_writers

    _serialise_writers(engine)
    bring_up(engine)


def test_the_write_ahead_log_is_waited_for_where_another_one_turns_it_on(tmp_path: Path) -> None:
    from tasks.stores.ledger.database import _write_ahead

    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN EXCLUSIVE")  # as whoever changes the journal holds it
    mine = sqlite3.connect(path, isolation_level=None, timeout=0)
    threading.Timer(0.2, other.execute, ["ROLLBACK"]).start()
    _write_ahead(mine)
    assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    mine.close()
    other.close()
