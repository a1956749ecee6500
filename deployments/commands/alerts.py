"""The commands on alerts: list them, and say what a person decided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.commands.shell import STATE, State, Who, plain_errors, use_stack
from tasks.errors import DeliveryError
from tasks.monitors.alerts import Alert, Turn
from tasks.monitors.notices import Notice

alerts_app = typer.Typer(help="What monitors found, and who knows of it.", no_args_is_help=True)
AlertId = Annotated[str, typer.Argument(help="Its id, or the first digits of it.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@alerts_app.command("list")
def list_alerts(
    application: Annotated[str | None, typer.Argument(help="What users call; empty: every application.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are resolved.")] = False,
    state: State = STATE,
) -> None:
    """Show alerts, the latest changed first, and the notices that could not be delivered yet."""
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    with plain_errors():
        use_stack(state)
        ledger = Ledger(settings().ledger)
        print_alerts(ledger.alerts(application, every=every), ledger.notices(), Console(highlight=False))


@alerts_app.command()
def ack(alert: AlertId, reason: Reason, who: Who = "", state: State = STATE) -> None:
    """Say that somebody looks after an alert: it stays quiet until the monitor passes."""
    _turn(alert, Turn.ACKNOWLEDGE, who, reason, state)


@alerts_app.command()
def silence(
    alert: AlertId,
    reason: Reason,
    hours: Annotated[float, typer.Option(help="For how long, hours.", min=0.01, max=24 * 366)],
    who: Who = "",
    state: State = STATE,
) -> None:
    """Tell nothing of an alert for some hours; if it fails then still, it is open again and told."""
    _turn(alert, Turn.SILENCE, who, reason, state, until=datetime.now(UTC) + timedelta(hours=hours))


@alerts_app.command()
def resolve(alert: AlertId, reason: Reason, who: Who = "", state: State = STATE) -> None:
    """Close an alert; a later window that fails opens it again."""
    _turn(alert, Turn.RESOLVE, who, reason, state)


@alerts_app.command()
def history(alert: AlertId, state: State = STATE) -> None:
    """Show what happened to an alert, and whom it was told."""
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    with plain_errors():
        use_stack(state)
        ledger = Ledger(settings().ledger)
        table = Table("time (UTC)", "what", "who", "why", title=f"Alert {alert}", title_justify="left")
        for time, turn, who, why in ledger.alert_history(alert):
            table.add_row(f"{time:%Y-%m-%d %H:%M:%S}", turn, who, why)
        Console(highlight=False).print(table)


def print_alerts(alerts: list[Alert], waiting: list[Notice], console: Console) -> None:
    """Print alerts and what could not be delivered for people."""
    table = Table(title="Alerts", title_justify="left")
    for name in ("id", "state", "about", "since (UTC)", "windows", "who", "because"):
        table.add_column(name, overflow="fold")
    for one in alerts:
        until = f" until {one.silenced_until:%m-%d %H:%M}" if one.silenced_until else ""
        since = f"{one.opened:%Y-%m-%d %H:%M}"
        cells = (one.alert_id[:12], f"{one.state}{until}", one.label, since, str(one.failures), one.who, one.reason)
        table.add_row(*cells)
    console.print(table)
    for notice in waiting:
        if notice.error:
            console.print(
                f"not delivered to {notice.message.block} after {notice.attempts} attempts ({notice.error}); "
                f"next at {notice.next_attempt:%H:%M:%S} UTC",
                markup=False,
            )


def _turn(  # noqa: PLR0917 - what is put on record
    alert: str, turn: Turn, who: str, reason: str, state: State, until: datetime | None = None
) -> None:
    from tasks.monitors.notices import read_alert_policy, route_by
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    with plain_errors():
        if not who.strip():
            raise DeliveryError("say who decides: --who NAME")
        use_stack(state)
        route = route_by(read_alert_policy(settings().state_dir))
        ledger = Ledger(settings().ledger)
        found = ledger.turn_alert(alert, turn, route, datetime.now(UTC), who=who, reason=reason, until=until)
        typer.echo(f"{found.alert_id[:12]} is {found.state}: {found.label}")
