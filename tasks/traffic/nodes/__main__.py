"""Run the agent of a node: ``python -m tasks.traffic.nodes``; ``delivery node`` runs it beside HAProxy."""

from __future__ import annotations

import sys

import uvicorn

from tasks.errors import DeliveryError
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.nodes.agent import LocalDriver, create_agent
from tasks.traffic.nodes.following import Follower

_MAX_CONNECTIONS = 128


def main() -> int:
    """Answer flows until the process is told to stop; the address is ``DELIVERY_NODE_LISTEN``, loopback by default.

    Returns:
        The exit code: 1 if there is no token; the reason is one line on the error stream.
    """
    where = Settings()
    host, _, port = where.node_listen.rpartition(":")
    driver = HaproxyDriver(folder=where.haproxy_dir, servers=where.servers_dir, url=where.data_url)
    follower = Follower(driver, Ledger(where.ledger), _say)
    token = where.node_token.get_secret_value() if where.node_token is not None else ""
    try:
        agent = create_agent(LocalDriver(follower), token, where.data_url)
    except DeliveryError as error:
        _say(f"error: {error}")
        return 1
    uvicorn.run(
        agent,
        host=host,
        port=int(port),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=10,
    )
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command speaks to people


if __name__ == "__main__":
    sys.exit(main())
