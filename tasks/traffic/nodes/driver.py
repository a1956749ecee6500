"""Several machines as one data path: each has a HAProxy, release servers and an agent, and all have the same plan.

A node that does not answer keeps nothing from the others: they are changed, and it is said which one is behind. A node
that answers and fails is an error, once all the others were changed. What failure leaves what: ``docs/nodes.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeVar

from tasks.errors import ConflictError, DeliveryError, InputError, ServingError, UnreachableError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.driver import Answer, Driver, Question, Routed
from tasks.traffic.nodes.remote import RemoteNode
from tasks.traffic.plan import Plan

T = TypeVar("T")
Say = Callable[[str], None]
say_in_log: Say = logging.getLogger(__name__).warning
_NONE = Routed(requests=0, failed=0, unanswered=0, waiting=0, is_up=True)


@dataclass(frozen=True, slots=True)
class _Count:
    """What was counted at one node: as it says, and over its restarts."""

    said: Routed
    total: Routed


@dataclass(frozen=True, slots=True)
class NodesDriver:
    """The data path of several machines.

    Args:
        nodes: Each of them; at least one.
        say: Is told which node is behind, in the thread that calls.

    Raises:
        InputError: There is no node.
    """

    nodes: tuple[RemoteNode, ...]
    say: Say = field(default=say_in_log, compare=False)
    _turn: Iterator[int] = field(default_factory=count, compare=False, repr=False)
    _counts: dict[tuple[str, str], _Count] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse to be a data path without machines: every change would succeed."""
        if not self.nodes:
            raise InputError("DELIVERY_NODES names no node; write the URLs of their agents, separated by commas")

    def ensure(self, release: Release) -> None:
        """Have a release run on every node."""
        self._on_every(lambda node: node.ensure(release), f"release {release.short} is not deployed there")

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask a release on one node that answers, each in turn, so that the questions of a suite meet all."""
        return self._on_one(lambda node: node.probe(release, question, timeout_s))

    def apply(self, plan: Plan) -> None:
        """Put a plan into effect on every node, side by side."""
        what = f"revision {plan.revision} of {plan.application} is not in effect there as far as anybody knows"
        self._on_every(lambda node: node.apply(plan), what)

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Return the plan in effect where all nodes that answer agree, else None."""
        seen = self._on_every(lambda node: node.observe(application), f"the plan of {application} is not known there")
        first, *others = seen.values()
        return first if all(other == first for other in others) else None

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask through the data path of one node that answers, each in turn."""
        return self._on_one(lambda node: node.ask(application, unit, question, timeout_s))

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Set the limits of a release's replicas on every node: each may have so many."""
        self._on_every(lambda node: node.scale(release, spec), f"the replicas of {release.short} are not changed there")

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Say who may answer for whom on every node."""
        what = f"who stands in for whom in {application} is not changed there"
        self._on_every(lambda node: node.stand_by(application, proven), what)

    def routed(self, digest: str) -> Routed:
        """Add up what all nodes saw; a node that falls silent, or starts again, takes nothing away from the sum.

        Such a node says nothing about the release, so it is up where it is up on all that answer.
        """
        seen = self._on_every(lambda node: node.routed(digest), f"requests of {digest[:12]} are not counted there")
        is_first = not any(known == digest for _, known in self._counts)
        for url, said in seen.items():
            before = self._counts.get((url, digest))
            if before is not None:
                new = said.since(before.said)
                total = replace(_summed([before.total, new]), waiting=said.waiting, is_up=said.is_up)
            else:  # who was silent at the first reading counts from now on
                total = said if is_first else replace(_NONE, waiting=said.waiting, is_up=said.is_up)
            self._counts[url, digest] = _Count(said, total)
        silent = [known for (url, mine), known in self._counts.items() if mine == digest and url not in seen]
        parts = [self._counts[url, digest].total for url in seen]
        gone = [replace(known.total, waiting=0, is_up=True) for known in silent]
        return _summed([*parts, *gone])

    def running(self, application: str) -> tuple[str, ...]:
        """Name the releases that run on any node."""
        seen = self._on_every(lambda node: node.running(application), f"what runs of {application} is not known there")
        return tuple(dict.fromkeys(digest for digests in seen.values() for digest in digests))

    def retire(self, application: str, digest: str) -> None:
        """Stop a release on every node."""
        self._on_every(lambda node: node.retire(application, digest), f"release {digest[:12]} is not stopped there")

    def ask_every(
        self, application: str, units: Sequence[str], question: Question, timeout_s: float
    ) -> dict[str, list[Answer]]:
        """Ask the data path of every node that answers as each of some users.

        Returns:
            The answers by the URL of the node's agent.

        Raises:
            ServingError: No node answers.
        """
        return self._on_every(
            lambda node: [node.ask(application, unit, question, timeout_s) for unit in units],
            f"nobody knows who answers the users of {application} there",
        )

    def _on_every(self, what: Callable[[RemoteNode], T], otherwise: str) -> dict[str, T]:
        """Do the same on every node, side by side.

        Returns:
            What came of it, by URL, of those that answer.

        Raises:
            DeliveryError: A node that answers failed, or none answers.
        """
        with ThreadPoolExecutor(max_workers=len(self.nodes)) as pool:
            done = list(pool.map(lambda node: _attempt(node, what), self.nodes))
        found = {node.url: result for node, (result, _) in zip(self.nodes, done, strict=True) if result is not None}
        errors = [error for _, error in done if error is not None]
        silent = [error for error in errors if isinstance(error, UnreachableError)]
        failed = [error for error in errors if not isinstance(error, UnreachableError)]
        if len(silent) == len(self.nodes):
            raise self._all_silent(silent)
        for error in silent:
            self.say(f"a node is behind: {otherwise}: {error}")
        if failed:
            # An overtaken plan is overtaken, whatever else went wrong.
            raise next((error for error in failed if isinstance(error, ConflictError)), failed[0])
        return {url: value for url, (value,) in found.items()}

    def _on_one(self, what: Callable[[RemoteNode], T]) -> T:
        start, silent = next(self._turn), list[DeliveryError]()
        for number in range(len(self.nodes)):
            node = self.nodes[(start + number) % len(self.nodes)]
            try:
                return what(node)
            except UnreachableError as error:
                silent.append(error)
        raise self._all_silent(silent)

    def _all_silent(self, errors: Sequence[DeliveryError]) -> ServingError:
        return ServingError(f"none of the {len(self.nodes)} nodes answers; {'; '.join(map(str, errors))}")


def ask_every(
    path: Driver, application: str, units: Sequence[str], question: Question, timeout_s: float
) -> dict[str, list[Answer]]:
    """Ask a data path as each of some users: every node of it, where it has nodes.

    Returns:
        The answers, by what to call the place.

    Raises:
        ServingError: No node answers.
    """
    if isinstance(path, NodesDriver):
        asked = path.ask_every(application, units, question, timeout_s)
        return {f"the data path of node {url}": answers for url, answers in asked.items()}
    return {"the data path": [path.ask(application, unit, question, timeout_s) for unit in units]}


def _attempt(node: RemoteNode, what: Callable[[RemoteNode], T]) -> tuple[tuple[T] | None, DeliveryError | None]:
    try:
        return (what(node),), None
    except DeliveryError as error:
        return None, error


def _summed(parts: Sequence[Routed]) -> Routed:
    return Routed(
        requests=sum(part.requests for part in parts),
        failed=sum(part.failed for part in parts),
        unanswered=sum(part.unanswered for part in parts),
        waiting=sum(part.waiting for part in parts),
        is_up=all(part.is_up for part in parts),
    )
