"""What every data path must be able to do for a rollout.

A driver puts a plan into effect; it never decides one. What it cannot do it says by raising ``UnsupportedError``:
nothing is silently accepted. ``haproxy/`` is the reference, ``nodes/`` several machines of it; how a team writes its
own, and what checks it: ``docs/drivers.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from tasks.release.model import Autoscaling, Record, Release
from tasks.traffic.plan import Plan


class Message(Record):
    """One turn of a conversation that a probe sends."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=20_000)


Question = str | tuple[Message, ...]
"""What a probe asks: one message of a user, or a whole conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request was answered, by whom.

    Attributes:
        status: HTTP status, or 0 where there was no answer at all.
        release_digest: The release that answered, by its own word; empty where it said nothing.
        prompt_sha256: The prompt it applied, likewise.
        text: The answer.
        latency_ms: From request to last byte, milliseconds.
        error: What went wrong, in one line; empty where nothing did.
        input_tokens, output_tokens: As the answer says itself; None is unknown, never 0.
        tries: How often it was asked until there was an answer.
        context: The passage the answer was taken from, as a release tells probes; None where it tells none.
    """

    status: int
    release_digest: str
    prompt_sha256: str
    text: str
    latency_ms: float
    error: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    tries: int = 1
    context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What the data path saw of a release's requests since it last started, whatever the release says itself.

    Attributes:
        requests: Requests that were given to the release and have ended.
        failed: Of these, answered with status 5xx, by the release or in its place.
        unanswered: Of these, given up by the caller before any answer.
        waiting: Requests that wait for their answer at this moment.
        is_up: Whether the data path can reach the release, or could a few seconds ago: one that is started again
            at once is not gone.
    """

    requests: int
    failed: int
    unanswered: int
    waiting: int
    is_up: bool

    def since(self, earlier: Routed) -> Routed:
        """Return what came after an earlier reading; after a restart of the data path, what came since that."""
        if self.requests < earlier.requests:
            return self
        return Routed(
            requests=self.requests - earlier.requests,
            failed=max(0, self.failed - earlier.failed),
            unanswered=max(0, self.unanswered - earlier.unanswered),
            waiting=self.waiting,
            is_up=self.is_up,
        )


class Driver(Protocol):
    """A data path."""

    def ensure(self, release: Release) -> None:
        """Make a release able to answer, without giving it any traffic; doing it again changes nothing.

        Raises:
            ServingError: It does not come up; the message says where its output is.
        """

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask a release directly, past the traffic plan; the request counts as nobody's interaction."""

    def apply(self, plan: Plan) -> None:
        """Put a plan into effect: atomically, and so that it survives a restart of the data path.

        Raises:
            ConflictError: A later revision is in effect already; nothing was changed.
            ServingError: A release of the plan is not served, or the data path does not take the plan.
        """

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Return the digest of each of the 1,000 buckets as the data path has them now, None where it has none."""

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask an application through the data path, as the user ``unit`` would; nobody's interaction either."""

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Give a release the replicas its autoscaling allows.

        Raises:
            UnsupportedError: The data path cannot.
        """

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Say which releases may answer in place of one of the application whose own servers are all gone.

        Args:
            application: What users call.
            proven: Their digests, the best first; only those that run count. None: nobody answers in place of another.

        Raises:
            UnsupportedError: The data path cannot.
        """

    def routed(self, digest: str) -> Routed:
        """Return what the data path saw of a release's requests.

        Raises:
            ServingError: The data path does not know the release, or does not answer.
            UnsupportedError: Nobody counts them.
        """

    def running(self, application: str) -> tuple[str, ...]:
        """Return the digests of the releases of an application that are able to answer, with users or without."""

    def retire(self, application: str, digest: str) -> None:
        """Stop a release that no plan names any more; one that does not run is no error.

        Raises:
            ServingError: The plan in effect still gives it traffic.
        """
