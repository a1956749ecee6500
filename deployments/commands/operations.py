"""The commands of ``delivery`` for whoever operates it: health, migrate, backup and restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands.shell import STATE, State, plain_errors, use_stack

if TYPE_CHECKING:
    from tasks.settings import Settings
    from tasks.stores.ledger import Ledger


def _settings(state: Path) -> Settings:
    """Return the settings for a state folder, whether a stack runs in it or not."""
    from tasks.settings import Settings

    use_stack(state)
    return Settings(state_dir=state.absolute())


def health(
    *, json: Annotated[bool, typer.Option("--json", help="For programs.")] = False, state: State = STATE
) -> None:
    """Look at every part, say one line each and what to do; exit 0 all well, 1 a warning, 2 a failure."""
    from deployments.commands.health import as_json, check_health, worst
    from tasks.errors import DeliveryError

    try:
        where = _settings(state)
    except DeliveryError as error:
        typer.echo(f"FAIL stack           {error}", err=True)
        raise typer.Exit(2) from error
    findings = check_health(where, os.environ)
    if json:
        typer.echo(as_json(findings))
    else:
        for finding in findings:
            typer.echo(finding.line)
    raise typer.Exit(worst(findings))


def migrate(
    revisions_above: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000_000,
            help="After a restore: number the plans on record above the revision that data paths have seen.",
        ),
    ] = None,
    state: State = STATE,
) -> None:
    """Bring the ledger's tables to what this program needs; doing it again changes nothing. Back it up first."""
    from tasks.stores.ledger import Ledger
    from tasks.stores.ledger.migrate import look_up_level

    with plain_errors():
        url = _settings(state).ledger
        before = look_up_level(url)
        ledger = Ledger(url)
        applications = ledger.applications()
        typer.echo(f"the ledger is at level {look_up_level(url)} (it was at {before or 'none'})")
        for application in applications if revisions_above is not None else ():
            typer.echo(_renumber(ledger, application, revisions_above or 0))
        ledger.close()


def _renumber(ledger: Ledger, application: str, above: int) -> str:
    from tasks.release.lease import holding

    before = ledger.plan(application)
    with holding(ledger, application, "delivery migrate") as lease:
        plan = ledger.renumber(lease, above)
    if before is None or plan is None or plan.revision == before.revision:
        return f"the plan of {application} stays revision {plan.revision if plan else 'none'}"
    return f"the plan of {application} is revision {plan.revision} (it was {before.revision})"


def backup(
    path: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    state: State = STATE,
) -> None:
    """Copy ledger, lake, MLflow and the data path's state, while everything goes on running."""
    from deployments.commands.backup import make_backup

    with plain_errors():
        typer.echo(make_backup(_settings(state), path).summary)


def restore(
    path: Annotated[Path, typer.Argument(help="A folder that `delivery backup` made.")],
    state: State = STATE,
) -> None:
    """Put a backup into a state folder that is empty; start the stack afterwards."""
    from deployments.commands.backup import restore_backup

    with plain_errors():
        typer.echo(restore_backup(path, state.absolute()).summary)
