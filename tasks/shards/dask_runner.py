"""Orders as Prefect tasks on Dask: a cluster of this machine for as long as they run, or one that is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from prefect import Task

from tasks.errors import InputError, UnreachableError
from tasks.settings import Settings
from tasks.shards.dispatch import Errand, Seen, Stage
from tasks.shards.handover import HandOver

_CONNECT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class DaskRun:
    """One task run."""

    errand: Errand
    future: Any


@dataclass(frozen=True, slots=True)
class DaskRunner:
    """Sends orders to a cluster.

    Args:
        handover: Where orders and results are.
        config: What a worker is to know.
        task: Does an order.
        runner: Prefect's, started.
    """

    handover: HandOver
    config: Settings
    task: Task[Any, None]
    runner: Any

    def start(self, errand: Errand) -> DaskRun:
        """Submit a task."""
        parameters = {"config": self.config, "order": errand.name, "attempt": errand.attempt}
        return DaskRun(errand, self.runner.submit(self.task, parameters))

    def look(self, runs: Sequence[DaskRun]) -> list[Seen]:
        """Return how far tasks are; only its signs of life tell a running one from one that waits."""
        return [self._seen(run) for run in runs]

    def drop(self, run: DaskRun, why: str, *, lost: bool) -> None:  # noqa: ARG002 - a task has no place for a reason
        """Cancel a task; one that runs ends by itself."""
        run.future.wrapped_future.cancel()

    def trouble(self) -> str:
        """Return why nobody may take a task."""
        where = self.runner.client.scheduler.address
        count = len(self.runner.client.scheduler_info()["workers"])
        if count:
            return f"the {count} workers of the Dask cluster {where} are busy; start more"
        return f"the Dask cluster {where} has no worker; start one: dask worker {where}"

    def _seen(self, run: DaskRun) -> Seen:
        name, wrapped = run.errand.name, run.future.wrapped_future
        if self.handover.is_done(name):
            return Seen(Stage.DONE)
        beat = self.handover.beat(name, run.errand.attempt)
        if wrapped.status == "finished" and wrapped.result().is_completed():
            why = f"{self.handover.folder} has no result of it; let workers mount the parent's state folder"
            return Seen(Stage.RUNNING, beat, f"its task completed, and {why}")
        if wrapped.done():
            return Seen(Stage.LOST, beat, f"its task ended {wrapped.status}; the log of the run says why")
        return Seen(Stage.RUNNING if beat else Stage.WAITING, beat)


@contextmanager
def dask_cluster(address: str, at_once: int) -> Iterator[Any]:
    """Start Prefect's runner for Dask, and end it with the block.

    Args:
        address: Of a scheduler; empty: a cluster of processes on this machine.
        at_once: How many processes such a cluster has.

    Raises:
        InputError: The package is not installed.
        UnreachableError: There is no scheduler at the address.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        text = "DELIVERY_SHARDS=dask: prefect-dask is not installed; run: pip install 'llm-delivery[dask]'"
        raise InputError(text) from None
    local = {"n_workers": at_once, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    made = (
        DaskTaskRunner(address=address, client_kwargs={"timeout": _CONNECT_S})
        if address
        else DaskTaskRunner(cluster_kwargs=local)
    )
    with made as runner:
        try:
            _ = runner.client
        except (OSError, TimeoutError):
            text = f"DELIVERY_DASK_ADDRESS: no scheduler answers at {address}; start one: dask scheduler"
            raise UnreachableError(text) from None
        yield runner
