"""The commands of ``delivery`` for whoever operates it: health, migrate, backup and restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands.shell import STATE, State, plain_errors, use_stack

if TYPE_CHECKING:
    from tasks.settings import Settings


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


def migrate(state: State = STATE) -> None:
    """Bring the ledger's tables to what this program needs; doing it again changes nothing. Back it up first."""
    from tasks.stores.ledger import Ledger
    from tasks.stores.ledger.migrate import look_up_level

    with plain_errors():
        url = _settings(state).ledger
        before = look_up_level(url)
        ledger = Ledger(url)
        ledger.applications()
        ledger.close()
        typer.echo(f"the ledger is at level {look_up_level(url)} (it was at {before or 'none'})")


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
