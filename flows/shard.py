"""One shard of an evaluation or an ingestion, done wherever the work pool runs it."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.settings import settings
from tasks.shards import steps
from tasks.shards.handover import OrderName


@flow(name="shard")
def shard(order: OrderName, attempt: Annotated[int, Field(ge=1)] = 1) -> None:
    """Do what a parent run has written down in the state folder; parents start this, people do not.

    Args:
        order: Which of the orders in the folder ``shards``: the parent's flow run and the order's digest.
        attempt: How often it was sent out, this time included.
    """
    steps.do_shard(settings(), order, attempt)
