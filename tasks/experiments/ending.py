"""How an experiment ends: a turn of it on record, what its control broke, and what people are told."""

from __future__ import annotations

from collections.abc import Mapping

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from tasks.experiments.life import ExperimentRecord, Stage, Turn
from tasks.experiments.verdict import as_nightly
from tasks.monitors.alerts import find_signals
from tasks.monitors.verdict import Outcome, Verdict
from tasks.release import telling
from tasks.release.acting import log_verdict, now
from tasks.release.model import Release
from tasks.release.report import cell, traffic_lines
from tasks.release.rollout import Ending, Lease
from tasks.release.telling import publish
from tasks.settings import Settings
from tasks.stores.ledger import Ledger

_ENDINGS: Mapping[Stage, str] = {
    Stage.KEPT: "Kept",
    Stage.REJECTED: "Rejected",
    Stage.ROLLED_BACK: "RolledBack",
    Stage.FALTERED: "ControlFailed",
    Stage.STOPPED: "Stopped",
}


def turn(
    where: Settings, lease: Lease, record: ExperimentRecord, happened: Turn, reason: str, *, blamed: str | None = None
) -> ExperimentRecord:
    """Put a turn of an experiment on record and return it as it is then."""
    return Ledger(where.ledger).turn_experiment(lease, record, happened, reason, now(), blamed=blamed)


def record_verdict(where: Settings, verdict: Verdict, label: str) -> None:
    """Put the verdict of an arm on record."""
    Ledger(where.ledger).record_verdict(verdict, kind="experiment", flow_run_id=flow_run.get_id())
    log_verdict(verdict, label)


def publish_end(where: Settings, record: ExperimentRecord) -> Ending:
    """Tell people how it ended, in words and as a table for machines."""
    decided, plan = record.decided, Ledger(where.ledger).plan(record.application)
    name = _ENDINGS.get(record.stage) or (decided.ending if decided else "Concluded")
    text = decided.markdown if decided else f"# A/B test {record.name}: {record.stage}\n\n{cell(record.reason)}"
    markdown = "\n".join([text, "", *traffic_lines(plan)])
    if decided is not None:
        create_table_artifact(key=f"experiment-effects-{record.experiment_id[:12]}", table=decided.document["effects"])
    digest = (decided.winner if decided else None) or record.control
    is_failure = record.stage in {Stage.REJECTED, Stage.ROLLED_BACK, Stage.FALTERED}
    ending = Ending(name=name, message=record.reason, is_failure=is_failure, release_digest=digest)
    return publish(record.application, "experiment", ending, markdown)


def put_breach_on_record(
    where: Settings, lease: Lease, record: ExperimentRecord, releases: Mapping[str, Release], breach: Verdict
) -> ExperimentRecord:
    """Put an arm that broke a limit on record; for what the control breaks nobody is blamed, and people are told."""
    broken = breach.release_digest
    record_verdict(where, breach, releases[broken].label)
    reason = f"{releases[broken].label} broke a limit: {breach.reason}"
    if broken != record.control:
        return turn(where, lease, record, Turn.FAIL, reason, blamed=broken)
    reason = f"the control {reason}; no arm is blamed"
    get_run_logger().error(f"{record.application}: {reason}")
    # First: once the turn is on record, a run that starts again looks at no limit any more.
    signals = [signal for signal in find_signals(as_nightly(breach)) if signal.outcome is Outcome.FAIL]
    telling.announce_alerts(Ledger(where.ledger).signal_alerts(signals, telling.route_of(where), now()))
    return turn(where, lease, record, Turn.FALTER, reason)
