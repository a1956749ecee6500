"""What a flow run shows of itself in the Prefect UI while it works: tags, a page that is kept up to date, links.

Nothing waits for it, and nothing fails by it: where the Prefect server is away, users matter more than what is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from queue import Full, Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run, task_run

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

Tell = Callable[["SyncPrefectClient"], None]
_WAITING: Final = 100
"""What waits to be told beyond this is dropped: the server is away, and it would be old news."""


class _Teller:
    """Tells the Prefect server things, one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._queue: Queue[Callable[[], None]] = Queue(maxsize=_WAITING)
        self._lock = Lock()
        self._thread: Thread | None = None

    def tell(self, what: Tell) -> None:
        """Tell the server something, soon; where it cannot be told, nothing happens."""
        context = copy_context()
        with suppress(Full):
            self._queue.put_nowait(lambda: context.run(_tell, what))
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                # A daemon: a run that is done does not wait for a server that is away.
                self._thread = Thread(target=self._work, name="run page", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait until all is told, or was tried."""
        self._queue.join()

    def _work(self) -> None:
        while True:
            what = self._queue.get()
            try:
                what()
            finally:
                self._queue.task_done()


def _tell(what: Tell) -> None:
    with suppress(Exception), get_client(sync_client=True) as client:
        what(client)


_TELLER: Final = _Teller()


def tag_run(application: str, *digests: str) -> None:
    """Tag the flow run with an application and releases, so that people find all its runs.

    Args:
        application: What users call; empty: none in particular.
        digests: Of releases; empty ones are left out.
    """
    run_id = flow_run.get_id()
    tags = {f"application:{application}"} if application else set()
    tags |= {f"release:{digest[:12]}" for digest in digests if digest}
    if run_id and tags:
        _TELLER.tell(lambda client: _add_tags(client, UUID(run_id), tags))


def _add_tags(client: SyncPrefectClient, run_id: UUID, tags: set[str]) -> None:
    known = set(client.read_flow_run(run_id).tags)
    if not tags <= known:
        client.update_flow_run(run_id, tags=sorted(known | tags))


def name_state(name: str, message: str = "") -> None:
    """Say in the state of the flow run what it waits for; the run goes on running."""
    run_id = flow_run.get_id()
    if run_id:
        _TELLER.tell(lambda client: _name_state(client, UUID(run_id), name, message))


def _name_state(client: SyncPrefectClient, run_id: UUID, name: str, message: str) -> None:
    from prefect.states import Running

    # Looked at first: told late, it must not bring back a run that has ended.
    run: FlowRun = client.read_flow_run(run_id)
    if run.state is not None and run.state.is_running():
        client.set_flow_run_state(run_id, Running(name=name, message=message[:500]), force=True)


class LivePage:
    """A Markdown artifact of the run that is kept up to date while a step works."""

    def __init__(self, key: str) -> None:
        self._key = artifact_key(key)
        self._shown: UUID | None = None
        self._last = ""

    def show(self, markdown: str, description: str) -> None:
        """Show this in the place of what was shown before."""
        run_id, step_id = flow_run.get_id(), task_run.get_id()
        if not run_id or markdown == self._last:
            return
        self._last = markdown
        _TELLER.tell(lambda client: self._put(client, markdown, description, UUID(run_id), step_id))

    def _put(
        self, client: SyncPrefectClient, markdown: str, description: str, run_id: UUID, step_id: str | None
    ) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        if self._shown is not None:
            client.update_artifact(self._shown, ArtifactUpdate(data=markdown, description=description))
            return
        created = ArtifactCreate(
            key=self._key,
            type="markdown",
            data=markdown,
            description=description,
            flow_run_id=run_id,
            task_run_id=UUID(step_id) if step_id else None,
        )
        self._shown = client.create_artifact(created).id


def artifact_key(*parts: str) -> str:
    """Return a key for an artifact: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def form_link(deployment: str, parameters: Mapping[str, Any]) -> str:
    """Return where in the Prefect UI the form of a deployment is, filled in; empty where it cannot be found out.

    Args:
        deployment: As ``flow/deployment``.
        parameters: What stands in the form; the person fills in the rest.
    """
    if not flow_run.get_id():
        return ""
    try:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
    except Exception:  # noqa: BLE001 - a link more or less; no reason to stop a rollout
        return ""
    return f"/deployments/deployment/{found.id}/run?parameters={quote(json.dumps(dict(parameters)))}"
