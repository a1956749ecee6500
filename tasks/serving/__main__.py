"""Serve one release: ``python -m tasks.serving --application faq --version 3 --port 9001``."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

import uvicorn

from tasks.errors import DeliveryError, InputError, NotFoundError
from tasks.interactions.redaction import make_redactor
from tasks.release.model import Release
from tasks.serving.backends import Backend, RetrievalBackend
from tasks.serving.log import InteractionLog
from tasks.serving.server import create_app
from tasks.serving.upstream import UpstreamBackend, endpoint_key
from tasks.settings import settings
from tasks.stores.models import ModelStore
from tasks.stores.registry import Registry
from tasks.tracking.records import Kept
from tasks.traffic.servers import REFUSED

_MAX_PORT = 65535


def main(arguments: list[str] | None = None) -> int:
    """Load a release and serve it on loopback until the process is told to stop.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 1 if the release cannot be loaded, ``REFUSED`` if it could not later either, as things are; the
        reason is the last line on the error stream.
    """
    options = _parser().parse_args(arguments)
    started = datetime.now(UTC)
    where = settings()
    url = where.mlflow_url
    try:
        release = Registry(url).release(options.application, options.version)
        backend = open_backend(release, ModelStore(url))
    except DeliveryError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command speaks to people
        return REFUSED if isinstance(error, (InputError, NotFoundError)) else 1
    kept = Kept.of(where.content, make_redactor() if where.redact else None)
    log = InteractionLog(where.log_dir, release, started, log_content=not options.no_content, kept=kept)
    uvicorn.run(
        create_app(release, backend, log),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Longer than the data path keeps an idle connection, so that it is never the server who closes first.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=30,
    )
    return 0


def open_backend(release: Release, models: ModelStore) -> Backend:
    """Return the loaded backend of a release, chosen by its endpoint.

    Raises:
        NotFoundError: The model is not in the registry.
        InputError: The environment variable of the endpoint's key is not set.
    """
    endpoint = release.spec.endpoint
    if endpoint.startswith("models:/"):
        return RetrievalBackend(release, models.load_sklearn_model(endpoint))
    return UpstreamBackend(release, endpoint_key(release, os.environ))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.serving", description="Serve one release.")
    parser.add_argument("--application", required=True, help="what users call")
    parser.add_argument("--version", required=True, type=int, help="the release's version in the registry")
    parser.add_argument("--port", required=True, type=_port, help="port to listen on")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a pod")
    parser.add_argument("--no-content", action="store_true", help="log no question, passage or answer")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port <= _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{port} is no port; write 1 to {_MAX_PORT}")
    return port


if __name__ == "__main__":
    sys.exit(main())
