"""${message}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tasks.stores.ledger.schema import UtcDateTime

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Add it."""
    ${upgrades if upgrades else "pass"}
