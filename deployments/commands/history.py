"""What served when, to what share, why it changed and by whom, and what was stopped in time."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from deployments.commands.shell import parse_moment
from tasks.release.history import Entry, History
from tasks.release.history_report import share_text, summarise
from tasks.release.looking_back import find_history
from tasks.settings import settings


def show_history(application: str, since: str | None, release: str | None, *, as_json: bool, audit: bool) -> None:
    """Print the history of an application, the latest first.

    Args:
        application: What users call.
        since: See ``parse_moment``; None: from the beginning.
        release: Only this release: a digest, its first 12 digits, or a version; None: all.
        as_json: For programs.
        audit: Only what people did.

    Raises:
        NotFoundError: The application never had a plan, or no release of it is called so.
        InputError: ``since`` cannot be read.
    """
    start = parse_moment("--since", since, datetime.now(UTC))
    found = find_history(settings(), application, start, release)
    if as_json:
        document = found.to_json()
        entries = document["entries"]
        document["entries"] = [entry for entry in entries if entry["is_manual"]] if audit else entries
        print(json.dumps(document, indent=2, allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(entry_table(found, found.audit if audit else found.entries, audit=audit))
    if not audit:
        print_prevented(found, console)


def entry_table(history: History, entries: tuple[Entry, ...], *, audit: bool) -> Table:
    """Return what happened as a table."""
    title = f"What people did to {history.application}" if audit else f"What happened to {history.application}"
    table = Table(title=title, title_justify="left")
    for name in ("time (UTC)", "kind", "what", "release", "who", "why"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        release = share_text(entry, history) or history.name(entry.release_digest)
        who = entry.who or ("not said" if entry.is_manual else "")
        cells = (f"{entry.time:%Y-%m-%d %H:%M:%S}", entry.kind.value, entry.what, release, who, entry.why)
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    return table


def print_prevented(history: History, console: Console) -> None:
    """Print what was stopped before every user had it."""
    console.print(f"Incidents prevented: {summarise(history.prevented)}", markup=False)
    for one in history.prevented:
        users = "not known how many users" if one.users is None else f"{one.users} users"
        console.print(
            f"  {one.ended:%Y-%m-%d %H:%M} {history.name(one.release_digest)}: {one.gate} failed in "
            f"{', '.join(one.monitors)} at {one.share:.1%}, {users}: {one.reason}",
            markup=False,
        )
