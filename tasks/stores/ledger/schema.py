"""The tables of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Boolean, Column, DateTime, Dialect, Index, Integer, MetaData, String, Table, Text, TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, on databases that keep time zones and on those that drop them."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a time without a zone could be any moment and is refused."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

plans = Table(
    "plans",
    metadata,
    Column("application", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("salt", String(64), nullable=False),
    Column("releases", Text, nullable=False, comment="digests, as JSON"),
    Column("buckets", Text, nullable=False, comment="1,000 indices into releases, as JSON"),
    Column("author", String(200), nullable=False),
    Column("flow_run_id", String(64)),
    Column("reason", Text, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("application", String(64), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("token", Integer, nullable=False, comment="grows with every holder; an older one may not write"),
    Column("expires", UtcDateTime, nullable=False),
    Column("seized", Boolean, nullable=False, comment="by a rollback; another rollback waits"),
)

releases = Table(
    "releases",
    metadata,
    Column("application", String(64), primary_key=True),
    Column("release_digest", String(64), primary_key=True),
    Column("record", Text, nullable=False, comment="the release with its prompt, as JSON"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("stable_digest", String(64), nullable=False, comment="who takes the users back; empty: nobody"),
    Column("deployment_id", String(200), nullable=False),
    Column("state", String(32), nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("changed", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    Index("rollouts_of_application", "application", "started"),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("event", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

experiments = Table(
    "experiments",
    metadata,
    Column("experiment_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("control", String(64), nullable=False, comment="digest of the release that takes the users back"),
    Column("arms", Text, nullable=False, comment="digest and weight of every release, as JSON"),
    Column("users_per_arm", Integer, nullable=False, comment="the fixed sample"),
    Column("design", Text, nullable=False, comment="what was asked for, as JSON"),
    Column("stage", String(32), nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("changed", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided", Text, comment="what it came to, as JSON"),
    Index("experiments_of_application", "application", "name", unique=True),
)

experiment_events = Table(
    "experiment_events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("experiment_id", String(32), nullable=False, index=True),
    Column("turn", String(32), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("buckets", Integer, nullable=False, comment="the share it lets go on from; 0: that of the last step"),
    Column("action", String(32), nullable=False, comment="approve or hold"),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("verdict_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("window_start", UtcDateTime, nullable=False),
    Column("window_end", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False, comment="smoke, ramp, evaluation, costs, experiment or shadow"),
    Column("outcome", String(32), nullable=False),
    Column("checks", Text, nullable=False, comment="the checks with their inequalities, as JSON"),
    Column("flow_run_id", String(64)),
    Column("recorded", UtcDateTime, nullable=False),
    Index("verdicts_of_application", "application", "window_end"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("lifted_by", String(200)),
    Column("lifted_reason", Text),
    Column("lifted_time", UtcDateTime),
)

acts = Table(
    "acts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("application", String(64), nullable=False, comment="empty: every application"),
    Column("release_digest", String(64), nullable=False, comment="empty: no release in particular"),
    Column("deed", String(32), nullable=False, comment="rollback, abort, override, stop, reprice or forget"),
    Column("who", String(200), nullable=False, comment="empty: nobody said"),
    Column("reason", Text, nullable=False),
    Column("flow_run_id", String(64)),
    Column("time", UtcDateTime, nullable=False),
    Index("acts_of_application", "application", "time"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", String(32), primary_key=True),
    Column("application", String(64), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("monitor", String(64), nullable=False),
    Column("segment", String(300), nullable=False, comment="column=value; empty: the whole release"),
    Column("state", String(32), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("opened", UtcDateTime, nullable=False),
    Column("changed", UtcDateTime, nullable=False),
    Column("window_end", UtcDateTime, nullable=False, comment="of the latest window it rests on"),
    Column("failures", Integer, nullable=False, comment="windows that failed since it was opened"),
    Column("who", String(200), nullable=False),
    Column("silenced_until", UtcDateTime),
    Index("alert_of_monitor", "application", "release_digest", "monitor", "segment", unique=True),
)

alert_events = Table(
    "alert_events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("alert_id", String(32), nullable=False, index=True),
    Column("turn", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

notices = Table(
    "notices",
    metadata,
    Column("notice_id", String(32), primary_key=True),
    Column("alert_id", String(32), nullable=False, index=True),
    Column("block", String(200), nullable=False, comment="the Prefect notification block, type/name"),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt", UtcDateTime, nullable=False, index=True),
    Column("delivered", UtcDateTime),
    Column("dropped", String(200), nullable=False, comment="why it is not sent any more; empty: it is"),
    Column("error", Text, nullable=False),
)
