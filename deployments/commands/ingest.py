"""What ``delivery`` does with the interaction log from a shell: take files in, care for it, forget a user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from tasks.audit import put_on_record
from tasks.interactions.counts import Cared, Ingested, SourceCount
from tasks.interactions.ingest import Job, find_logs, ingest_file
from tasks.interactions.old_logs import LOG_FILES, drop_logs
from tasks.release.history import Deed
from tasks.settings import Settings
from tasks.stores.lake import Appended, Lake
from tasks.stores.lake_care import compact, retain, vacuum
from tasks.stores.lake_forget import forget_user, hash_user

Say = Callable[[str], None]


def ingest_path(where: Settings, path: Path, job: Job) -> Ingested:
    """Take a file or folder into the lake, with a bar that shows how far it is.

    Raises:
        NotFoundError: The path names nothing.
    """
    from tasks.interactions.reading import total_bytes

    lake, counts = Lake(where.lake_dir), list[SourceCount]()
    with Progress(transient=True) as bar:
        for file in find_logs(path, documents=True):
            shown = bar.add_task(file.name, total=max(total_bytes(file), 1))
            counts.append(ingest_file(lake, file, datetime.now(UTC), partial(_advance, bar, shown), job))
    return Ingested(tuple(counts))


def _advance(bar: Progress, shown: TaskID, _: Path, done: int) -> None:
    bar.update(shown, completed=done)


def print_ingested(found: Ingested, *, dry_run: bool) -> None:
    """Print counts that add up, what would be stored, and what was set aside; no line's content."""
    console = Console(highlight=False)
    stored = "would store" if dry_run else "stored"
    table = Table()
    for name in ("file", "read", stored, "duplicates", "rejected", "of these set aside"):
        table.add_column(name, overflow="fold")
    rows: Sequence[tuple[str, SourceCount | Ingested]] = [(str(one.path), one) for one in found.sources]
    for label, one in (*rows, ("total", found)):
        table.add_row(label, *(str(n) for n in (one.read, one.stored, one.duplicates, one.rejected, one.set_aside)))
    console.print(table)
    for content in found.contents:
        console.print(
            f"  {content.date_utc} {content.application} {content.model or 'unknown model'}: {content.rows}",
            markup=False,
        )
    for source in found.sources:
        for name, reasons in source.batches:
            console.print(f"set aside {name} of {source.path}: {'; '.join(reasons)}", markup=False)


def compact_lake(where: Settings, *, hours: int = 24, dry_run: bool = False) -> tuple[tuple[Cared, ...], int]:
    """Put small files together and delete those that were replaced; return what was done and how many were deleted."""
    root = Lake(where.lake_dir).root
    return compact(root, dry_run=dry_run), vacuum(root, hours=hours, dry_run=dry_run)


def retain_lake(
    where: Settings,
    *,
    keep_days: int | None,
    text_days: int | None,
    log_days: int | None = None,
    dry_run: bool = False,
) -> tuple[Cared, ...]:
    """Drop days, empty texts, and delete log files that are stored, where they are too old."""
    today, lake = datetime.now(UTC).date(), Lake(where.lake_dir)
    done = retain(lake.root, today, keep_days=keep_days, text_days=text_days, dry_run=dry_run)
    if log_days is None:
        return done
    return (*done, drop_logs(lake, where.log_dir, today - timedelta(days=log_days), dry_run=dry_run))


def forget(
    where: Settings, user: str, *, is_hash: bool = False, dry_run: bool = False, who: str = "", reason: str = ""
) -> tuple[Cared, ...]:
    """Delete a user's data from every table, by the user's id or by its SHA-256; the record does not say whose.

    Log files that the lake has all of go as well, whoever stands in them; those of today are still written to.
    """
    if not dry_run:
        put_on_record(where, Deed.FORGET, None, who, reason)
    lake, today = Lake(where.lake_dir), datetime.now(UTC).date()
    done = forget_user(lake.root, user if is_hash else hash_user(user), dry_run=dry_run)
    return (*done, drop_logs(lake, where.log_dir, today, dry_run=dry_run))


def release(where: Settings, aside_id: str) -> Appended:
    """Store a batch that was set aside.

    Raises:
        NotFoundError: No such batch was set aside.
    """
    return Lake(where.lake_dir).release_set_aside(aside_id)


def print_cared(done: Sequence[Cared], say: Say, *, dry_run: bool) -> None:
    """Print what was done to each table, or would be."""
    for one in done:
        say(
            f"{one.table}: {'would change' if dry_run else 'changed'} {one.rows} {_what(one)},"
            f" {one.files_before} -> {one.files_after} files"
        )
    if not done:
        say("nothing to do")


def _what(one: Cared) -> str:
    return "bytes" if one.table == LOG_FILES else "rows"
