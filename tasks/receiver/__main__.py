"""Run the receiver: ``python -m tasks.receiver --port 4318``."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import uvicorn

from tasks.errors import DeliveryError, InputError
from tasks.interactions.redaction import make_redactor
from tasks.receiver.app import MAX_BODY_BYTES, PREFIX, Limits, create_app
from tasks.settings import settings
from tasks.tracking.records import Kept
from tasks.tracking.spool import Spool

TOKEN_VARIABLE: Final = "DELIVERY_RECEIVER_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_PORT: Final = 4318
"""Where exporters of OTLP over HTTP send, unless told otherwise."""
_LEAST_TOKEN: Final = 16
_MAX_CONNECTIONS: Final = 256
_MAX_PORT: Final = 65535


def main(arguments: list[str] | None = None) -> int:
    """Receive until the process is told to stop.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 1 if the address or the token is not allowed; the reason is one line on the error stream.
    """
    options = _parser().parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE) or None
    try:
        check_address(options.host, token)
        kept = Kept.of(options.content, make_redactor() if options.redact else None)
    except DeliveryError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command speaks to people
        return 1
    spool = Spool(settings().log_dir, PREFIX, _now)
    spool.end_half_lines()
    limits = Limits(body_bytes=options.max_body_mib * 2**20)
    uvicorn.run(
        create_app(spool, token=token, kept=kept, application=options.application, limits=limits),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=30,
    )
    return 0


def check_address(host: str, token: str | None) -> None:
    """See that only who has a token reaches the receiver from another machine.

    Raises:
        InputError: The address is not one of loopback and there is no token, or the token is too short to be one.
    """
    if token is not None and len(token) < _LEAST_TOKEN:
        raise InputError(f"{TOKEN_VARIABLE} has {len(token)} characters; give at least {_LEAST_TOKEN}")
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and token is None:
        raise InputError(f"--host {host} is not on loopback: set {TOKEN_VARIABLE} first, or listen on 127.0.0.1")


def _now() -> datetime:
    return datetime.now(UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.receiver", description="Receive interactions.")
    parser.add_argument("--host", default="127.0.0.1", help="address; others than loopback need a token")
    parser.add_argument("--port", type=_within(1, _MAX_PORT), default=DEFAULT_PORT, help="port")
    parser.add_argument("--application", help="what was called, where a trace names no service")
    where = settings()
    parser.add_argument("--content", default=where.content, help="what is kept of texts: full, hash or off")
    parser.add_argument(
        "--redact",
        action=argparse.BooleanOptionalAction,
        default=where.redact,
        help="take personal data and secrets out of texts",
    )
    parser.add_argument(
        "--max-body-mib", type=_within(1, 1024), default=MAX_BODY_BYTES // 2**20, help="largest body, MiB"
    )
    return parser


def _within(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not allowed; write {low} to {high}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
