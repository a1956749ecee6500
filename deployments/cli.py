"""The command ``delivery``: the local stack, and what pipelines and people start from a shell."""

from __future__ import annotations

import os
import shlex
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from deployments.commands import operations
from deployments.commands.alerts import alerts_app
from deployments.commands.bills import costs_app
from deployments.commands.logs import log_app
from deployments.commands.metrics import evaluate_app, sql
from deployments.commands.shell import STATE as _STATE
from deployments.commands.shell import State, Who
from deployments.commands.shell import end_on_signals as _end_on_signals
from deployments.commands.shell import follow as _kick
from deployments.commands.shell import plain_errors as _plain_errors
from deployments.commands.shell import use_stack as _use_stack
from deployments.commands.trials import experiment_app, shadow
from tasks.errors import DeliveryError

if TYPE_CHECKING:
    from tasks.release.ramp import RampPolicy

app = typer.Typer(
    help="Progressive delivery for LLM releases.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.command()
def up(
    state: State = _STATE,
    auth: Annotated[bool, typer.Option("--auth", help="Ask for a login; delivery env says which.")] = False,
) -> None:
    """Start the local stack and keep it running until Ctrl-C."""
    from deployments.stack.services import choose_ports
    from deployments.stack.stack import running_stack

    _end_on_signals()
    if auth:
        os.environ["DELIVERY_AUTH"] = "basic"
    with _plain_errors(), running_stack(state, choose_ports(fixed=True)) as layout:
        typer.echo(
            f"\nThe stack is up. Ctrl-C, or `{_typed('down', state)}` elsewhere, ends it.\n"
            f"  Prefect UI    {layout.prefect_url}\n"
            f"  reports       {layout.prefect_url}/artifacts\n"
            f"  MLflow UI     {layout.mlflow_url}\n"
            f"  applications  {layout.data_url}/<application>/v1/chat/completions\n"
            f"  state, logs   {layout.state}\n"
            f"Try it with the demo's releases: {_typed('demo-releases', state)}\n"
            f"Roll one of your own out:        {_typed('rollout release.yaml', state)}"
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            typer.echo("\nending the stack")


def _typed(what: str, state: Path) -> str:
    return f"delivery {what}" if state == _STATE else f"delivery {what} --state {state}"


@app.command()
def down(state: State = _STATE) -> None:
    """End the local stack, also one that crashed."""
    from deployments.stack.stack import stop

    typer.echo("the stack is down" if stop(state.absolute()) else f"no stack runs in {state}")


@app.command()
def node(state: State = _STATE) -> None:
    """Serve on this machine as one node of several (docs/nodes.md), until Ctrl-C."""
    from deployments.stack.node import main

    os.environ["DELIVERY_STATE_DIR"] = str(state)
    raise typer.Exit(main())


@app.command()
def env(state: State = _STATE) -> None:
    """Print the variables that point a shell at the stack: eval "$(delivery env)"."""
    from deployments.stack.stack import read_record

    with _plain_errors():
        record = read_record(state)
        if record is None or not record.is_running:
            raise DeliveryError(f"no stack runs in {state}; start it with: make up")
        for name, value in record.layout.variables().items():
            typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def demo(state: State = Path(".state-demo")) -> None:
    """Play the whole story on a stack of its own, print what happened, and leave nothing running."""
    from deployments.demo.story import play

    _end_on_signals()
    with _plain_errors():
        raise typer.Exit(play(state))


@app.command()
def rollout(  # noqa: PLR0917 - typer reads the options from the signature
    release: Annotated[Path, typer.Argument(help="Release file (YAML or JSON).")],
    smoke: Annotated[Path | None, typer.Option(help="Smoke suite file.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Ramp policy file; docs/ramp.md has the default.")] = None,
    ramp: Annotated[bool, typer.Option(help="Ramp step by step, or give it every user at once.")] = True,
    override_reason: Annotated[
        str, typer.Option(help="Why a release in quarantine, in a freeze window or without its A/B test may go on.")
    ] = "",
    who: Who = "",
    deployment: Annotated[str, typer.Option(help="The Prefect deployment to start.")] = "rollout/rollout",
    state: State = _STATE,
) -> None:
    """Start a rollout, follow it, and exit 0 promoted, 3 held, 4 rolled back, 5 rejected, 1 error."""
    from tasks.release.model import read_release_file
    from tasks.smoke.suite import read_smoke_file

    with _plain_errors():
        parameters = {
            "release": read_release_file(release).model_dump(mode="json"),
            "ramp": _ramp_policy(policy, ramp=ramp).model_dump(mode="json"),
            "override_reason": override_reason,
            "who": who,
        }
        if smoke is not None:
            parameters["smoke"] = read_smoke_file(smoke).model_dump(mode="json")
        _use_stack(state)
        _kick(deployment, parameters)


@app.command()
def plan(
    release: Annotated[Path, typer.Argument(help="Release file (YAML or JSON).")],
    smoke: Annotated[Path | None, typer.Option(help="Smoke suite file.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Ramp policy file.")] = None,
    state: State = _STATE,
) -> None:
    """Show what a rollout would do - changes, traffic, checks, duration - and exit 1 if it would not start."""
    from deployments.commands.plan import plan_rollout, print_preview
    from tasks.release.model import read_release_file
    from tasks.settings import settings
    from tasks.smoke.suite import SmokeSuite, read_smoke_file

    with _plain_errors():
        spec = read_release_file(release)
        suite = read_smoke_file(smoke) if smoke is not None else SmokeSuite()
        _use_stack(state)
        found = plan_rollout(settings(), spec, _ramp_policy(policy, ramp=True), suite)
        print_preview(spec, found)
        raise typer.Exit(1 if found.obstacles else 0)


def _ramp_policy(path: Path | None, *, ramp: bool) -> RampPolicy:
    from tasks.documents import read_document
    from tasks.release.ramp import RampPolicy

    policy = read_document(path, RampPolicy) if path is not None else RampPolicy()
    return policy if ramp else policy.model_copy(update={"enabled": False})


@app.command()
def rollback(  # noqa: PLR0917 - as above
    application: Annotated[str, typer.Argument(help="What users call.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    release: Annotated[str | None, typer.Option(help="The bad one: digest, first 12 digits of it, or version.")] = None,
    who: Who = "",
    deployment: Annotated[str, typer.Option(help="The Prefect deployment to start.")] = "rollback/rollback",
    state: State = _STATE,
) -> None:
    """Put the last good release back, and exit 0 when it is verified, 6 when nothing can come back, 1 on error."""
    with _plain_errors():
        _use_stack(state)
        # A restored release is what was asked for here, and a failure for who asked for a rollout.
        _kick(
            deployment,
            {"application": application, "reason": reason, "release": release, "who": who},
            {"RolledBack": 0},
        )


@app.command()
def approve(
    application: Annotated[str, typer.Argument(help="What users call.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    who: Who = "",
    state: State = _STATE,
) -> None:
    """Let the rollout that waits for approval go on."""
    _decide(application, "approve", who, reason, state=state)


@app.command()
def hold(
    application: Annotated[str, typer.Argument(help="What users call.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    who: Who = "",
    state: State = _STATE,
) -> None:
    """Leave the rollout that is under way with the users it has; started again, it goes on."""
    _decide(application, "hold", who, reason, state=state)


@app.command()
def abort(
    application: Annotated[str, typer.Argument(help="What users call.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    who: Who = "",
    state: State = _STATE,
) -> None:
    """End the rollout that is under way or held: its users go back. What serves otherwise is not touched."""
    _decide(application, "abort", who, reason, state=state)


def _decide(application: str, action: str, who: str, reason: str, *, state: Path) -> NoReturn:
    with _plain_errors():
        if not who.strip():
            raise DeliveryError("say who decides: --who NAME")
        _use_stack(state)
        parameters = {"application": application, "action": action, "who": who, "reason": reason}
        _kick("decision/decision", parameters, {"RolledBack": 0, "Approved": 0, "HoldAsked": 0, "Held": 0})


@app.command()
def history(  # noqa: PLR0917 - typer reads the options from the signature
    application: Annotated[str, typer.Argument(help="What users call.")],
    since: Annotated[str | None, typer.Option(help="An age (36h, 7d) or a time, UTC.")] = None,
    release: Annotated[str | None, typer.Option(help="Only this one: digest, 12 digits of it, or version.")] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Only what people did.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state: State = _STATE,
) -> None:
    """Show what served when, to what share, why it changed and by whom, and which incidents were prevented."""
    from deployments.commands.history import show_history

    with _plain_errors():
        _use_stack(state)
        show_history(application, since, release, as_json=json, audit=audit)


@app.command("watch-nights")
def watch_nights(
    block: Annotated[str, typer.Argument(help="A notification block of Prefect: type/name.")], state: State = _STATE
) -> None:
    """Have Prefect itself tell a notification block when no night was judged in 26 hours."""
    from deployments.commands import nights

    with _plain_errors():
        _use_stack(state)
        typer.echo(nights.watch_nights(block))


@app.command("demo-releases")
def demo_releases(state: State = _STATE) -> None:
    """Train the demo's models into the registry of a running stack, so that its release files can be rolled out."""
    from deployments.demo.bot import register_models
    from tasks.settings import settings
    from tasks.stores.registry import Registry

    with _plain_errors():
        _use_stack(state)
        for variant, address in register_models(Registry(settings().mlflow_url)).items():
            typer.echo(f"{variant}: {address}  deployments/demo/releases/{variant}.yaml")


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="release, smoke, ramp, experiment, shadow, budgets or evaluation.")],
) -> None:
    """Print the JSON schema of a kind of file, for editors."""
    from deployments.commands.schemas import file_schema

    with _plain_errors():
        typer.echo(file_schema(kind), nl=False)


# After the commands above, so that the help begins with what one needs first.
for _command in (operations.health, operations.migrate, operations.backup, operations.restore):
    app.command()(_command)
app.add_typer(alerts_app, name="alerts")
app.add_typer(evaluate_app, name="evaluate")
app.command()(sql)
app.add_typer(experiment_app, name="experiment")
app.add_typer(costs_app, name="costs")
app.add_typer(log_app, name="log")
app.command()(shadow)


if __name__ == "__main__":
    sys.exit(app())
