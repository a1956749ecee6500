"""What people did that no other table has."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, DateTime, Index, Integer, MetaData, String, Table, Text

revision = "0003"
down_revision = "0002"

tables = MetaData()

Table(
    "acts",
    tables,
    Column("number", Integer, primary_key=True),
    Column("application", String(64), nullable=False, comment="empty: every application"),
    Column("release_digest", String(64), nullable=False, comment="empty: no release in particular"),
    Column("deed", String(32), nullable=False, comment="rollback, abort, override, stop, reprice or forget"),
    Column("who", String(200), nullable=False, comment="empty: nobody said"),
    Column("reason", Text, nullable=False),
    Column("flow_run_id", String(64)),
    Column("time", DateTime(timezone=True), nullable=False),
    Index("acts_of_application", "application", "time"),
)


def upgrade() -> None:
    """Make the table."""
    tables.create_all(op.get_bind())
