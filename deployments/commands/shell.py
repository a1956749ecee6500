"""What every command of the shell shares: which stack it speaks to, how errors look, how a flow is followed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from tasks.errors import DeliveryError, InputError, StackError

State = Annotated[Path, typer.Option("--state", envvar="DELIVERY_STATE_DIR", help="Folder of the stack's state.")]
STATE = Path(".state")
Who = Annotated[
    str,
    typer.Option(
        "--who",
        envvar=["DELIVERY_WHO", "GITHUB_ACTOR", "GITLAB_USER_LOGIN", "USER"],
        help="Who asks for it, for the record.",
    ),
]
_AGE = re.compile(r"([1-9]\d{0,4})([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def parse_moment(option: str, text: str | None, now: datetime) -> datetime | None:
    """Return the moment that people call so.

    Args:
        option: The option it is given by, for the refusal.
        text: An age (``90m``, ``36h``, ``7d``, ``2w``), or a date or time; without a zone it is UTC. None is none.
        now: The time, UTC.

    Raises:
        InputError: It is neither.
    """
    if text is None:
        return None
    age = _AGE.fullmatch(text.strip())
    try:
        moment = now - int(age[1]) * _UNITS[age[2]] if age else datetime.fromisoformat(text.strip())
    except ValueError:
        allowed = "an age like 36h or 7d, or a date or time like 2026-03-01 or 2026-03-01T12:00"
        raise InputError.of(option, text, allowed) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show an error made on purpose as one line and end with 1; a defect keeps its traceback."""
    try:
        yield
    except DeliveryError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def end_on_signals() -> None:
    """End as on Ctrl-C where the process is told to end, so that what it started ends with it."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def use_stack(state: Path) -> None:
    """Point this process at the stack of a state folder.

    Raises:
        StackError: The environment points at another one.
    """
    from deployments.stack.stack import read_record

    record = read_record(state.absolute())
    if record is not None and record.is_running:
        for name, value in record.layout.variables().items():
            given = os.environ.setdefault(name, value)
            if given != value and name.endswith(("AUTH_STRING", "PASSWORD")):
                raise StackError(f"{name} is not that of the stack of {state}; unset it, or give --state")
            if given != value and name != "DELIVERY_STATE_DIR":
                raise StackError(f"{name} is {given}, but the stack of {state} has {value}; unset it, or give --state")
        os.environ["DELIVERY_STATE_DIR"] = str(record.layout.state)
    elif state.absolute() != Path(os.environ.get("DELIVERY_STATE_DIR", STATE)).absolute():
        os.environ["DELIVERY_STATE_DIR"] = str(state.absolute())  # nothing runs there, but what it holds can be read
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Without an address Prefect would start a server of its own, which knows nothing of any deployment.
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")


def follow(deployment: str, parameters: Mapping[str, object], codes: Mapping[str, int] | None = None) -> NoReturn:
    """Start a deployment, follow it, and exit with what its ending means.

    Args:
        deployment: ``flow/deployment``.
        parameters: JSON values of the flow's parameters.
        codes: Exit codes of endings that mean something else here than elsewhere.
    """
    from deployments.commands.kick import EXIT_CODES, kick

    ended = kick(deployment, parameters, say=typer.echo)
    typer.echo(f"{ended.state}: {ended.message}")
    raise typer.Exit({**EXIT_CODES, **(codes or {})}.get(ended.state, 1))
