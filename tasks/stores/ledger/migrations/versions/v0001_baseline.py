"""The tables as they were when levels began; what a ledger has of them already stays as it is."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, DateTime, Index, Integer, MetaData, String, Table, Text

revision = "0001"
down_revision = None

tables = MetaData()
_MOMENT = DateTime(timezone=True)

Table(
    "plans",
    tables,
    Column("application", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("salt", String(64), nullable=False),
    Column("releases", Text, nullable=False, comment="digests, as JSON"),
    Column("buckets", Text, nullable=False, comment="1,000 indices into releases, as JSON"),
    Column("author", String(200), nullable=False),
    Column("flow_run_id", String(64)),
    Column("reason", Text, nullable=False),
    Column("time", _MOMENT, nullable=False),
)

Table(
    "leases",
    tables,
    Column("application", String(64), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("token", Integer, nullable=False, comment="grows with every holder; an older one may not write"),
    Column("expires", _MOMENT, nullable=False),
    Column("seized", Boolean, nullable=False, comment="by a rollback; another rollback waits"),
)

Table(
    "releases",
    tables,
    Column("application", String(64), primary_key=True),
    Column("release_digest", String(64), primary_key=True),
    Column("record", Text, nullable=False, comment="the release with its prompt, as JSON"),
)

Table(
    "rollouts",
    tables,
    Column("rollout_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("stable_digest", String(64), nullable=False, comment="who takes the users back; empty: nobody"),
    Column("deployment_id", String(200), nullable=False),
    Column("state", String(32), nullable=False),
    Column("started", _MOMENT, nullable=False),
    Column("changed", _MOMENT, nullable=False),
    Column("reason", Text, nullable=False),
    Index("rollouts_of_application", "application", "started"),
)

Table(
    "rollout_events",
    tables,
    Column("number", Integer, primary_key=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("event", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", _MOMENT, nullable=False),
)

Table(
    "experiments",
    tables,
    Column("experiment_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("control", String(64), nullable=False, comment="digest of the release that takes the users back"),
    Column("arms", Text, nullable=False, comment="digest and weight of every release, as JSON"),
    Column("users_per_arm", Integer, nullable=False, comment="the fixed sample"),
    Column("design", Text, nullable=False, comment="what was asked for, as JSON"),
    Column("stage", String(32), nullable=False),
    Column("started", _MOMENT, nullable=False),
    Column("changed", _MOMENT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided", Text, comment="what it came to, as JSON"),
    Index("experiments_of_application", "application", "name", unique=True),
)

Table(
    "experiment_events",
    tables,
    Column("number", Integer, primary_key=True),
    Column("experiment_id", String(32), nullable=False, index=True),
    Column("turn", String(32), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", _MOMENT, nullable=False),
)

Table(
    "decisions",
    tables,
    Column("number", Integer, primary_key=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("buckets", Integer, nullable=False, comment="the share it lets go on from; 0: that of the last step"),
    Column("action", String(32), nullable=False, comment="approve or hold"),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", _MOMENT, nullable=False),
)

Table(
    "verdicts",
    tables,
    Column("verdict_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("window_start", _MOMENT, nullable=False),
    Column("window_end", _MOMENT, nullable=False),
    Column("kind", String(32), nullable=False, comment="smoke, ramp, evaluation, costs, experiment or shadow"),
    Column("outcome", String(32), nullable=False),
    Column("checks", Text, nullable=False, comment="the checks with their inequalities, as JSON"),
    Column("flow_run_id", String(64)),
    Column("recorded", _MOMENT, nullable=False),
    Index("verdicts_of_application", "application", "window_end"),
)

Table(
    "quarantine",
    tables,
    Column("number", Integer, primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("time", _MOMENT, nullable=False),
    Column("lifted_by", String(200)),
    Column("lifted_reason", Text),
    Column("lifted_time", _MOMENT),
)


def upgrade() -> None:
    """Make the tables that are missing."""
    tables.create_all(op.get_bind())
