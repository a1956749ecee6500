"""The automation that misses a night: armed and put off by every completed evaluation, whatever its verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.events.schemas.automations import Posture
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from deployments.commands.health_parts import NIGHT_H

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
(AUTOMATION,) = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text(encoding="utf-8"))["automations"]
TRIGGER = EventTrigger(**{name: value for name, value in AUTOMATION["trigger"].items() if name != "type"})
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ended(state: str, kind: str, deployment: str = "nightly") -> ReceivedEvent:
    """Return the event of a flow run's state, as Prefect makes it."""
    run = f"prefect.flow-run.{uuid4()}"
    return ReceivedEvent(
        id=uuid4(),
        occurred=NOW,
        event=f"prefect.flow-run.{state}",
        resource={"prefect.resource.id": run, "prefect.state-name": state, "prefect.state-type": kind},
        related=[
            {
                "prefect.resource.id": f"prefect.deployment.{uuid4()}",
                "prefect.resource.role": "deployment",
                "prefect.resource.name": deployment,
            }
        ],
    )


def test_it_waits_for_26_hours_as_the_health_command_does() -> None:
    assert TRIGGER.posture.value == Posture.Proactive.value
    assert TRIGGER.within == timedelta(hours=NIGHT_H)
    assert TRIGGER.after == TRIGGER.expect == {"prefect.flow-run.*"}
    assert AUTOMATION["enabled"] is True
    assert "nightly" in {one["name"] for one in FILE["deployments"]}


@pytest.mark.parametrize("state", ["Completed", "Verdict pass", "Verdict fail"])
def test_a_judged_night_arms_it_and_puts_it_off(state: str) -> None:
    event = ended(state, "COMPLETED")
    assert TRIGGER.covers(event)
    assert TRIGGER.starts_after(event.event)
    assert TRIGGER.expects(event.event)


@pytest.mark.parametrize(
    "event",
    [
        ended("Failed", "FAILED"),
        ended("Crashed", "CRASHED"),
        ended("Running", "RUNNING"),
        ended("Completed", "COMPLETED", deployment="hourly"),
    ],
)
def test_nothing_else_does(event: ReceivedEvent) -> None:
    assert not TRIGGER.covers(event)
