"""The steps that care for the interaction log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from tasks.audit import put_on_record
from tasks.interactions.counts import Cared
from tasks.interactions.old_logs import drop_logs as delete_logs
from tasks.release.history import Deed
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.lake_care import compact as put_together
from tasks.stores.lake_care import retain as drop_old
from tasks.stores.lake_care import vacuum as delete_files
from tasks.stores.lake_forget import forget_user as delete_user


def run_name() -> str:
    """Return the name of a flow run, for people; it names no user."""
    doing = "look at" if flow_run.parameters.get("dry_run") else "care for"
    return f"{doing} the interaction log"


@task(retries=2, retry_delay_seconds=5)
def retain(where: Settings, keep_days: int | None, text_days: int | None, *, dry_run: bool) -> tuple[Cared, ...]:
    """Drop days and texts that are too old."""
    today = datetime.now(UTC).date()
    return drop_old(Lake(where.lake_dir).root, today, keep_days=keep_days, text_days=text_days, dry_run=dry_run)


@task(retries=2, retry_delay_seconds=5)
def drop_logs(where: Settings, days: int | None, *, dry_run: bool) -> tuple[Cared, ...]:
    """Delete the log files of days before so many that are in the lake to the last byte; None deletes none."""
    if days is None:
        return ()
    before = datetime.now(UTC).date() - timedelta(days=days)
    return (delete_logs(Lake(where.lake_dir), where.log_dir, before, dry_run=dry_run),)


@task(retries=2, retry_delay_seconds=5)
def compact(where: Settings, *, dry_run: bool) -> tuple[Cared, ...]:
    """Put small files together."""
    return put_together(Lake(where.lake_dir).root, dry_run=dry_run)


@task
def vacuum(where: Settings, hours: int, *, dry_run: bool) -> int:
    """Delete the files that no row stands in any more."""
    return delete_files(Lake(where.lake_dir).root, hours=hours, dry_run=dry_run)


@task(retries=2, retry_delay_seconds=5)
def forget_user(where: Settings, user_hash: str, who: str, reason: str, *, dry_run: bool) -> tuple[Cared, ...]:
    """Delete a user's rows from every table, and the files they stood in; the record says who asked, not of whom."""
    if not dry_run:
        put_on_record(where, Deed.FORGET, None, who, reason, flow_run.get_id())
    return delete_user(Lake(where.lake_dir).root, user_hash, dry_run=dry_run)


@task
def publish_care(done: Sequence[Cared], deleted: int) -> tuple[Cared, ...]:
    """Show what was done, or would be."""
    rows = [
        {"table": one.table, "rows": one.rows, "files before": one.files_before, "files after": one.files_after}
        for one in done
    ]
    create_table_artifact(key="maintenance", table=rows, description=f"{deleted} files deleted")
    return tuple(done)
