"""The steps that send shards out, and the one that does a shard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.settings import Settings
from tasks.shards.dask_runner import DaskRunner, dask_cluster
from tasks.shards.dispatch import Dispatch, Errand, Limits
from tasks.shards.handover import HandOver
from tasks.shards.orders import IngestionOrder, ScoringOrder
from tasks.shards.pool import PoolRunner
from tasks.shards.work import fulfil, handover_of

_KEPT_S = 3 * 86_400
"""How long a parent that never came to its end finds what its shards have done."""


@task(cache_policy=NO_CACHE, task_run_name="send out shards")
def send_out(config: Settings, orders: Sequence[ScoringOrder | IngestionOrder]) -> list[bytes]:
    """Have orders done elsewhere and return their results, in the order of the orders.

    Args:
        config: Where, and within which limits.
        orders: No two of them alike.
    """
    handover, parent = handover_of(config), str(flow_run.root_flow_run_id or flow_run.id)
    handover.sweep(time.time() - _KEPT_S)
    names = [handover.put_order(parent, order) for order in orders]
    try:
        todo = [
            Errand(name, order.label) for name, order in zip(names, orders, strict=True) if not handover.is_done(name)
        ]
        _run(config, handover, todo)
        return [handover.result(name) or b"" for name in names]
    finally:
        handover.clear(names)


@task(cache_policy=NO_CACHE, task_run_name="shard {order}")
def do_shard(config: Settings, order: str, attempt: int) -> None:
    """Do one order and leave the result in the hand-over."""
    fulfil(config, order, attempt, datetime.now(UTC))


def _run(config: Settings, handover: HandOver, todo: Sequence[Errand]) -> None:
    limits = Limits(
        at_once=config.shards_at_once,
        attempts=1 + config.shard_retries,
        wait_s=config.shard_wait_s,
        silent_s=config.shard_silent_s,
    )
    shown: Any = create_progress_artifact(progress=0.0, description=f"{len(todo)} shards, {config.shards}")

    def show(done: int) -> None:
        update_progress_artifact(shown, progress=round(100 * done / len(todo), 1))

    with _runner(config, handover, len(todo)) as runner:
        Dispatch(runner, limits, time.monotonic, time.sleep, get_run_logger().warning, show).run(todo)


@contextmanager
def _runner(config: Settings, handover: HandOver, count: int) -> Iterator[Any]:
    if config.shards == "pool":
        yield PoolRunner(handover, f"{flow_run.run_count}")
        return
    whole = config.model_copy(update={"state_dir": config.state_dir.absolute()})
    with dask_cluster(config.dask_address, max(1, min(count, config.shards_at_once))) as cluster:
        yield DaskRunner(handover, whole, do_shard, cluster)
