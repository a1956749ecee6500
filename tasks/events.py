"""What every event of this project is about, as automations match it."""

from __future__ import annotations


def event_resource(application: str, release_digest: str) -> dict[str, str]:
    """Return the resource of an event about a release of an application; triggers in prefect.yaml match it."""
    return {
        "prefect.resource.id": f"delivery.application.{application}",
        "prefect.resource.name": application,
        "delivery.release": release_digest,
    }
