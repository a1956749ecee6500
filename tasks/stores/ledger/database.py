"""The database of the ledger, and the leases that say who may write to it."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select, update
from sqlalchemy.exc import IntegrityError

from tasks.errors import LeaseError
from tasks.release.rollout import Lease
from tasks.stores.ledger.migrate import bring_up
from tasks.stores.ledger.schema import leases

FROZEN_MS = 15_000
"""How long PostgreSQL lets a transaction do nothing before it ends it, milliseconds."""
LEASE_S = 30.0
"""How long a lease lives without a heartbeat, seconds."""
_READS = "ledger_reads"
_WAL_S = 30.0
_CONNECTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Database:
    """One database and its leases.

    Args:
        url: SQLAlchemy URL of the database.
    """

    url: str

    @property
    def _engine(self) -> Engine:
        with _CONNECTING:  # threads that come first together would each make an engine
            return _connect(self.url)

    def _write(self) -> AbstractContextManager[Connection]:
        return self._engine.begin()

    def _read(self) -> Connection:
        return self._engine.connect().execution_options(**{_READS: True})

    def close(self) -> None:
        """Close the connections this process has; the next call opens new ones."""
        self._engine.dispose()

    def acquire(self, application: str, holder: str, now: datetime, *, seize: bool = False) -> Lease:
        """Take the lease of an application.

        Args:
            application: What is to be changed.
            holder: Who asks, for the message others get; the same holder may take its own lease again.
            now: The time, UTC.
            seize: Take it even from a living holder, whose writes are refused from then on. Only a rollback does,
                and not from another rollback.

        Raises:
            LeaseError: Somebody else holds it; the message says who and until when.
        """
        with self._write() as db:
            row = db.execute(select(leases).where(leases.c.application == application).with_for_update()).first()
            if row is not None and row.expires > now and row.holder != holder and (row.seized or not seize):
                raise LeaseError(
                    f"{application} is being changed by {row.holder}; wait until it ends, or roll it back "
                    f"(its lease runs until {row.expires:%H:%M:%S} UTC)"
                )
            token = (row.token if row is not None else 0) + 1
            expires = now + timedelta(seconds=LEASE_S)
            values = {"holder": holder, "token": token, "expires": expires, "seized": seize}
            if row is None:
                try:
                    db.execute(insert(leases).values(application=application, **values))
                except IntegrityError as error:
                    raise LeaseError(f"somebody else began to change {application} at this moment") from error
            else:
                db.execute(update(leases).where(leases.c.application == application).values(**values))
        return Lease(application=application, holder=holder, token=token)

    def lease_expiry(self, application: str) -> datetime | None:
        """Return when the lease of an application runs out, None where nobody ever held it."""
        with self._read() as db:
            return db.execute(select(leases.c.expires).where(leases.c.application == application)).scalar()

    def renew(self, lease: Lease, now: datetime) -> None:
        """Prolong a lease.

        Raises:
            LeaseError: It was lost meanwhile.
        """
        with self._write() as db:
            fence(db, lease)
            expires = now + timedelta(seconds=LEASE_S)
            db.execute(update(leases).where(leases.c.application == lease.application).values(expires=expires))

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back; one that was lost meanwhile stays with its new holder."""
        with self._write() as db:
            mine = (leases.c.application == lease.application) & (leases.c.token == lease.token)
            db.execute(update(leases).where(mine).values(expires=datetime(1970, 1, 1, tzinfo=UTC)))


def fence(db: Connection, lease: Lease) -> None:
    """Refuse to go on with a lease that somebody else has by now.

    Raises:
        LeaseError: The lease was lost; the transaction must not be committed.
    """
    row = db.execute(select(leases).where(leases.c.application == lease.application).with_for_update()).first()
    if row is None or row.token != lease.token:
        who = row.holder if row is not None else "nobody"
        raise LeaseError(f"{lease.holder} no longer holds {lease.application}: {who} does; nothing was written")


@cache
def _connect(url: str) -> Engine:
    """Return the one engine a process has for a database, with its tables as this program needs them."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    # A holder that freezes inside a transaction would keep its lock, and an abort would wait for it for ever.
    options = {"options": f"-c idle_in_transaction_session_timeout={FROZEN_MS}"} if _is_postgres(url) else {}
    # What is written holds prompts, and the text of an error goes into logs and the states of runs.
    engine = create_engine(url, pool_pre_ping=True, connect_args=options, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        _serialise_writers(engine)
    bring_up(engine)
    return engine


def _is_postgres(url: str) -> bool:
    return make_url(url).get_backend_name() == "postgresql"


def _write_ahead(connection: Any) -> None:
    """Turn the write-ahead log on, which is refused at once, and not waited for, while another one does the same."""
    until = time.monotonic() + _WAL_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _serialise_writers(engine: Engine) -> None:
    """Make SQLite wait for other writers instead of failing, and take the write lock at once."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late and be deferred
        connection.execute("PRAGMA busy_timeout = 30000")
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(_READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
