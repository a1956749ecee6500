"""The steps of telling the history of an application."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.release.history import History
from tasks.release.history_report import history_markdown, summarise
from tasks.release.looking_back import find_history
from tasks.settings import Settings


@task(cache_policy=NO_CACHE)
def read_history(where: Settings, application: str, since: datetime | None, release: str | None) -> History:
    """Read what happened to an application from the ledger, and who met what was stopped from the lake.

    Raises:
        NotFoundError: It never had a plan, or no release of it is called so.
    """
    return find_history(where, application, since, release)


@task(cache_policy=NO_CACHE)
def publish_history(history: History) -> str:
    """Show the history as an artifact; return in one line what it says."""
    key = re.sub(r"[^a-z0-9-]+", "-", f"history-{history.application}".lower()).strip("-")
    told = summarise(history.prevented)
    create_markdown_artifact(key=key, markdown=history_markdown(history, datetime.now(UTC)), description=told)
    return f"{len(history.entries)} entries; {told}"


def conclude(told: str) -> State[str]:
    """Return the state of the run, with what it says."""
    return Completed(name="Told", message=told, data=told)
