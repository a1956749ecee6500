"""What the runs of a rollout and a rollback show in the Prefect UI, with links to where one goes next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from tasks.errors import DeliveryError
from tasks.monitors.verdict import Verdict
from tasks.release.model import Release
from tasks.release.ramp import RampPolicy, RampStep
from tasks.release.ramp_page import RampLook, describe_look, draw_ramp, image, ramp_markdown
from tasks.release.rollout import Rollout
from tasks.run_page import LivePage, artifact_key, form_link
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import Plan

DECISIONS: Final = ("approve", "hold", "abort")


def follow_ramp(
    where: Settings, rollout: Rollout, release: Release, step: RampStep, policy: RampPolicy
) -> Callable[[datetime, Verdict], None]:
    """Return what shows each look at a step of a ramp, on one page that is kept up to date."""
    page, ledger = LivePage(f"ramp-{release.application}"), Ledger(where.ledger)
    plans = since_before(ledger.plans(release.application), rollout.release_digest)
    names = names_of(ledger, release.application, (digest for plan in plans for digest in plan.counts()))
    links = {**release_links(where, release), **decision_links(release.application, DECISIONS[1:])}

    def show(began: datetime, verdict: Verdict) -> None:
        look = RampLook(
            release=release,
            policy=policy,
            buckets=step.buckets,
            began=began,
            verdict=verdict,
            plans=plans,
            names=names,
            links=links,
        )
        page.show(ramp_markdown(look), describe_look(look)[:200])

    return show


def since_before(plans: Sequence[Plan], digest: str) -> tuple[Plan, ...]:
    """Return the plans from the one before a release last came in, the latest first.

    Args:
        plans: Of one application, the latest first.
        digest: The release; where it has no users now, its last time is meant.
    """
    found: list[Plan] = []
    was_seen = False
    for plan in plans:
        is_in = digest in plan.counts()
        found.append(plan)
        if was_seen and not is_in:
            break
        was_seen |= is_in
    return tuple(found) if was_seen else tuple(plans[:1])


def names_of(ledger: Ledger, application: str, digests: Iterable[str]) -> dict[str, str]:
    """Return what people call releases, by digest; those nobody remembers are left out."""
    names = {}
    for digest in dict.fromkeys(digests):
        try:
            names[digest] = ledger.recall(application, digest).label
        except DeliveryError:
            continue
    return names


def release_links(where: Settings, release: Release) -> dict[str, str]:
    """Return where a release and its application are in the registry."""
    page = f"{where.mlflow_url.rstrip('/')}/#/models/{release.application}"
    return {f"{release.label} in MLflow": f"{page}/versions/{release.registry_version}", "all releases": page}


def decision_links(application: str, actions: Sequence[str] = DECISIONS) -> dict[str, str]:
    """Return where a person decides about a rollout: the form of ``decision``, filled in but for who and why."""
    return {
        action: form_link("decision/decision", {"application": application, "action": action}) for action in actions
    }


def evidence_links(application: str, kind: str) -> dict[str, str]:
    """Return where the reports are of what failed a release, by the kind of its verdict; nothing for other kinds."""
    topic = {"evaluation": "evaluation", "ramp": "ramp", "smoke": "rollout"}.get(kind, "")
    return {f"all {topic}s": f"/artifacts/key/{artifact_key(topic, application)}"} if topic else {}


def rollback_links(application: str) -> dict[str, str]:
    """Return where a person takes a release back that turned out bad."""
    return {"roll back": form_link("rollback/rollback", {"application": application})}


def shares_picture(where: Settings, release: Release, until: datetime) -> list[str]:
    """Return the chart of the users' shares since before a release came in; nothing where it never did."""
    ledger = Ledger(where.ledger)
    plans = since_before(ledger.plans(release.application), release.digest)
    if not any(release.digest in plan.counts() for plan in plans):
        return []
    names = names_of(ledger, release.application, (digest for plan in plans for digest in plan.counts()))
    return ["", image("shares of users", draw_ramp(plans, names, until))]
