"""Read the history of an application from the ledger, and from the lake who met what was stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from tasks.errors import NotFoundError
from tasks.release.history import History, Prevented
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger

_USERS = "SELECT count(DISTINCT unit) FROM interactions WHERE release_digest = ?"


def find_history(where: Settings, application: str, since: datetime | None, release: str | None) -> History:
    """Return what happened to an application.

    Args:
        where: The settings.
        application: What users call.
        since: Leave out what was before, UTC; None: nothing.
        release: Leave out other releases: a digest, its first 12 digits, or a version; None: none.

    Raises:
        NotFoundError: It never had a plan, or no release of it is called so.
    """
    ledger = Ledger(where.ledger)
    digest = ledger.resolve(application, release) if release else None
    found = ledger.history(application)
    if not found.entries:
        known = ", ".join(ledger.applications()) or "none yet"
        raise NotFoundError(f"{application} has no traffic plan and no rollout; applications that have: {known}")
    found = found.narrowed(since, digest)
    counted = tuple(replace(one, users=_count_users(where, application, one)) for one in found.prevented)
    return replace(found, prevented=counted)


def _count_users(where: Settings, application: str, stopped: Prevented) -> int | None:
    """Return how many users a release answered in its rollout; None where the lake does not say."""
    if stopped.share == 0:
        return 0
    lake = Lake(where.lake_dir)
    with lake.query(stopped.began, stopped.ended, application) as database:
        row = database.execute(_USERS, [stopped.release_digest]).fetchone()
    return int(row[0]) if row and row[0] else None  # it had users, so none in the lake means they are not there
