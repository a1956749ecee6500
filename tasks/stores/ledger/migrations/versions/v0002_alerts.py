"""Alerts, what happened to each, and the notices about them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, DateTime, Index, Integer, MetaData, String, Table, Text

revision = "0002"
down_revision = "0001"

tables = MetaData()
_MOMENT = DateTime(timezone=True)

Table(
    "alerts",
    tables,
    Column("alert_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("monitor", String(64), nullable=False),
    Column("segment", String(300), nullable=False, comment="column=value; empty: the whole release"),
    Column("state", String(32), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("opened", _MOMENT, nullable=False),
    Column("changed", _MOMENT, nullable=False),
    Column("window_end", _MOMENT, nullable=False, comment="of the latest window it rests on"),
    Column("failures", Integer, nullable=False, comment="windows that failed since it was opened"),
    Column("who", String(200), nullable=False),
    Column("silenced_until", _MOMENT),
    Index("alert_of_monitor", "application", "release_digest", "monitor", "segment", unique=True),
)

Table(
    "alert_events",
    tables,
    Column("number", Integer, primary_key=True),
    Column("alert_id", String(32), nullable=False, index=True),
    Column("turn", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", _MOMENT, nullable=False),
)

Table(
    "notices",
    tables,
    Column("notice_id", String(32), primary_key=True),
    Column("alert_id", String(32), nullable=False, index=True),
    Column("block", String(200), nullable=False, comment="the Prefect notification block, type/name"),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created", _MOMENT, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt", _MOMENT, nullable=False, index=True),
    Column("delivered", _MOMENT),
    Column("dropped", String(200), nullable=False, comment="why it is not sent any more; empty: it is"),
    Column("error", Text, nullable=False),
)


def upgrade() -> None:
    """Make the tables that are missing."""
    tables.create_all(op.get_bind())
