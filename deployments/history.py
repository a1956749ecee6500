"""What served when, to what share, and why it changed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tasks.errors import NotFoundError
from tasks.settings import settings
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import Plan


def history_table(application: str) -> None:
    """Print the traffic plans of an application, the newest first.

    Raises:
        NotFoundError: The application never had one.
    """
    ledger = Ledger(settings().ledger)
    plans = ledger.plans(application)
    if not plans:
        known = ", ".join(ledger.applications()) or "none yet"
        raise NotFoundError(f"{application} has no traffic plan; applications that have: {known}")
    Console().print(plan_table(application, plans))


def plan_table(application: str, plans: list[Plan]) -> Table:
    """Return the plans as a table."""
    table = Table(title=f"Traffic plans of {application}", title_justify="left")
    for name in ("revision", "since (UTC)", "users", "by", "why"):
        table.add_column(name, overflow="fold")
    for plan in plans:
        users = "\n".join(f"{share:.1%} {digest[:12]}" for digest, share in plan.shares().items())
        table.add_row(str(plan.revision), f"{plan.time:%Y-%m-%d %H:%M:%S}", users, plan.author, plan.reason)
    return table
