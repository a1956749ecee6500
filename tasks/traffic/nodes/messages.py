"""What flows and nodes say to each other: one request for each method of a driver, and how an error is carried over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, Protocol

from pydantic import Field

import tasks.errors
from tasks.errors import DeliveryError, ServingError
from tasks.release.model import Autoscaling, Name, Record, Release
from tasks.traffic.driver import Driver, Message
from tasks.traffic.plan import BUCKETS, Plan

LONGEST_S: Final = 600.0
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Timeout = Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]
Asked = Annotated[str, Field(min_length=1, max_length=20_000)] | Annotated[tuple[Message, ...], Field(min_length=1)]


class Request(Protocol):
    """One call of a method of a driver."""

    def run(self, driver: Driver) -> object:
        """Call it and return what it returned."""


class Ensure(Record):
    """``Driver.ensure``."""

    release: Release

    def run(self, driver: Driver) -> None:
        """Call it."""
        driver.ensure(self.release)


class Probe(Record):
    """``Driver.probe``."""

    release: Release
    question: Asked
    timeout_s: Timeout

    def run(self, driver: Driver) -> object:
        """Call it."""
        return driver.probe(self.release, self.question, self.timeout_s)


class PlanRecord(Record):
    """A traffic plan."""

    application: Name
    revision: int = Field(ge=1)
    salt: str
    buckets: tuple[Digest, ...] = Field(min_length=BUCKETS, max_length=BUCKETS)
    author: str
    reason: str
    time: datetime
    flow_run_id: str | None = None


class Apply(Record):
    """``Driver.apply``."""

    plan: PlanRecord

    def run(self, driver: Driver) -> None:
        """Call it."""
        driver.apply(Plan(**dict(self.plan)))


class Observe(Record):
    """``Driver.observe``."""

    application: Name

    def run(self, driver: Driver) -> object:
        """Call it."""
        return driver.observe(self.application)


class Ask(Record):
    """``Driver.ask``."""

    application: Name
    unit: str = Field(min_length=1, max_length=200)
    question: Asked
    timeout_s: Timeout

    def run(self, driver: Driver) -> object:
        """Call it."""
        return driver.ask(self.application, self.unit, self.question, self.timeout_s)


class Scale(Record):
    """``Driver.scale``."""

    release: Release
    spec: Autoscaling

    def run(self, driver: Driver) -> None:
        """Call it."""
        driver.scale(self.release, self.spec)


class StandBy(Record):
    """``Driver.stand_by``."""

    application: Name
    proven: tuple[Digest, ...]

    def run(self, driver: Driver) -> None:
        """Call it."""
        driver.stand_by(self.application, self.proven)


class ReadRouted(Record):
    """``Driver.routed``."""

    digest: Digest

    def run(self, driver: Driver) -> object:
        """Call it."""
        return driver.routed(self.digest)


class ReadRunning(Record):
    """``Driver.running``."""

    application: Name

    def run(self, driver: Driver) -> object:
        """Call it."""
        return driver.running(self.application)


class Retire(Record):
    """``Driver.retire``."""

    application: Name
    digest: Digest

    def run(self, driver: Driver) -> None:
        """Call it."""
        driver.retire(self.application, self.digest)


AnyRequest = Ensure | Probe | Apply | Observe | Ask | Scale | StandBy | ReadRouted | ReadRunning | Retire
REQUESTS: Final[Mapping[str, type[AnyRequest]]] = {
    "ensure": Ensure,
    "probe": Probe,
    "apply": Apply,
    "observe": Observe,
    "ask": Ask,
    "scale": Scale,
    "stand_by": StandBy,
    "routed": ReadRouted,
    "running": ReadRunning,
    "retire": Retire,
}
"""By the method each calls, which is the end of its path."""
_PATHS: Final = {kind: name for name, kind in REQUESTS.items()}


def path_of(request: AnyRequest) -> str:
    """Return where a request is posted to."""
    return f"/v1/{_PATHS[type(request)]}"


class Trouble(Record):
    """An error on its way from a node to a flow.

    Attributes:
        error: Its type, one of ``tasks.errors``.
        message: Its text.
    """

    error: str
    message: str

    @classmethod
    def of(cls, error: DeliveryError) -> Trouble:
        """Return what is said of an error."""
        return cls(error=type(error).__name__, message=str(error))

    def raised_by(self, node: str) -> DeliveryError:
        """Return the same error, with the node in its text; of a type nobody knows here, a ``ServingError``."""
        kind = getattr(tasks.errors, self.error, None)
        known = kind if isinstance(kind, type) and issubclass(kind, DeliveryError) else ServingError
        return known(f"node {node}: {self.message}")
