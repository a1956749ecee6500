"""The commands about the interaction log: ``delivery log …``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deployments.commands.shell import STATE, State, Who, plain_errors, use_stack

if TYPE_CHECKING:
    from tasks.interactions.lines import Policy

log_app = typer.Typer(help="The interaction log: read logs in, keep it, forget a user.", no_args_is_help=True)
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")]


@log_app.command()
def ingest(
    place: Annotated[Path, typer.Argument(help="A log file, or a folder of them.")],
    form: Annotated[str, typer.Option("--format", help="Of the logs; auto: by their shape.")] = "auto",
    application: Annotated[str | None, typer.Option(help="Of calls whose log does not say it.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="Mapping file of a table of any other shape.")] = None,
    content: Annotated[
        str | None, typer.Option(help="What is kept of texts: off, hash or full; empty: by the settings.")
    ] = None,
    redact: Annotated[
        bool | None,
        typer.Option("--redact/--no-redact", help="Take personal data and secrets out; empty: by the settings."),
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="The files are closed: a last line without an end counts.")
    ] = False,
    dry_run: DryRun = False,
    state: State = STATE,
) -> None:
    """Store what logs hold beyond what is stored; exit 3 where lines were set aside."""
    from deployments.commands.ingest import ingest_path, print_ingested
    from tasks.interactions.ingest import make_job
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        where = settings()
        job = make_job(
            where,
            application=application,
            form=form,
            mapping=mapping,
            content=cast("Policy | None", content or None),
            redact=redact,
            final=final,
            dry_run=dry_run,
        )
        found = ingest_path(where, place, job)
        print_ingested(found, dry_run=dry_run)
        raise typer.Exit(3 if found.rejected else 0)


@log_app.command()
def release(
    batch: Annotated[str, typer.Argument(help="The id of a batch that was set aside.")],
    state: State = STATE,
) -> None:
    """Store a batch that was set aside, after all."""
    from deployments.commands.ingest import release as release_batch
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        typer.echo(f"{release_batch(settings(), batch).stored} interactions stored")


@log_app.command()
def compact(
    hours: Annotated[int, typer.Option(min=1, help="Files replaced longer ago are deleted.")] = 24,
    dry_run: DryRun = False,
    state: State = STATE,
) -> None:
    """Put small files together, and delete files that nobody reads any more."""
    from deployments.commands.ingest import compact_lake, print_cared
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        done, files = compact_lake(settings(), hours=hours, dry_run=dry_run)
        print_cared(done, typer.echo, dry_run=dry_run)
        typer.echo(f"{files} files {'would be deleted' if dry_run else 'deleted'}")


@log_app.command()
def retain(
    keep_days: Annotated[int | None, typer.Option(min=1, help="Days that are kept.")] = None,
    text_days: Annotated[int | None, typer.Option(min=1, help="Days whose texts are kept.")] = None,
    log_days: Annotated[int | None, typer.Option(min=1, help="Days whose log files are kept, once read.")] = None,
    dry_run: DryRun = False,
    state: State = STATE,
) -> None:
    """Drop days, empty texts, and delete log files that were read to the end, where they are too old."""
    from deployments.commands.ingest import print_cared, retain_lake
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        done = retain_lake(settings(), keep_days=keep_days, text_days=text_days, log_days=log_days, dry_run=dry_run)
        print_cared(done, typer.echo, dry_run=dry_run)


@log_app.command("forget-user")
def forget_user(
    user: Annotated[str, typer.Argument(help="The user's id, or its SHA-256 with --hash.")],
    is_hash: Annotated[bool, typer.Option("--hash", help="The argument is the SHA-256.")] = False,
    dry_run: DryRun = False,
    who: Who = "",
    reason: Annotated[str, typer.Option(help="Why, for the record; not whose data.")] = "",
    state: State = STATE,
) -> None:
    """Delete a user's data from every table of the lake, and the log files before today that were read to the end."""
    from deployments.commands.ingest import forget, print_cared
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        done = forget(settings(), user, is_hash=is_hash, dry_run=dry_run, who=who, reason=reason)
        print_cared(done, typer.echo, dry_run=dry_run)
