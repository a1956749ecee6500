"""Start a deployment through the Prefect API, follow it to its end, and say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import DeliveryError, NotFoundError, UnreachableError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

OUTAGE_S = 300.0
"""How long the Prefect server may be away while a run is waited for, seconds."""
EXIT_CODES = {
    "Promoted": 0,
    "Concluded": 0,
    "Passed": 0,
    "Stopped": 0,
    "Told": 0,
    "NothingToDo": 0,
    "Held": 3,
    "Inconclusive": 3,
    "RolledBack": 4,
    "Worse": 4,
    "Rejected": 5,
    "NoCandidate": 6,
}
"""What a pipeline can tell the endings apart by: 0 good, 3 nothing shown either way, 4 worse, 5 before any user saw it,
6 nothing can come back; anything else that did not complete is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a flow run ended.

    Attributes:
        flow_run_id: Its id.
        state: The name of its last state, such as ``Promoted``.
        message: What the state says: the inequality that decided.
        is_completed: Whether Prefect counts it as completed.
    """

    flow_run_id: str
    state: str
    message: str
    is_completed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a deployment, and whether an automation started it."""

    flow_run_id: str
    parameters: Mapping[str, Any]
    is_automatic: bool


def kick(
    deployment: str,
    parameters: Mapping[str, Any],
    *,
    timeout_s: float = 24 * 3600,
    say: Callable[[str], None] = lambda _: None,
) -> Ended:
    """Start a deployment and wait until its run has ended.

    Args:
        deployment: ``flow/deployment``.
        parameters: JSON values of the flow's parameters.
        timeout_s: How long to wait, seconds; the run goes on after that.
        say: Gets one line for the run's address and for each state it enters.

    Raises:
        UnreachableError: The server does not answer.
        DeliveryError: It refuses, or the time is over.
        NotFoundError: There is no such deployment.
    """
    with open_client() as client:
        found = _read_deployment(client, deployment)
        run = client.create_flow_run_from_deployment(found.id, parameters=dict(parameters))
    return follow_run(str(run.id), timeout_s=timeout_s, say=say)


def follow_run(flow_run_id: str, *, timeout_s: float, say: Callable[[str], None] = lambda _: None) -> Ended:
    """Wait until a flow run has ended; a server that is away for a while is waited for, because the run goes on.

    Raises:
        UnreachableError: The server does not answer for ``OUTAGE_S``.
        DeliveryError: It refuses, or the time is over; the run goes on after that.
    """
    with open_client() as client:
        page = str(client.api_url).rstrip("/").removesuffix("/api")
        say(f"{page}/runs/flow-run/{flow_run_id}")
        deadline, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            run = _read_run(client, flow_run_id, say)
            state = run.state
            if state is not None and state.name is not None and state.name != last:
                last = state.name
                say(f"{run.name}: {last}")
            if state is not None and state.is_final():
                return Ended(
                    flow_run_id=flow_run_id, state=last, message=state.message or "", is_completed=state.is_completed()
                )
            time.sleep(0.3)
    raise DeliveryError(f"run {flow_run_id} did not end within {timeout_s:.0f} s; look at it in the Prefect UI")


def _read_run(client: SyncPrefectClient, flow_run_id: str, say: Callable[[str], None]) -> FlowRun:
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    until, is_told = time.monotonic() + OUTAGE_S, False
    while True:
        try:
            return client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            refused = isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error
            if refused or time.monotonic() > until:
                raise
        if not is_told:
            say("the Prefect server does not answer; the run goes on, and is waited for")
            is_told = True
        time.sleep(1)


def runs_of(deployment: str) -> list[Run]:
    """Return the runs of a deployment, the latest first.

    Raises:
        DeliveryError: The server does not answer.
        NotFoundError: There is no such deployment.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with open_client() as client:
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[_read_deployment(client, deployment).id]))
        runs = client.read_flow_runs(deployment_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    return [
        Run(
            flow_run_id=str(run.id),
            parameters=run.parameters,
            is_automatic=run.created_by is not None and run.created_by.type == "AUTOMATION",
        )
        for run in runs
    ]


def _read_deployment(client: SyncPrefectClient, name: str) -> Any:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise NotFoundError(f"there is no deployment {name}; deploy it with deployments/prefect.yaml") from error


@contextmanager
def open_client() -> Iterator[SyncPrefectClient]:
    """Yield a client of the Prefect server.

    Raises:
        UnreachableError: None is known, or it does not answer.
        DeliveryError: It refuses.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        raise UnreachableError("no Prefect server is known here; start the stack (make up), or set PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.TransportError as error:
        raise UnreachableError(f"the Prefect server does not answer: {error}; is the stack up? (make up)") from error
    except PrefectHTTPStatusError as error:
        raise DeliveryError(f"the Prefect server refuses: {error.response.text[:500]}") from error
