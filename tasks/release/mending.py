"""Bring the registry up to the ledger, where it was away when something happened."""

from __future__ import annotations

from prefect import get_run_logger

from tasks.errors import DeliveryError, LeaseError
from tasks.release.acting import change, project
from tasks.release.lifecycle import State
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry


def mend_aliases(where: Settings, application: str) -> None:
    """Have the aliases say who serves, once one release has every user and no rollout is open.

    An application that somebody changes at the moment is left alone: who changes it writes them.
    """
    try:
        known = Registry(where.mlflow_url).aliases(application)
        wanted = _aliases(Ledger(where.ledger), application, known)
        if wanted:
            with change(where, application) as lease:
                get_run_logger().warning(f"the registry was behind: the aliases of {application} are written anew")
                project(where, lease, lambda registry: registry.set_aliases(application, wanted))
    except LeaseError as error:
        get_run_logger().info(str(error))
    except DeliveryError as error:
        get_run_logger().warning(f"the registry is behind: {error}")


def _aliases(ledger: Ledger, application: str, known: dict[str, int]) -> dict[str, int | None]:
    """Return the aliases that are wrong, with what they ought to be; none while it is not decided who serves."""
    plan, rollouts = ledger.plan(application), ledger.rollouts(application)
    is_open = any(not rollout.is_finished for rollout in rollouts) or ledger.open_experiment(application) is not None
    if plan is None or len(plan.counts()) > 1 or is_open or not rollouts:
        return {}
    champion, latest = plan.buckets[0], rollouts[0]
    wanted: dict[str, int | None] = {"champion": ledger.recall(application, champion).registry_version}
    wanted["challenger"] = None
    if known.get("champion") != wanted["champion"]:  # else who came before stands as it was written
        promoted = latest.release_digest == champion and latest.state is State.PROMOTED and latest.stable_digest
        wanted["previous"] = ledger.recall(application, latest.stable_digest).registry_version if promoted else None
    return {name: version for name, version in wanted.items() if known.get(name) != version}
