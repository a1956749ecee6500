"""The commands about money: ``delivery costs …``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands.shell import STATE, State, Who, plain_errors, use_stack

if TYPE_CHECKING:
    from datetime import date

costs_app = typer.Typer(help="What releases cost: bills, exports, providers' reports.", no_args_is_help=True)
Application = Annotated[str | None, typer.Option(help="Whose costs. Without: every application's.")]
Zone = Annotated[str, typer.Option(help="Whose days, by its name in the tz database.")]


@costs_app.command()
def show(
    start: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day. Without: the last days.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="How many days.")] = 1,
    application: Application = None,
    timezone: Zone = "UTC",
    settle_hours: Annotated[int, typer.Option(min=0, max=744, help="How long a day stays provisional.")] = 24,
    state: State = STATE,
) -> None:
    """Roll up some days and show what they cost."""
    from deployments.commands.costs import show_costs
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        first = start.date() if start else None
        show_costs(settings(), first, days, application, zone=timezone, settle_hours=settle_hours)


@costs_app.command()
def reprice(
    start: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")],
    end: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day.")],
    application: Application = None,
    timezone: Zone = "UTC",
    apply: Annotated[bool, typer.Option("--apply", help="Restate the days. Without: only show.")] = False,
    who: Who = "",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    state: State = STATE,
) -> None:
    """Show what past days cost by the prices of now, and restate them with --apply."""
    from deployments.commands.costs import reprice as reprice_days
    from tasks.audit import put_on_record
    from tasks.release.history import Deed
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        if apply:
            put_on_record(settings(), Deed.REPRICE, application, who, reason)
        reprice_days(settings(), start.date(), end.date(), application, zone=timezone, dry_run=not apply)


@costs_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    start: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")],
    end: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.")],
    kind: Annotated[str, typer.Option("--format", help="focus, csv or parquet.")] = "focus",
    account: Annotated[str, typer.Option(help="The billing account at the provider, for FOCUS.")] = "unknown",
    state: State = STATE,
) -> None:
    """Write costs into a file; exit 0 where every call is in it, 3 where calls have no known cost."""
    from deployments.commands.exports import export_costs
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        window: tuple[date, date] = (start.date(), end.date())
        raise typer.Exit(export_costs(settings(), kind, window, out, account))


@costs_app.command()
def reconcile(
    files: Annotated[list[Path], typer.Argument(help="The provider's reports of costs, usage or both, JSON.")],
    provider: Annotated[str, typer.Option(help="openai or anthropic.")],
    alias: Annotated[list[str] | None, typer.Option(help="THEIRS=OURS, where names of a model differ.")] = None,
    state: State = STATE,
) -> None:
    """Name every difference to a provider's bill; exit 0 where only rounding differs, 3 where more does."""
    from deployments.commands.exports import reconcile_costs
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        raise typer.Exit(reconcile_costs(settings(), files, provider, alias or ()))


@costs_app.command()
def budgets(state: State = STATE) -> None:
    """Hold what today has cost so far against every budget; exit 0 within all, 3 where one is unknown, 4 broken."""
    from tasks.budgets.state import check_state
    from tasks.budgets.watch import watch_budgets
    from tasks.costs.opening import open_billing, open_book
    from tasks.monitors.verdict import Outcome
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        book = open_book(settings())
        checks = [
            check_state(one) for one in watch_budgets(open_billing(settings(), book.timezone), book, datetime.now(UTC))
        ]
        for check in checks:
            typer.echo(f"{check.outcome.value:<12} {check.statement}")
        outcomes = {check.outcome for check in checks}
        raise typer.Exit(4 if Outcome.FAIL in outcomes else 0 if outcomes <= {Outcome.PASS} else 3)
