"""Orders as flow runs of the deployment ``shard/shard``, on whatever work pool it is deployed to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed

from tasks.errors import NotFoundError
from tasks.shards.dispatch import Errand, Seen, Stage
from tasks.shards.handover import HandOver

DEPLOYMENT: Final = "shard/shard"
_STAGES: Final = {
    StateType.SCHEDULED: Stage.WAITING,
    StateType.PAUSED: Stage.WAITING,
    StateType.PENDING: Stage.TAKEN,
    StateType.RUNNING: Stage.RUNNING,
    StateType.CANCELLING: Stage.RUNNING,
}


@dataclass(frozen=True, slots=True)
class PoolRun:
    """One flow run."""

    errand: Errand
    run_id: UUID


@dataclass(slots=True)
class PoolRunner:
    """Sends orders to the work pool of the deployment.

    Args:
        handover: Where orders and results are.
        mark: What tells this run of the parent from an earlier one of the same id.
    """

    handover: HandOver
    mark: str
    pool: str = ""
    """Known with the first run."""

    def start(self, errand: Errand) -> PoolRun:
        """Create a flow run; the same attempt again is the same flow run.

        Raises:
            NotFoundError: The flow of shards is not deployed.
        """
        again = f", attempt {errand.attempt}" if errand.attempt > 1 else ""
        try:
            made = run_deployment(
                DEPLOYMENT,
                parameters={"order": errand.name, "attempt": errand.attempt},
                timeout=0,
                flow_run_name=f"{errand.label}{again}",
                idempotency_key=f"{errand.name} {self.mark} {errand.attempt}",
            )
        except ObjectNotFound:
            text = f"deployment {DEPLOYMENT} is not there; deploy every flow: prefect deploy --all --prefect-file "
            raise NotFoundError(f"{text}deployments/prefect.yaml, or set DELIVERY_SHARDS=here") from None
        run: FlowRun = made  # type: ignore[assignment]  # in a flow that is not async it is no coroutine
        self.pool = run.work_pool_name or self.pool
        return PoolRun(errand, run.id)

    def look(self, runs: Sequence[PoolRun]) -> list[Seen]:
        """Return how far runs are; the result decides, whatever Prefect thinks of the run."""
        ids = [run.run_id for run in runs]
        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)), limit=min(len(ids), 200)
            )
        known = {one.id: one for one in found}
        return [self._seen(run, known.get(run.run_id)) for run in runs]

    def drop(self, run: PoolRun, why: str, *, lost: bool) -> None:
        """End a run: a lost one is put down as crashed, one that waits is cancelled, and one that runs is asked to."""
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run.run_id).state
            if state is None or state.is_final():
                return
            if lost:
                client.set_flow_run_state(run.run_id, Crashed(message=why), force=True)
            elif state.type in {StateType.RUNNING, StateType.PENDING}:
                client.set_flow_run_state(run.run_id, Cancelling(message=why))
            else:
                client.set_flow_run_state(run.run_id, Cancelled(message=why))

    def trouble(self) -> str:
        """Return why nobody may take a run."""
        with get_client(sync_client=True) as client:
            pool, workers = client.read_work_pool(self.pool), client.read_workers_for_work_pool(self.pool)
        online = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
        if pool.is_paused:
            return f"work pool {self.pool} is paused; resume it: prefect work-pool resume {self.pool}"
        if not online:
            return (
                f"work pool {self.pool} has no worker; start one: prefect worker start --pool {self.pool} --type "
                f"{pool.type}"
            )
        return (
            f"the workers of work pool {self.pool} ({', '.join(online[:5])}) are busy; start more of them, or raise "
            f"their --limit and the pool's: parents take a place, too"
        )

    def _seen(self, run: PoolRun, found: FlowRun | None) -> Seen:
        name, state = run.errand.name, found.state if found else None
        if self.handover.is_done(name):
            return Seen(Stage.DONE)
        if state is None:
            return Seen(Stage.LOST, why=f"its flow run {run.run_id} was deleted")
        beat = self.handover.beat(name, run.errand.attempt)
        if state.type == StateType.COMPLETED:  # a shared folder may show a file some seconds late
            where = f"{self.handover.folder} has no result of it; let workers mount the parent's state folder"
            return Seen(Stage.RUNNING, beat, f"flow run {run.run_id} completed, and {where}")
        stage = _STAGES.get(state.type, Stage.LOST)
        return Seen(stage, beat, f"flow run {run.run_id} ended {state.name}; its log says why" * (stage is Stage.LOST))
