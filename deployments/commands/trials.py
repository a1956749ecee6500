"""The commands that try releases: on real users (``experiment``), and on logged inputs (``shadow``)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.commands.shell import STATE, State, Who, follow, parse_moment, plain_errors, use_stack
from tasks.errors import DeliveryError, InputError, NotFoundError

experiment_app = typer.Typer(help="Compare releases on real users: any number of arms.", no_args_is_help=True)
Application = Annotated[str, typer.Argument(help="What users call.")]
Smoke = Annotated[Path | None, typer.Option(help="Smoke suite file.")]


@experiment_app.command()
def start(
    file: Annotated[Path, typer.Argument(help="Experiment file, or release file with ab_test (YAML or JSON).")],
    smoke: Smoke = None,
    users: Annotated[int, typer.Option(min=2, help="With a release file: users of each arm to wait for.")] = 1000,
    deployment: Annotated[str, typer.Option(help="The Prefect deployment to start.")] = "experiment/experiment",
    state: State = STATE,
) -> None:
    """Start an experiment or go on with it; exit 0 concluded, 3 inconclusive, 4 rolled back, 5 rejected, 1 error.

    A control that broke a limit is 4, too: everybody has it again, and no arm is to blame.
    """
    from tasks.experiments.design import design_of, read_experiment_file
    from tasks.release.model import read_release_file

    with plain_errors():
        parameters = _smoke(smoke)
        if _names_a_model(file):
            spec = read_release_file(file)
            use_stack(state)
            design = design_of(spec, _champion(spec.application), users)
            parameters |= {"release": spec.model_dump(mode="json")}
        else:
            design = read_experiment_file(file)
            use_stack(state)
        follow(deployment, parameters | {"design": design.model_dump(mode="json")}, {"ControlFailed": 4})


def _names_a_model(file: Path) -> bool:
    """Return whether a file is meant as a release file; the readers say what is wrong with it."""
    try:
        return re.search(r"^\s*[\"']?model_id[\"']?\s*:", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeError):
        return False


def _champion(application: str) -> str:
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    plan = Ledger(settings().ledger).plan(application)
    if plan is None:
        raise NotFoundError(f"{application} serves nobody yet, so there is nothing to compare with; roll it out")
    return next(iter(plan.counts()))


@experiment_app.command()
def stop(
    application: Application,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    who: Who = "",
    state: State = STATE,
) -> None:
    """Stop the experiment, whatever it is doing: every user is the control's again."""
    with plain_errors():
        if not who.strip():
            raise DeliveryError("say who decides: --who NAME")
        use_stack(state)
        # Where an arm, or the control, broke a limit meanwhile, it has ended too, which is what was asked for here.
        codes = {"RolledBack": 0, "ControlFailed": 0}
        follow("stop/stop", {"application": application, "who": who, "reason": reason}, codes)


@experiment_app.command()
def show(
    application: Application,
    name: Annotated[str, typer.Option(help="Of the experiment; empty: the latest.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The report for machines.")] = False,
    state: State = STATE,
) -> None:
    """Show where an experiment stands, and its report when it has ended."""
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    with plain_errors():
        use_stack(state)
        found = Ledger(settings().ledger).experiments(application)
        record = next((one for one in found if name in {"", one.name}), None)
        if record is None:
            known = ", ".join(one.name for one in found) or "none yet"
            raise NotFoundError(f"{application} has no experiment {name or 'at all'}; those it had: {known}")
        if as_json:
            typer.echo(json.dumps(_document(record), indent=1))
            return
        typer.echo(f"{record.name} of {record.application} is {record.stage}: {record.reason}".rstrip(": "))
        typer.echo(record.decided.markdown if record.decided else f"waits for {record.users_per_arm} users of each arm")


def _document(record: Any) -> dict[str, Any]:
    names = ("name", "application", "control", "users_per_arm", "reason")
    return {
        **{name: getattr(record, name) for name in names},
        "stage": record.stage.value,
        "arms": dict(record.arms),
        "started": record.started.isoformat(),
        "changed": record.changed.isoformat(),
        "report": record.decided.document if record.decided else None,
    }


def shadow(  # noqa: PLR0917 - typer reads the options from the signature
    file: Annotated[Path | None, typer.Argument(help="Release file; or name a known release.")] = None,
    application: Annotated[str | None, typer.Option(help="What users call, with --release.")] = None,
    release: Annotated[str | None, typer.Option(help="A known one: digest, first 12 digits of it, or version.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Inputs from then on: an age (36h, 7d) or a time, UTC; empty: the last day.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Inputs before then: an age (36h, 7d) or a time, UTC; empty: now.")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="How many inputs; empty: as the policy says.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Shadow policy file: rates, budgets, what decides.")] = None,
    smoke: Smoke = None,
    deployment: Annotated[str, typer.Option(help="The Prefect deployment to start.")] = "shadow/shadow",
    state: State = STATE,
) -> None:
    """Try a release on logged inputs, no user touched; exit 0 passed, 3 inconclusive, 4 worse, 5 rejected, 1 error."""
    from tasks.documents import read_document
    from tasks.release.model import read_release_file
    from tasks.shadows.shadow import ShadowPolicy

    with plain_errors():
        if (file is None) == (release is None) or (release is None) != (application is None):
            raise InputError("shadow: give a release file, or --application and --release of a known one")
        rules = read_document(policy, ShadowPolicy) if policy is not None else ShadowPolicy()
        asked = rules.model_dump(mode="json") | ({"sample": sample} if sample is not None else {})
        parameters = {
            "release": read_release_file(file).model_dump(mode="json") if file is not None else None,
            "application": application,
            "known": release,
            "since": _moment("--since", since),
            "until": _moment("--until", until),
            "policy": asked,
        }
        use_stack(state)
        follow(deployment, parameters | _smoke(smoke))


def _smoke(path: Path | None) -> dict[str, Any]:
    from tasks.smoke.suite import read_smoke_file

    return {"smoke": read_smoke_file(path).model_dump(mode="json")} if path is not None else {}


def _moment(option: str, text: str | None) -> str | None:
    moment = parse_moment(option, text, datetime.now(UTC))
    return moment.isoformat() if moment is not None else None
