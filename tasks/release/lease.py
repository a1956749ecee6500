"""Hold the lease of an application while something changes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from tasks.errors import LeaseError
from tasks.release.rollout import Lease
from tasks.stores.ledger import LEASE_S, Ledger

_HEARTBEAT_S = LEASE_S / 6
_RETRY_S = 1.0
_PATIENCE_S = 300.0


@contextmanager
def holding(ledger: Ledger, application: str, holder: str, *, seize: bool = False) -> Iterator[Lease]:
    """Hold the lease while the block runs, with a heartbeat.

    A holder that was killed leaves a lease that runs out: it is waited for. One that lives is not, unless both are
    rollbacks: the second waits for the first, and then finds nothing left to do.

    Raises:
        LeaseError: Somebody else holds it and is alive.
    """
    lease = _acquire(ledger, application, holder, seize=seize)
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(ledger, lease, stop), name="lease", daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        stop.set()
        beat.join(timeout=5)
        ledger.release_lease(lease)


def _acquire(ledger: Ledger, application: str, holder: str, *, seize: bool) -> Lease:
    last, since = ledger.lease_expiry(application), time.monotonic()
    deadline = since + _PATIENCE_S
    while True:
        moment = datetime.now(UTC)
        if last is not None and time.monotonic() - since > LEASE_S:
            moment = max(moment, last)  # nobody renewed it for a whole life: it is the clock that was set back
        try:
            return ledger.acquire(application, holder, moment, seize=seize)
        except LeaseError:
            expiry = ledger.lease_expiry(application)
            renewed = expiry is None or last is None or (expiry != last and expiry > moment)
            if (renewed and not seize) or time.monotonic() > deadline:
                raise
            if expiry != last:
                last, since = expiry, time.monotonic()
        time.sleep(_RETRY_S)


def _heartbeat(ledger: Ledger, lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        try:
            ledger.renew(lease, datetime.now(UTC))
        except LeaseError:
            return  # lost: the next write of the holder will be refused and say so
        except SQLAlchemyError:
            continue  # the database does not answer now; the lease outlives several beats
