"""What Alembic runs for every change; the connection comes from ``migrate.py``."""

from __future__ import annotations

from alembic import context

from tasks.stores.ledger.migrations import VERSION_TABLE
from tasks.stores.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
