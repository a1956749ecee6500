"""Bring the tables of a ledger to the level this program was written for, and say at which level they are.

A new database gets the tables as they are now. One that has tables is changed step by step (``migrations``); one from
before there were levels begins at the first, which makes what is missing and leaves what is there.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, column, create_engine, func, inspect, select, table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from tasks.errors import DeliveryError
from tasks.stores.ledger.migrations import HEAD, VERSION_TABLE
from tasks.stores.ledger.schema import metadata

_LOCK = 7_205_759
_VERSION = table(VERSION_TABLE, column("version_num"))


def bring_up(engine: Engine) -> None:
    """Make the tables of a database, or change them to what this program needs.

    A database that is further already, because a newer program changed it, is left alone: changes only add.

    Raises:
        DeliveryError: The database cannot be changed; it is as it was before.
    """
    with engine.connect() as db:
        if (read_level(db) or "") >= HEAD:
            return  # as nearly always: nobody waits for a writer
    with engine.begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(select(func.pg_advisory_xact_lock(_LOCK)))  # two flows may start side by side
        level = read_level(db)
        if level is None and not _has_tables(db):
            metadata.create_all(db)
            _run(db, "stamp")
        elif (level or "") < HEAD:
            _run(db, "upgrade")


def read_level(db: Connection) -> str | None:
    """Return the level of a database's tables, None where it has none."""
    if not inspect(db).has_table(VERSION_TABLE):
        return None
    return db.execute(select(_VERSION.c.version_num)).scalar()


def look_up_level(url: str) -> str | None:
    """Return the level of a ledger without changing anything; None where it has no tables, or no level yet.

    Args:
        url: SQLAlchemy URL of the database.

    Raises:
        DeliveryError: It cannot be read.
    """
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None  # looking would make it
    wait = {"connect_timeout": 2} if url.startswith("postgresql") else {"timeout": 2}
    try:
        engine = create_engine(url, connect_args=wait, poolclass=NullPool, hide_parameters=True)
        with engine.connect() as db:
            return read_level(db)
    except SQLAlchemyError as error:
        # Not its text: it may hold the address with its password.
        raise DeliveryError(f"the ledger cannot be read ({type(error).__name__}); check DELIVERY_LEDGER_URL") from None


def _has_tables(db: Connection) -> bool:
    return not metadata.tables.keys().isdisjoint(inspect(db).get_table_names())


def _run(db: Connection, what: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    try:
        (command.stamp if what == "stamp" else command.upgrade)(config, "head")
    except (CommandError, SQLAlchemyError) as error:
        raise DeliveryError(
            f"the ledger's tables cannot be brought to level {HEAD} ({type(error).__name__}): nothing was changed; "
            f"look whether the disk is full and whether its user may create tables, then run it again"
        ) from error
